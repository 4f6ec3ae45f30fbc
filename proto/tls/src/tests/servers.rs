//! Whom a server lets through.

use super::{HOSTS, Place, Server, client, echo, soon};
use crate::limits::reason;
use crate::{Ca, ClientFiles, ClientTls, Identity, Kind, Limits, ServerTls, TlsError, Validity};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncReadExt};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn over() -> Validity {
    let now = SystemTime::now();
    Validity {
        from: now - 2 * DAY,
        until: now - DAY,
    }
}

fn to_come() -> Validity {
    let now = SystemTime::now();
    Validity {
        from: now + DAY,
        until: now + 2 * DAY,
    }
}

// Promise: a server knows who calls by the certificate, and who is of another domain is nobody.
#[tokio::test]
async fn who_calls() {
    let (place, ca) = (Place::new(), Ca::create("espalier", 1).unwrap());
    let mut server = Server::tls(&place.server(&ca), Limits::default()).await;
    let holders = [
        (ca.issue(Kind::Worker, "gpu-1", &[], 1), "worker/gpu-1"),
        (ca.issue_shared("gpu", 1), "worker/gpu-*"),
        (ca.issue(Kind::User, "ada", &[], 1), "user/ada"),
        (ca.issue(Kind::Admin, "root", &[], 1), "admin/root"),
        (ca.issue(Kind::Operator, "op", &[], 1), "operator/op"),
        (ca.issue(Kind::Coordinator, "a", &HOSTS, 1), "coordinator/a"),
    ];
    for (issued, expected) in holders {
        let directory = place.put("holder", &issued.unwrap());
        let _open = server.call(&client(&directory)).await.unwrap();
        let caller = server.caller().await;
        assert!(caller.encrypted && caller.address.ip().is_loopback());
        assert_eq!(caller.identity.unwrap().to_string(), expected);
    }
    let identity = Identity::new(Kind::User, "ada").unwrap();
    let ca = ca.trust_domain("elsewhere").unwrap();
    let strange = ca.sign(Some(&identity), &[], Validity::days(1)).unwrap();
    let directory = place.put("strange", &strange);
    let _open = server.call(&client(&directory)).await.unwrap();
    assert_eq!(server.caller().await.identity, None);
}

// Promise: who shows nothing, or something that does not hold, is not let through, is told why, and is
// counted.
#[tokio::test]
async fn who_is_not_let_through() {
    let (place, ca) = (Place::new(), Ca::create("espalier", 1).unwrap());
    let files = place.server(&ca);
    let mut server = Server::tls(&files, Limits::default()).await;
    let trusted = files.client_ca.clone().unwrap();
    let other = Ca::create("espalier", 1).unwrap();
    let ada = Identity::new(Kind::User, "ada");
    let foreign = place.put("foreign", &other.issue(Kind::User, "ada", &[], 1).unwrap());
    let expired = place.put("expired", &ca.sign(ada.as_ref(), &[], over()).unwrap());
    let early = place.put("early", &ca.sign(ada.as_ref(), &[], to_come()).unwrap());
    for (own, word) in [
        (None, "wants a certificate"),
        (Some(&foreign), "does not trust the CA"),
        (Some(&expired), "not valid now"),
        (Some(&early), "not valid now"),
    ] {
        let own = own.map(|path| path.as_path());
        let error = server.careless(&trusted, own).await.unwrap_err();
        assert!(error.contains(word), "{own:?}: {error}");
        assert_eq!(server.refusal().await, reason::HANDSHAKE);
    }
    assert!(server.callers.try_recv().is_err(), "somebody came in");
    let right = place.put("right", &ca.issue(Kind::User, "ada", &[], 1).unwrap());
    server.call(&client(&right)).await.unwrap();
}

// Promise: where certificates are optional, who shows none is nobody, and a wrong one is still refused.
#[tokio::test]
async fn optional_certificates() {
    let (place, ca) = (Place::new(), Ca::create("espalier", 1).unwrap());
    let files = place.server(&ca);
    let trusted = files.client_ca.clone().unwrap();
    let mut server = Server::start(Limits::default(), |listener, limits| {
        let server = ServerTls::load(&files).unwrap().optional_clients().unwrap();
        server.incoming(listener, limits)
    })
    .await;
    server.careless(&trusted, None).await.unwrap();
    assert_eq!(server.caller().await.identity, None);
    let other = Ca::create("espalier", 1).unwrap();
    let foreign = place.put("foreign", &other.issue(Kind::User, "ada", &[], 1).unwrap());
    let refused = server.careless(&trusted, Some(&foreign)).await;
    assert!(refused.is_err());
}

/// Waits until a connection is at its end.
async fn ends(stream: &mut (impl AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ = soon("the end", stream.read_to_end(&mut rest)).await;
}

// Promise: new certificates are taken up by new connections, what the old CA signed is refused and its
// connection ends, that of another one goes on, and files that don't load leave the last good ones in force.
#[tokio::test]
async fn rotation() {
    let (place, old) = (Place::new(), Ca::create("espalier", 1).unwrap());
    let files = place.server(&old);
    let limits = Limits {
        reload: Duration::ZERO,
        ..Limits::default()
    };
    let mut server = Server::tls(&files, limits).await;
    let before = place.put("before", &old.issue(Kind::User, "ada", &[], 1).unwrap());
    let before = client(&before);
    let mut open = server.call(&before).await.unwrap();
    let mut standing = server.caller().await.standing;
    assert!(!standing.is_void());

    let new = Ca::create("espalier", 1).unwrap();
    place.server(&new);
    let after = place.put("after", &new.issue(Kind::User, "ada", &[], 1).unwrap());
    let mut newer = server.call(&client(&after)).await.unwrap();
    let mut lasting = server.caller().await.standing;
    let error = server.call(&before).await.unwrap_err();
    assert!(error.contains("not trusted here"), "{error}");
    soon("the end of trust", standing.voided()).await;
    ends(&mut open).await;

    for bad in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n"] {
        std::fs::write(&files.cert, bad).unwrap();
        server.call(&client(&after)).await.unwrap();
    }
    place.server(&new);
    server.call(&client(&after)).await.unwrap();
    echo(&mut newer).await.unwrap();
    assert!(!lasting.is_void());
    // A third CA: now it is the newer one's turn.
    place.server(&Ca::create("espalier", 1).unwrap());
    soon("the end of trust", lasting.voided()).await;
    ends(&mut newer).await;
}

// Promise: a connection ends soon after its certificate does, and one without a certificate does not.
#[tokio::test]
async fn the_end_of_a_certificate() {
    let (place, ca) = (Place::new(), Ca::create("espalier", 1).unwrap());
    let files = place.server(&ca);
    let trusted = place.put("trusted", &ca.issue_server(&HOSTS, 1).unwrap());
    let limits = Limits {
        reload: Duration::ZERO,
        ..Limits::default()
    };
    let mut server = Server::start(limits, |listener, limits| {
        let server = ServerTls::load(&files).unwrap().optional_clients().unwrap();
        server.incoming(listener, limits)
    })
    .await;
    let nobody = ClientFiles {
        ca: Some(trusted.join("ca.crt")),
        ..ClientFiles::default()
    };
    let nobody = ClientTls::load(&nobody).unwrap();
    let mut without = server.call(&nobody).await.unwrap();
    let lasting = server.caller().await.standing;
    let now = SystemTime::now();
    let short = Validity {
        from: now - DAY,
        until: now + Duration::from_secs(5),
    };
    let ada = Identity::new(Kind::User, "ada");
    let shown = place.put("short", &ca.sign(ada.as_ref(), &[], short).unwrap());
    let mut open = server.call(&client(&shown)).await.unwrap();
    let mut standing = server.caller().await.standing;
    soon("the end of the certificate", standing.voided()).await;
    assert!(SystemTime::now() > now + Duration::from_secs(4), "too soon");
    ends(&mut open).await;
    echo(&mut without).await.unwrap();
    assert!(!lasting.is_void());
}

// Promise: files that can't be served with are refused at the start, by name.
#[test]
fn files() {
    let (place, ca) = (Place::new(), Ca::create("espalier", 1).unwrap());
    let good = place.server(&ca);
    let load = |change: &dyn Fn(&mut crate::ServerFiles)| {
        let mut files = good.clone();
        change(&mut files);
        ServerTls::load(&files).unwrap_err()
    };
    let other = place.put("other", &ca.issue_server(&HOSTS, 1).unwrap());
    let expired = place.put("expired", &ca.sign(None, &HOSTS, over()).unwrap());
    let early = place.put("early", &ca.sign(None, &HOSTS, to_come()).unwrap());
    let error = load(&|files| files.key = other.join("tls.key"));
    assert!(matches!(error, TlsError::Pair { .. }), "{error}");
    let error = load(&|files| files.key = other.join("tls.crt"));
    assert!(error.to_string().contains("private key"), "{error}");
    let error = load(&|files| files.cert = other.join("tls.key"));
    assert!(error.to_string().contains("no certificate"), "{error}");
    let error = load(&|files| files.client_ca = Some(other.join("missing")));
    assert!(error.to_string().contains("missing"), "{error}");
    let error = load(&|files| files.cert = expired.join("tls.crt"));
    assert!(matches!(error, TlsError::Expired { .. }), "{error}");
    let error = load(&|files| files.cert = early.join("tls.crt"));
    assert!(matches!(error, TlsError::NotYet { .. }), "{error}");
}
