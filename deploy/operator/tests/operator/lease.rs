//! Of several operators one works.

use crate::apiserver::{ApiServer, Fault};
use crate::kit::until;
use espalier_operator::health::Health;
use espalier_operator::lease::{Elector, Timing};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};

const PATH: &str = "apis/coordination.k8s.io/v1/namespaces/espalier/leases/op";

fn elector(api: &ApiServer, me: &str) -> Elector {
    // The shortest that the API takes.
    let timing = Timing {
        lease: Duration::from_secs(1),
        renew: Duration::from_millis(600),
        retry: Duration::from_millis(20),
    };
    let health = Arc::new(Health::default());
    Elector::new(api.client(), ("espalier", "op"), me, timing, health)
}

// Promise: one holds the lease; a write in between costs it one try, not the lease; who does not renew it
// loses it to another, and not before it has lasted.
#[tokio::test]
async fn one_at_a_time() {
    let api = ApiServer::start().await;
    let (mut a, mut b) = (elector(&api, "a"), elector(&api, "b"));
    assert!(a.attempt().await.unwrap());
    assert!(!b.attempt().await.unwrap());
    assert!(a.attempt().await.unwrap());
    api.fail("PUT", "leases/op", Fault::Meddle);
    assert!(a.attempt().await.is_err());
    assert!(a.attempt().await.unwrap());
    api.fail("GET", "leases/op", Fault::Refuse(500));
    assert!(a.attempt().await.is_err());
    assert!(!b.attempt().await.unwrap());
    let b = Mutex::new(b);
    let began = tokio::time::Instant::now();
    until("the lease running out", async || {
        b.lock().await.attempt().await.unwrap().then_some(())
    })
    .await;
    assert!(began.elapsed() >= Duration::from_millis(900));
    assert!(!a.attempt().await.unwrap());
    let lease = api.get(PATH).unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "b");
    assert_eq!(lease["spec"]["leaseTransitions"], 2);
}

// Promise: of two that begin at the same moment one gets it.
#[tokio::test]
async fn at_the_same_moment() {
    let api = ApiServer::start().await;
    for round in 0..10 {
        let key = crate::apiserver::key(PATH);
        api.with(|store| store.delete(&key, &serde_json::Value::Null).ok());
        let (mut a, mut b) = (elector(&api, "a"), elector(&api, "b"));
        let (a, b) = tokio::join!(a.attempt(), b.attempt());
        assert!(a.unwrap() != b.unwrap(), "round {round}");
    }
}

// Promise: who can't reach the API server stops leading, and one that ends gives the lease to the next.
#[tokio::test]
async fn the_end_of_a_lead() {
    let api = ApiServer::start().await;
    let (stop, stopping) = watch::channel(false);
    let (leads, leading) = watch::channel(false);
    let running = tokio::spawn(elector(&api, "a").run(leads, stopping));
    let is = async |wanted: bool| {
        let leading = leading.clone();
        until("the lead", async || {
            (*leading.borrow() == wanted).then_some(())
        })
        .await;
    };
    is(true).await;
    for _ in 0..200 {
        api.fail("GET", "leases/op", Fault::Refuse(500));
    }
    is(false).await;
    api.spare();
    is(true).await;
    stop.send_replace(true);
    running.await.unwrap();
    assert!(!*leading.borrow());
    // Without waiting until it has run out.
    assert!(elector(&api, "b").attempt().await.unwrap());
}

// Promise: clocks need not agree: how old a renewal says it is does not matter, only for how long it was seen.
#[tokio::test]
async fn clocks_that_disagree() {
    for when in ["2001-01-01T00:00:00.000000Z", "2101-01-01T00:00:00.000000Z"] {
        let api = ApiServer::start().await;
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": "op" },
            "spec": { "holderIdentity": "a", "leaseDurationSeconds": 1, "renewTime": when },
        });
        let key = crate::apiserver::key(PATH);
        api.with(|store| store.create(&key, lease).unwrap());
        let b = Mutex::new(elector(&api, "b"));
        let began = tokio::time::Instant::now();
        until("the lease running out", async || {
            b.lock().await.attempt().await.unwrap().then_some(())
        })
        .await;
        assert!(began.elapsed() >= Duration::from_secs(1), "{when}");
        assert_eq!(api.get(PATH).unwrap()["spec"]["holderIdentity"], "b");
    }
}
