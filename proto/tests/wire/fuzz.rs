//! Promise: whatever bytes the network brings, messages are read or refused, and what was accepted is accepted again.

#[path = "../../../fuzz/src/mutate.rs"]
mod mutate;
#[path = "../../../fuzz/src/rpc.rs"]
mod rpc;

use espalier_proto::{Wire, time, v1};
use espalier_spec::JobSpec;
use espalier_spec::report::{Checkpoint, Progress};
use prost::Message;
use v1::coordinator_message::Message as Order;
use v1::worker_message::Message as Report;

fn spec() -> v1::JobSpec {
    let spec: JobSpec = serde_json::from_value(serde_json::json!({
        "name": "packages",
        "backbone": { "path": "/models/small", "pooling": "mean" },
        "tasks": [
            { "name": "section", "head": "single_label", "data": { "train": "/data/a.jsonl", "test": ["/data/b.csv"] } },
            { "name": "length", "head": "regression", "data": { "train": "/data/c.parquet" } },
        ],
        "balancer": { "method": "dwa", "params": { "window": 20.0 } },
        "training": { "steps": 100, "batch_size": 16 },
        "resources": { "ranks": 4, "workers": { "min": 1, "max": 4 } },
        "recovery": { "snapshot_every": 10 },
    }))
    .unwrap();
    spec.to_wire()
}

fn report(message: Report) -> Vec<u8> {
    v1::WorkerMessage {
        message: Some(message),
        sequence: 7,
    }
    .encode_to_vec()
}

fn order(message: Order) -> Vec<u8> {
    v1::CoordinatorMessage {
        message: Some(message),
    }
    .encode_to_vec()
}

fn seeds() -> Vec<Vec<u8>> {
    let job = "packages".to_owned();
    let progress = Progress {
        samples_per_second: 12.5,
        losses: [("section".to_owned(), 0.5)].into(),
        ..Progress::default()
    };
    let checkpoint = Checkpoint {
        step: espalier_spec::Step(500),
        path: "/checkpoints/step-00000500".to_owned(),
        best: true,
    };
    let seat = v1::Seat {
        rank: 0,
        worker: "w0".to_owned(),
        device: 1,
        shards: vec![0, 1],
    };
    let profile = v1::Profile {
        blocks: vec![v1::profile::Block {
            name: "layer.0".to_owned(),
            trainable: 90,
            total: 100,
        }],
        tasks: vec![v1::profile::TaskCost {
            name: "section".to_owned(),
            train_samples: 1000,
            share: 0.5,
            sample_cost: 20.0,
        }],
        fetched: "0123456789abcdef".to_owned(),
    };
    vec![
        v1::CreateJobRequest {
            spec: Some(spec()),
            request_id: "f81d4fae-7dec-11d0-a765-00a0c91e6bf6".to_owned(),
            validate_only: true,
        }
        .encode_to_vec(),
        v1::Job {
            name: job.clone(),
            spec: Some(spec()),
            progress: Some(progress.to_wire()),
            create_time: Some(time::timestamp(1_700_000_000_000)),
            recoveries: vec![v1::Recovery {
                generation: 2,
                cause: 1,
                reached_step: 9,
                ..Default::default()
            }],
            ..Default::default()
        }
        .encode_to_vec(),
        report(Report::Prepared(v1::Prepared {
            job: job.clone(),
            generation: 1,
            addresses: Vec::new(),
            profile: Some(profile),
            snapshots: vec![v1::HeldSnapshot { rank: 1, step: 7 }],
        })),
        report(Report::Progress(v1::ProgressReport {
            job: job.clone(),
            generation: 1,
            progress: Some(progress.to_wire()),
        })),
        report(Report::Checkpoint(v1::CheckpointReport {
            job: job.clone(),
            generation: 1,
            checkpoint: Some(checkpoint.to_wire()),
        })),
        order(Order::Welcome(v1::Welcome {
            heartbeat_interval: Some(time::duration(1.0)),
            term: 7,
            cluster: "espalier".to_owned(),
            acknowledges: true,
        })),
        order(Order::Acknowledged(v1::Acknowledged { sequence: 7 })),
        order(Order::Prepare(v1::Prepare {
            job: job.clone(),
            job_uid: "uid".to_owned(),
            generation: 1,
            spec: Some(spec()),
            seats: vec![seat.clone()],
            spare: false,
        })),
        order(Order::Start(v1::Start {
            job,
            generation: 1,
            plan: Some(v1::Plan {
                seats: vec![seat],
                ..Default::default()
            }),
            resume: Some(checkpoint.to_wire()),
            ..Default::default()
        })),
    ]
}

#[test]
fn any_bytes_are_read_or_refused() {
    mutate::run(&seeds(), &[], 30_000, rpc::target);
}
