//! Attempts to get in, over real TLS: every one is refused, with its code, and counted. The table is that
//! of docs/security.md.

use crate::door::{Guarded, Header, House, Issuer, Someone, now, put};
use crate::door::{connect, connect_as, create, job, list, who, work};
use crate::kit::{soon, until};
use espalier_proto::{ApiError, v1};
use espalier_tls::{Ca, Identity, Issued, Kind, Validity};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// What a connection gets that does not come about.
const NO_CONNECTION: &str = "no connection";

/// The attempts so far.
struct Table<'a> {
    node: &'a Guarded,
    rows: Vec<String>,
    /// What was counted up to the last row.
    counts: BTreeMap<String, u64>,
}

impl Table<'_> {
    /// Notes one that must have been answered with this code, and counted as this.
    fn refused<T>(&mut self, what: &str, got: Result<T, Status>, code: &str, counted: &str) {
        let Err(status) = got else {
            panic!("{what}: got in");
        };
        let error = ApiError::from(&status);
        assert_eq!(error.kind.as_str(), code, "{what}: {error:?}");
        assert!(!error.message.contains("esp_"), "{what}: {error:?}");
        self.row(what, code, counted);
    }

    fn row(&mut self, what: &str, code: &str, counted: &str) {
        if !counted.is_empty() {
            let count = self.node.metrics.refusals(counted);
            let before = self.counts.insert(counted.to_owned(), count);
            assert!(count > before.unwrap_or(0), "{what}: not counted");
        }
        self.rows.push(format!("| {what} | {code} | {counted} |"));
    }
}

// Promise: whoever has no business here does not get in: not by the wire, not by certificate, token or
// forged token, not beyond a role, a namespace or a name, not by size or by number; each attempt has its
// code and is counted, the audit log names it, and no token is in anything that is written or answered.
#[tokio::test]
async fn nobody_gets_in() {
    let house = House::new();
    let flags = house.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let node = Guarded::start(house.directory.path(), &flags).await;
    let open = connect(&node, &house.client("none", None)).await.unwrap();
    let mut table = Table {
        node: &node,
        rows: Vec::new(),
        counts: BTreeMap::new(),
    };
    by_the_wire(&house, &mut table).await;
    by_token(&house, &open, &mut table).await;
    by_forged_token(&house, &open, &mut table).await;
    by_certificate(&house, &mut table).await;
    beyond_a_role(&open, &mut table).await;
    by_size_and_number(&open, &mut table).await;
    assert!(table.rows.len() >= 25, "{}", table.rows.len());

    let documented = include_str!("../../../docs/security.md");
    for row in &table.rows {
        let all = table.rows.join("\n");
        assert!(
            documented.contains(row),
            "docs/security.md lacks {row}; the table is\n{all}"
        );
    }
    let audit = std::fs::read_to_string(house.path("audit.jsonl")).unwrap();
    assert!(audit.contains("TOKEN_UNKNOWN") && audit.contains("WRONG_WORKER"));
    assert!(!audit.contains("esp_"), "a token was written down");
    drop(open);
    node.stop().await;
}

async fn by_the_wire(house: &House, table: &mut Table<'_>) {
    let node = table.node;
    let mut plain = TcpStream::connect(node.address).await.unwrap();
    plain
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _ = soon("an end", plain.read_to_end(&mut answer)).await;
    table.row("plain text on the port of TLS", NO_CONNECTION, "");

    let mut slow = TcpStream::connect(node.address).await.unwrap();
    slow.write_all(&[0x16, 3, 1]).await.unwrap();
    let _ = soon("an end", slow.read_to_end(&mut answer)).await;
    table.row("a TLS handshake that never ends", NO_CONNECTION, "");

    let ada = Identity::new(Kind::User, "ada").unwrap();
    let day = Duration::from_secs(24 * 3600);
    let other = Ca::create("espalier", 2).unwrap();
    let valid = |from: SystemTime, until: SystemTime| {
        let valid = Validity { from, until };
        house.ca.sign(Some(&ada), &[], valid).unwrap()
    };
    let now = SystemTime::now();
    for (what, shown) in [
        (
            "a certificate of another CA of the same name",
            other.issue(Kind::User, "ada", &[], 2).unwrap(),
        ),
        (
            "a certificate that has expired",
            valid(now - day * 2, now - day),
        ),
        (
            "a certificate that is not valid yet",
            valid(now + day, now + day * 2),
        ),
    ] {
        // With TLS 1.3 the client learns of it with its first call.
        let got = match connect_as(node, house, &shown).await {
            Ok(channel) => who(&Someone::new(&channel, Header::none())).await.map(drop),
            Err(_) => Err(Status::unavailable("")),
        };
        // Not even asked who it is.
        let status = got.unwrap_err();
        assert_ne!(status.code(), Code::Unauthenticated, "{what}: {status}");
        table.row(what, NO_CONNECTION, "");
    }
}

async fn by_token(house: &House, open: &Channel, table: &mut Table<'_>) {
    const CODE: &str = "UNAUTHENTICATED";
    let with = |header: Header| Someone::new(open, header);
    let gone = with(Header::bearer("esp_gone"));
    assert_eq!(who(&gone).await.unwrap().name, "gone");
    let tokens = std::fs::read_to_string(house.path("tokens.yaml")).unwrap();
    let hash = tokens.split('"').nth(3).unwrap();
    for (what, header, counted) in [
        (
            "no certificate and no token",
            Header::none(),
            "no_credentials",
        ),
        (
            "a token that nobody made",
            Header::bearer("esp_x"),
            "token_unknown",
        ),
        (
            "the hash in the file as a token",
            Header::bearer(hash),
            "token_unknown",
        ),
        (
            "a token that has expired",
            Header::bearer("esp_late"),
            "token_expired",
        ),
        (
            "a name and a password",
            Header::of("authorization", "Basic YWRtaW46YWRtaW4="),
            "no_credentials",
        ),
        (
            "a token in the page's cookie, past the page",
            Header::of("cookie", "espalier_session=esp_admin"),
            "no_credentials",
        ),
    ] {
        table.refused(what, who(&with(header)).await, CODE, counted);
    }
    let less = tokens.split("- name: \"gone\"").next().unwrap().to_owned();
    let rest = tokens.split("- name: \"late\"").nth(1).unwrap();
    let less = format!("{less}- name: \"late\"{rest}");
    put(&house.path("tokens.yaml"), &less);
    let what = "a token that was taken out of the file, replayed";
    table.refused(what, who(&gone).await, CODE, "token_unknown");
}

async fn by_forged_token(house: &House, open: &Channel, table: &mut Table<'_>) {
    const CODE: &str = "UNAUTHENTICATED";
    let with = |token: &str| Someone::new(open, Header::bearer(token));
    let (issuer, stranger) = (&house.issuer, Issuer::new());
    let good = issuer.token(&json!({}), &json!({}));
    assert_eq!(who(&with(&good)).await.unwrap().method, "oidc");
    let unsigned = format!("{}.", good.rsplit_once('.').unwrap().0);
    let head = |header| issuer.token(&header, &json!({}));
    let says = |claims| issuer.token(&json!({}), &claims);
    for (what, token, counted) in [
        (
            "a JWT with `alg: none`",
            head(json!({"alg": "none"})),
            "token_invalid",
        ),
        (
            "a JWT with `alg: HS256`",
            head(json!({"alg": "HS256"})),
            "token_invalid",
        ),
        ("a JWT without its signature", unsigned, "token_invalid"),
        (
            "a JWT that somebody else signed",
            stranger.token(&json!({}), &json!({})),
            "token_invalid",
        ),
        (
            "a JWT of an unknown key",
            head(json!({"kid": "x"})),
            "token_invalid",
        ),
        (
            "a JWT of another issuer",
            says(json!({"iss": "https://x"})),
            "token_foreign",
        ),
        (
            "a JWT for somebody else",
            says(json!({"aud": "x"})),
            "token_foreign",
        ),
        (
            "a JWT that has expired",
            says(json!({"exp": now() - 61})),
            "token_expired",
        ),
        (
            "a JWT without an end",
            says(json!({"exp": null})),
            "token_expired",
        ),
        (
            "a JWT of tomorrow",
            says(json!({"nbf": now() + 86400})),
            "token_early",
        ),
    ] {
        table.refused(what, who(&with(&token)).await, CODE, counted);
    }
    let nobody = with(&says(json!({"espalier_roles": "worker"})));
    let what = "a JWT that names no role of people";
    table.refused(
        what,
        list(&nobody).await,
        "PERMISSION_DENIED",
        "role_denied",
    );
}

async fn by_certificate(house: &House, table: &mut Table<'_>) {
    const CODE: &str = "PERMISSION_DENIED";
    let node = table.node;
    let shown = async |name: &str, issued: Issued| {
        let channel = connect(node, &house.client(name, Some(&issued))).await;
        Someone::new(&channel.unwrap(), Header::none())
    };
    let ada = shown("ada", house.ca.issue(Kind::User, "ada", &[], 2).unwrap()).await;
    assert_eq!(who(&ada).await.unwrap().method, "certificate");
    let eve = shown("eve", house.ca.issue(Kind::User, "eve", &[], 2).unwrap()).await;
    let what = "a user's certificate that no role was given to";
    table.refused(what, list(&eve).await, CODE, "role_denied");
    let other = shown("b", house.ca.issue(Kind::Coordinator, "b", &[], 2).unwrap()).await;
    let what = "a coordinator's certificate, to look at jobs";
    table.refused(what, list(&other).await, CODE, "role_denied");
    let worker = shown("w", house.ca.issue(Kind::Worker, "w-1", &[], 2).unwrap()).await;
    work(&worker, "w-1").await.unwrap();
    let what = "a worker's certificate, to look at jobs";
    table.refused(what, list(&worker).await, CODE, "role_denied");
    let what = "a worker under the name of another one";
    table.refused(what, work(&worker, "w-2").await, CODE, "wrong_worker");
    let pool = shown("pool", house.ca.issue_shared("pool", 2).unwrap()).await;
    work(&pool, "pool-7").await.unwrap();
    let what = "a worker of a pool under a name outside of it";
    table.refused(what, work(&pool, "pools-1").await, CODE, "wrong_worker");
    let what = "a user's certificate, to work";
    table.refused(what, work(&ada, "ada").await, CODE, "role_denied");
}

async fn beyond_a_role(open: &Channel, table: &mut Table<'_>) {
    const DENIED: &str = "PERMISSION_DENIED";
    const NOT_FOUND: &str = "NOT_FOUND";
    let with = |token: &str| Someone::new(open, Header::bearer(token));
    let (admin, vera, sam) = (with("esp_admin"), with("esp_vera"), with("esp_sam"));
    create(&sam, job("own", "vision")).await.unwrap();
    create(&admin, job("foreign", "text")).await.unwrap();
    let name = || "foreign".to_owned();

    let got = create(&vera, job("more", "vision")).await;
    table.refused("a viewer submits", got, DENIED, "role_denied");
    let request = v1::CancelJobRequest { name: "own".into() };
    let got = vera.jobs().cancel_job(request).await;
    table.refused("a viewer cancels", got, DENIED, "role_denied");
    let request = v1::DrainWorkerRequest { name: "w-1".into() };
    let got = sam.cluster().drain_worker(request).await;
    table.refused("a submitter drains a worker", got, DENIED, "role_denied");
    let got = work(&admin, "admin").await;
    table.refused("an admin's token, to work", got, DENIED, "role_denied");
    let got = work(&with("esp_one"), "two").await;
    table.refused(
        "a worker's token under another name",
        got,
        DENIED,
        "wrong_worker",
    );
    let got = create(&sam, job("more", "text")).await;
    table.refused(
        "a job into another namespace",
        got,
        DENIED,
        "namespace_denied",
    );

    let got = create(&sam, job("foreign", "vision")).await;
    table.refused(
        "a name that another namespace's job has",
        got,
        DENIED,
        "name_unavailable",
    );

    let got = sam.jobs().get_job(v1::GetJobRequest { name: name() }).await;
    table.refused("a look at another namespace's job", got, NOT_FOUND, "");
    let request = v1::CancelJobRequest { name: name() };
    let got = sam.jobs().cancel_job(request).await;
    table.refused("to cancel another namespace's job", got, NOT_FOUND, "");
    let request = v1::DeleteJobRequest { name: name() };
    let got = sam.jobs().delete_job(request).await;
    table.refused("to delete another namespace's job", got, NOT_FOUND, "");
    let request = v1::WatchJobRequest {
        name: name(),
        after_sequence: 0,
    };
    let got = vera.jobs().watch_job(request).await;
    table.refused("to watch another namespace's job", got, NOT_FOUND, "");
    let request = v1::TailJobLogsRequest {
        name: name(),
        ..Default::default()
    };
    let got = vera.jobs().tail_job_logs(request).await;
    table.refused("another namespace's log", got, NOT_FOUND, "");
    let seen = list(&vera).await.unwrap();
    assert_eq!(seen.jobs.len(), 1, "a list shows its own namespaces only");
}

async fn by_size_and_number(open: &Channel, table: &mut Table<'_>) {
    const EXHAUSTED: &str = "RESOURCE_EXHAUSTED";
    let with = |token: &str| Someone::new(open, Header::bearer(token));
    let (sam, vera) = (with("esp_sam"), with("esp_vera"));
    let fat = |bytes: usize| v1::JobSpec {
        output: "x".repeat(bytes),
        ..job("fat", "vision")
    };
    let got = create(&sam, fat(5 << 20)).await;
    table.refused(
        "a message of 5 MiB",
        got,
        "OUT_OF_RANGE",
        "message_too_large",
    );
    let got = create(&sam, fat(9000)).await;
    table.refused("a job that is too large", got, EXHAUSTED, "job_too_large");
    let mut secret = job("secret", "vision");
    secret.tasks[0].data.as_mut().unwrap().train = vec!["https://me:pass@host/a.csv".into()];
    let got = create(&sam, secret).await;
    if let Err(status) = &got {
        assert!(!status.message().contains("pass@"), "{status}");
    }
    table.refused("a password in a URL of a job", got, "INVALID_ARGUMENT", "");
    let got = create(&sam, job("escape", "../vision")).await;
    table.refused("a path as a namespace", got, "INVALID_ARGUMENT", "");

    let mut watches = Vec::new();
    let watch = async || {
        let request = v1::WatchJobRequest {
            name: "own".into(),
            after_sequence: 0,
        };
        vera.jobs().watch_job(request).await
    };
    for _ in 0..3 {
        watches.push(watch().await.unwrap());
    }
    let counted = "too_many_caller_watches";
    table.refused("one watch too many", watch().await, EXHAUSTED, counted);
    drop(watches);
    until("a place", async || watch().await.ok()).await;

    let flood = with("esp_flood");
    let mut got = who(&flood).await;
    for _ in 0..100_000 {
        if got.is_err() {
            break;
        }
        got = who(&flood).await;
    }
    table.refused("calls without a pause", got, EXHAUSTED, "too_fast");
    // Others are not held up by it.
    who(&with("esp_admin")).await.unwrap();
}
