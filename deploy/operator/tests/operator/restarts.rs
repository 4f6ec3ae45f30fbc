//! Over HTTP as well: operators that end at any request end up where one that never ends does.

use crate::apiserver::Fault;
use crate::stage::Stage;
use espalier_operator::resource::State;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

/// What is compared of a resource: all that does not tell its own name or time.
type Essence = (Option<State>, Option<i64>, Vec<(String, String, String)>);

fn essence(stage: &Stage, name: &str) -> Option<Essence> {
    stage.resource(name)?;
    let status = stage.status(name);
    let conditions = status.conditions.into_iter();
    let mut conditions: Vec<_> = conditions.map(|c| (c.type_, c.status, c.reason)).collect();
    conditions.sort();
    Some((status.state, status.observed_generation, conditions))
}

/// A life of a resource; `random`: how operators and requests fail in it, if they do.
async fn live(stage: &Stage, name: &str, steps: &[u32], mut random: Option<StdRng>) {
    stage.create(name);
    for step in steps {
        if let Some(random) = &mut random {
            for _ in 0..random.random_range(1..4) {
                let method = ["GET", "PUT", "PATCH"][random.random_range(0..3)];
                let fault = match random.random_range(0..4) {
                    0 => Fault::Refuse(500),
                    1 => Fault::Refuse(409),
                    2 => Fault::Meddle,
                    _ => Fault::Lose,
                };
                stage.api.fail(method, name, fault);
                // Each is another operator.
                let _ = stage.operator().pass(name).await;
            }
            stage.api.spare();
        }
        stage.settle(&stage.operator(), name).await;
        match step {
            0 => stage.edit(name, json!({ "suspend": true })),
            1 => stage.edit(name, json!({ "suspend": false })),
            seed => stage.edit(name, json!({ "job": { "seed": seed } })),
        }
    }
    stage.settle(&stage.operator(), name).await;
}

// Promise: after restarts and faults at any request, resource and job are as after none, and the end of the
// resource leaves nothing behind.
#[tokio::test]
async fn restarts_at_any_request() {
    let stage = Stage::start().await;
    for seed in 0..12 {
        let mut random = StdRng::seed_from_u64(seed);
        let steps: Vec<u32> = (0..4).map(|_| random.random_range(0..5)).collect();
        let (calm, rough) = (format!("calm{seed}"), format!("rough{seed}"));
        live(&stage, &calm, &steps, None).await;
        live(&stage, &rough, &steps, Some(random)).await;
        let why = format!("seed {seed}: {steps:?}");
        assert_eq!(essence(&stage, &calm), essence(&stage, &rough), "{why}");
        let state = |job: Option<espalier_proto::v1::Job>| job.map(|job| job.state);
        let (one, other) = (stage.job(&calm).await, stage.job(&rough).await);
        assert_eq!(state(one), state(other), "{why}");
        for name in [&calm, &rough] {
            stage.delete(name);
            stage.settle(&stage.operator(), name).await;
            assert!(stage.resource(name).is_none(), "{why}");
            assert!(stage.job(name).await.is_none(), "{why}");
        }
    }
    stage.node.stop().await;
}
