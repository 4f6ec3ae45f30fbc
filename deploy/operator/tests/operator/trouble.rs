//! Conflicts, lost answers, and a coordinator that is away.

use crate::apiserver::{ApiServer, Fault, Key};
use crate::kit::{Node, config_with};
use crate::stage::{JOBS, Stage};
use espalier_operator::coordinator::TokenFrom;
use espalier_operator::resource::State;
use serde_json::json;

// Promise: who writes at the same time gets a conflict in one of the two, and loses nothing.
#[tokio::test]
async fn conflicts() {
    let stage = Stage::start().await;
    let operator = stage.operator();
    stage.create("a");
    for method in ["PATCH", "PUT"] {
        // Somebody else is faster, just before the finalizer or the status is written.
        stage.api.fail(method, "trainingjobs/a", Fault::Meddle);
        let mut conflicts = 0;
        while !stage.api.all_failed() {
            if let Err(error) = operator.pass("a").await {
                assert!(error.passes(), "{error}");
                conflicts += 1;
            }
        }
        assert_eq!(conflicts, 1, "{method}");
        let key = crate::apiserver::key(&format!("{JOBS}/a"));
        let object = stage.api.get(&format!("{JOBS}/a")).unwrap();
        assert_eq!(
            object["metadata"]["annotations"]["somebody"], "else",
            "{method}"
        );
        let clean = json!({ "metadata": { "annotations": null } });
        stage
            .api
            .with(|store| store.patch(&key, None, &clean).unwrap());
    }
    stage.settle(&operator, "a").await;
    assert_eq!(stage.status("a").state, Some(State::Queued));
    stage.node.stop().await;
}

// Promise: a write that came through although its answer was lost is found, at every write of a life.
#[tokio::test]
async fn lost_answers() {
    let stage = Stage::start().await;
    for (number, fault) in [Fault::Lose, Fault::Refuse(500), Fault::Refuse(409)]
        .into_iter()
        .enumerate()
    {
        let name = format!("lost{number}");
        stage.create(&name);
        for deleted in [false, true] {
            if deleted {
                stage.delete(&name);
            }
            for _ in 0..8 {
                for method in ["PATCH", "PUT"] {
                    stage.api.fail(method, &name, fault);
                    // Another operator each time.
                    let _ = stage.operator().pass(&name).await;
                }
            }
            stage.api.spare();
            stage.settle(&stage.operator(), &name).await;
            let state = stage.status(&name).state;
            match deleted {
                false => assert_eq!(state, Some(State::Queued), "{fault:?}"),
                true => assert!(stage.resource(&name).is_none(), "{fault:?}"),
            }
            assert_eq!(stage.job(&name).await.is_none(), deleted, "{fault:?}");
        }
    }
    stage.node.stop().await;
}

// Promise: while the coordinator is away nothing is forgotten, and another one goes on with the same job.
#[tokio::test]
async fn a_coordinator_that_is_away() {
    let stage = Stage::start().await;
    stage.create("a");
    stage.settle(&stage.operator(), "a").await;
    let uid = stage.job("a").await.unwrap().uid;
    let Stage {
        api,
        node,
        directory,
    } = stage;
    let gone = node.address;
    node.stop().await;
    // A new one on the same store, at another address.
    let node = Node::start(directory.path()).await;
    let stage = Stage {
        api,
        node,
        directory,
    };
    if gone != stage.node.address {
        let lost = stage.operator_at(&format!("http://{gone}"));
        lost.pass("a").await.unwrap();
        assert_eq!(stage.condition("a", "CoordinatorReachable").0, "False");
        assert_eq!(stage.status("a").state, Some(State::Queued));
    }
    stage.settle(&stage.operator(), "a").await;
    assert_eq!(stage.condition("a", "CoordinatorReachable").0, "True");
    assert_eq!(stage.status("a").job_uid, Some(uid));
    stage.node.stop().await;
}

/// Whom the coordinator knows, by the hashes of `esp_all` and `esp_some`.
const TOKENS: &str = r#"
- name: "all"
  sha256: "8842029ed7fa3a1f777291f8c5f7733df7ae72b00b9dbf4806770d1c5e4d3c19"
  role: admin
- name: "some"
  sha256: "414a5cc500c30cff91f16b265a6737c16d5c8c285872572d64cbbcb32026a495"
  role: submitter
  namespaces: [other]
"#;

// Promise: an operator that may not see a namespace gives none of its jobs up: no resource is lost or let go of,
// and one that may see it goes on with the same job.
#[tokio::test]
async fn a_namespace_that_is_hidden() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens.yaml");
    std::fs::write(&tokens, TOKENS).unwrap();
    let flags = ["--token-file", tokens.to_str().unwrap()];
    let config = config_with(&directory.path().join("data"), &flags);
    let stage = Stage {
        api: ApiServer::start().await,
        node: Node::configured(&config).await,
        directory,
    };
    let operator = |name: &str| {
        let file = stage.directory.path().join(name);
        std::fs::write(&file, format!("esp_{name}")).unwrap();
        let server = format!("http://{}", stage.node.address);
        stage.operator_as(&server, &TokenFrom::File(file))
    };
    let (all, some) = (operator("all"), operator("some"));
    stage.create("a");
    stage.settle(&all, "a").await;
    let uid = stage.status("a").job_uid;
    assert!(uid.is_some(), "{:?}", stage.status("a"));
    some.pass("a").await.unwrap();
    assert_eq!(stage.status("a").state, Some(State::Queued));
    assert_eq!(stage.condition("a", "CoordinatorReachable").0, "False");
    stage.delete("a");
    some.pass("a").await.unwrap();
    assert_eq!(stage.status("a").job_uid, uid);
    all.pass("a").await.unwrap();
    assert_eq!(stage.status("a").job_uid, uid);
    for _ in 0..10 {
        all.pass("a").await.unwrap();
    }
    assert!(stage.resource("a").is_none(), "{:?}", stage.status("a"));
    stage.node.stop().await;
}

// Promise: a namespace that is deleted comes to its end: every resource in it lets go of its job and then of
// itself, though nothing can be created there any more, not even an event.
#[tokio::test]
async fn the_end_of_a_namespace() {
    let stage = Stage::start().await;
    let names = ["queued", "suspended", "rejected", "unseen"];
    for name in names {
        stage.create(name);
    }
    stage.edit("suspended", json!({ "suspend": true }));
    stage.edit("rejected", json!({ "job": { "tasks": [] } }));
    for name in &names[..3] {
        stage.settle(&stage.operator(), name).await;
    }
    let events = || {
        let here = |key: &Key| key.resource == "events";
        stage.api.with(|store| store.list(here).len())
    };
    let before = events();
    assert!(before > 0);
    stage.api.end("team");
    // Kubernetes deletes all that is in it.
    for name in names {
        stage.delete(name);
    }
    for name in names {
        stage.settle(&stage.operator(), name).await;
        assert!(stage.resource(name).is_none(), "{name}");
        assert!(stage.job(name).await.is_none(), "{name}");
    }
    assert_eq!(events(), before);
    stage.node.stop().await;
}
