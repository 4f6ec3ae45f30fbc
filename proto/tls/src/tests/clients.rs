//! Whom a client trusts, and what it is told.

use super::{HOSTS, Place, Server, client, soon};
use crate::limits::reason;
use crate::{Ca, ClientFiles, ClientTls, Kind, Limits, TlsError, inspect};
use tonic::body::Body;
use tonic::codegen::http::Request;
use tonic::transport::Endpoint;
use tower::ServiceExt;

// Promise: a server of another CA or another name is not called, and the client is told which.
#[tokio::test]
async fn who_is_not_called() {
    let (place, ca) = (Place::new(), Ca::create("espalier", 1).unwrap());
    let server = Server::tls(&place.server(&ca), Limits::default()).await;
    let other = Ca::create("espalier", 1).unwrap();
    let foreign = place.put("foreign", &other.issue(Kind::User, "ada", &[], 1).unwrap());
    let error = server.call(&client(&foreign)).await.unwrap_err();
    assert!(error.contains("not trusted here"), "{error}");
    let right = place.put("right", &ca.issue(Kind::User, "ada", &[], 1).unwrap());
    let named = |name: &str| ClientFiles {
        ca: Some(right.join("ca.crt")),
        cert: Some(right.join("tls.crt")),
        key: Some(right.join("tls.key")),
        server_name: Some(name.to_owned()),
    };
    let wrong = ClientTls::load(&named("elsewhere.lan")).unwrap();
    let error = server.call(&wrong).await.unwrap_err();
    assert!(error.contains("another name"), "{error}");
    let right = ClientTls::load(&named("localhost")).unwrap();
    server.call(&right).await.unwrap();
}

// Promise: TLS to a port of plain text is told so.
#[tokio::test]
async fn tls_to_plain_text() {
    let (place, ca) = (Place::new(), Ca::create("espalier", 1).unwrap());
    let own = place.put("own", &ca.issue(Kind::User, "ada", &[], 1).unwrap());
    let mut server = Server::plain(Limits::default()).await;
    let error = server.call(&client(&own)).await.unwrap_err();
    // It sends a hello back, which no server does.
    assert!(error.contains(&server.address.to_string()), "{error}");
    let caller = server.caller().await;
    assert!(!caller.encrypted && caller.identity.is_none());
}

// Promise: half a pair and files of something else are refused before anything is called; what is right
// becomes an endpoint, and plain text needs nothing.
#[tokio::test]
async fn files() {
    let (place, ca) = (Place::new(), Ca::create("espalier", 1).unwrap());
    let own = place.put("own", &ca.issue(Kind::User, "ada", &[], 1).unwrap());
    let file = |name: &str| Some(own.join(name));
    let half = ClientFiles {
        cert: file("tls.crt"),
        ..ClientFiles::default()
    };
    let error = ClientTls::load(&half).unwrap_err().to_string();
    assert!(error.contains("--tls-key"), "{error}");
    let mixed = ClientFiles {
        ca: file("tls.key"),
        ..ClientFiles::default()
    };
    let error = ClientTls::load(&mixed).unwrap_err();
    assert!(matches!(error, TlsError::Content { .. }), "{error}");
    let secure = Endpoint::from_static("https://127.0.0.1:1");
    let given = client(&own);
    assert!(given.endpoint(secure.clone()).is_ok());
    let plain = Endpoint::from_static("http://127.0.0.1:1");
    assert!(ClientTls::default().endpoint(plain).is_ok());
    assert!(!ClientTls::default().is_given() && given.is_given());
    std::fs::remove_file(own.join("tls.key")).unwrap();
    let error = given.endpoint(secure).unwrap_err().to_string();
    assert!(error.contains("tls.key"), "{error}");
}

// Promise: a channel that is kept for long reads new files when it connects again.
#[tokio::test]
async fn a_channel_reads_its_files_again() {
    let (place, ca) = (Place::new(), Ca::create("espalier", 1).unwrap());
    let mut server = Server::tls(&place.server(&ca), Limits::default()).await;
    let other = Ca::create("espalier", 1).unwrap();
    let own = place.put("own", &ca.issue(Kind::User, "ada", &[], 1).unwrap());
    let own = client(&own);
    let address = format!("https://{}", server.address);
    let channel = own.lazy(&address, |endpoint| endpoint).unwrap();
    let ask = async || {
        let request = Request::builder().uri("/any.Service/Call");
        let request = request.body(Body::empty()).unwrap();
        let answer = soon("an answer", channel.clone().oneshot(request)).await;
        answer.map(drop).map_err(|error| format!("{error:?}"))
    };
    // The new files are another CA's, which the server does not know: they were read.
    place.put("own", &other.issue(Kind::User, "ada", &[], 1).unwrap());
    let error = ask().await.unwrap_err();
    assert!(error.contains("not trusted here"), "{error}");
    assert_eq!(server.refusal().await, reason::HANDSHAKE);
    place.put("own", &ca.issue(Kind::User, "ada", &[], 1).unwrap());
    // The server sends HTTP/2 back as it came, which is no answer; it was reached.
    assert!(ask().await.is_err());
    let identity = server.caller().await.identity.unwrap();
    assert_eq!(identity.to_string(), "user/ada");
}

// Promise: a CA that was saved signs as before, and one whose key is another's does not load.
#[tokio::test]
async fn a_saved_ca() {
    let (place, ca) = (Place::new(), Ca::create("espalier", 1).unwrap());
    let directory = place.0.path().join("ca");
    ca.save(&directory).unwrap();
    let again = Ca::load(&directory).unwrap();
    assert!(matches!(
        again.save(&directory),
        Err(TlsError::Exists { .. })
    ));
    let server = Server::tls(&place.server(&ca), Limits::default()).await;
    let own = place.put("own", &again.issue(Kind::User, "ada", &[], 1).unwrap());
    server.call(&client(&own)).await.unwrap();
    let shown = inspect(&own.join("tls.crt")).unwrap();
    assert_eq!(shown[0].uris, ["spiffe://espalier/user/ada"]);
    assert!(!shown[0].authority && shown[0].from < shown[0].until);
    let shown = inspect(&place.0.path().join("server/tls.crt")).unwrap();
    assert_eq!(shown[0].hosts, HOSTS.map(str::to_owned).to_vec());

    let other = Ca::create("espalier", 1).unwrap();
    let elsewhere = place.0.path().join("elsewhere");
    other.save(&elsewhere).unwrap();
    std::fs::copy(elsewhere.join("tls.key"), directory.join("tls.key")).unwrap();
    let error = Ca::load(&directory).unwrap_err();
    assert!(matches!(error, TlsError::Pair { .. }), "{error}");
    let leaf = Ca::load(&own).unwrap_err().to_string();
    assert!(leaf.contains("no CA"), "{leaf}");
}

// Promise: names that can't stand in a certificate are refused.
#[test]
fn names() {
    let ca = Ca::create("espalier", 1).unwrap();
    assert!(ca.issue(Kind::User, "a/b", &[], 1).is_err());
    assert!(ca.issue_shared("", 1).is_err());
    for host in ["a:1", "a b", "https://a", ""] {
        assert!(ca.issue_server(&[host], 1).is_err(), "{host:?}");
    }
    assert!(ca.issue_server(&["*.workers.svc", "::1"], 1).is_ok());
    assert!(Ca::create("a/b", 1).is_err());
}
