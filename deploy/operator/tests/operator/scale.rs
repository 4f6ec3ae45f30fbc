//! The StatefulSet of the workers, between what the queue needs and what is drained.

use crate::kit::{Worker, hello};
use crate::stage::Stage;
use espalier_operator::scale::Bounds;
use espalier_operator::scaler::{DRAINING, Error, Scaler};
use espalier_proto::v1;
use espalier_proto::v1::coordinator_message::Message as Order;
use espalier_proto::v1::worker_message::Message;
use serde_json::{Value, json};
use std::time::Duration;

const SET: &str = "apis/apps/v1/namespaces/espalier/statefulsets/espalier-worker";

fn scaler(stage: &Stage) -> Scaler {
    Scaler::new(
        stage.api.client(),
        ("espalier", "espalier-worker"),
        stage.coordinator(),
        Bounds { min: 0, max: 3 },
        1,
        Duration::ZERO,
    )
}

fn replicas(stage: &Stage) -> Value {
    stage.api.get(SET).unwrap()["spec"]["replicas"].clone()
}

async fn passes(scaler: &mut Scaler, times: usize) {
    for _ in 0..times {
        scaler.pass().await.unwrap();
    }
}

/// Prepares what the worker of a name is told to, for its own ranks.
async fn prepare(worker: &mut Worker, name: &str) {
    let order = worker.order().await;
    let Order::Prepare(prepare) = order else {
        panic!("expected Prepare, got {order:?}")
    };
    let own = prepare.seats.iter().filter(|seat| seat.worker == name);
    let addresses = own.map(|seat| v1::PeerAddress {
        rank: seat.rank,
        address: "127.0.0.1:1".into(),
        host_id: "here".into(),
    });
    let profile = v1::Profile {
        blocks: vec![v1::profile::Block {
            name: "layer.0".into(),
            trainable: 90,
            total: 100,
        }],
        tasks: vec![v1::profile::TaskCost {
            name: "topic".into(),
            train_samples: 1000,
            share: 1.0,
            sample_cost: 20.0,
        }],
        fetched: String::new(),
    };
    let prepared = v1::Prepared {
        job: prepare.job.clone(),
        generation: prepare.generation,
        addresses: addresses.collect(),
        profile: Some(profile),
        snapshots: Vec::new(),
    };
    worker.say(Message::Prepared(prepared)).await;
}

// Promise: workers come with the queue and go to zero without it; each is marked and drained before its pod
// goes, and none goes while a job runs on it.
#[tokio::test]
async fn to_the_queue_and_to_zero() {
    let stage = Stage::start().await;
    let mut scaling = scaler(&stage);
    assert!(matches!(scaling.pass().await, Err(Error::NoSet(_))));
    let set = json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": { "name": "espalier-worker" },
        "spec": {
            "replicas": 0,
            "serviceName": "espalier-workers",
            "selector": {},
            "template": {},
        },
    });
    let key = crate::apiserver::key(SET);
    stage.api.with(|store| store.create(&key, set).unwrap());
    passes(&mut scaling, 1).await;
    assert_eq!(replicas(&stage), 0);
    let operator = stage.operator();
    stage.create("a");
    stage.edit("a", json!({ "job": { "resources": { "ranks": 2 } } }));
    stage.settle(&operator, "a").await;
    assert_eq!(stage.status("a").workers_wanted, Some(2));
    passes(&mut scaling, 1).await;
    assert_eq!(replicas(&stage), 2);
    let mut workers = Vec::new();
    for ordinal in 0..2 {
        let name = format!("espalier-worker-{ordinal}");
        workers.push(Worker::join(&stage.node, hello(&name)).await);
    }
    let mut starts = Vec::new();
    for (ordinal, worker) in workers.iter_mut().enumerate() {
        prepare(worker, &format!("espalier-worker-{ordinal}")).await;
    }
    for worker in &mut workers {
        starts.push(worker.started().await);
    }
    workers[0].progress(&starts[0], 1).await;
    passes(&mut scaling, 2).await;
    assert_eq!(replicas(&stage), 2);
    stage.delete("a");
    stage.settle(&operator, "a").await;
    // The ranks still stop: workers are marked and drained, and stay.
    passes(&mut scaling, 5).await;
    assert_eq!(replicas(&stage), 2);
    let marked = &stage.api.get(SET).unwrap()["metadata"]["annotations"][DRAINING];
    assert_eq!(marked, "espalier-worker-0,espalier-worker-1");
    for (worker, start) in workers.iter().zip(&starts) {
        let outcome = v1::stopped::Outcome::Ordered(v1::stopped::StoppedAsOrdered {});
        let stopped = v1::Stopped {
            job: start.job.clone(),
            generation: start.generation,
            outcome: Some(outcome),
        };
        worker.say(Message::Stopped(stopped)).await;
    }
    crate::kit::until("idle workers", async || {
        let workers = stage.coordinator().workers().await.unwrap();
        let busy = |worker: &v1::Worker| worker.devices.iter().any(|d| !d.job.is_empty());
        (!workers.iter().any(busy)).then_some(())
    })
    .await;
    // Another operator, which knows only what is written down.
    let mut scaling = scaler(&stage);
    passes(&mut scaling, 2).await;
    assert_eq!(replicas(&stage), 0);
    stage.settle(&operator, "a").await;
    assert!(stage.resource("a").is_none());
    // They come back open.
    stage.create("b");
    stage.settle(&operator, "b").await;
    passes(&mut scaling, 3).await;
    assert_eq!(replicas(&stage), 1);
    let worker = stage.coordinator().workers().await.unwrap().remove(0);
    assert_ne!(worker.state(), v1::worker::State::Draining, "{worker:?}");
    stage.node.stop().await;
}
