//! The whole operator: lease, watches of the API server and of jobs, their loss.

use crate::kit::{Worker, hello, soon, until};
use crate::stage::{JOBS, Stage, job};
use espalier_operator::resource::State;
use espalier_operator::run::run;
use serde_json::json;
use tokio::sync::watch;

async fn becomes(stage: &Stage, name: &str, state: State) {
    until("the resource's state", async || {
        (stage.status(name).state == Some(state)).then_some(())
    })
    .await;
}

// Promise: a change that happened while no watch was open is seen, be it that the watch goes on where it was
// or that it has to begin anew (410 Gone); and news of a job arrive without waiting for the next look.
#[tokio::test]
async fn lost_watches() {
    let stage = Stage::start().await;
    let (stop, stopping) = watch::channel(false);
    let (settings, client) = (stage.settings(), stage.api.client());
    let operator = tokio::spawn(async move { run(&settings, client, stopping).await });
    stage.create("a");
    becomes(&stage, "a", State::Queued).await;
    for (name, forget) in [("b", false), ("c", true)] {
        stage.api.cut(forget, |store| {
            let object = json!({
                "apiVersion": "espalier.dev/v1alpha1",
                "kind": "TrainingJob",
                "metadata": { "name": name },
                "spec": { "job": job() },
            });
            let key = crate::apiserver::key(&format!("{JOBS}/{name}"));
            store.create(&key, object).unwrap();
        });
        becomes(&stage, name, State::Queued).await;
    }
    let mut worker = Worker::join(&stage.node, hello("w")).await;
    worker.prepare().await;
    let start = worker.started().await;
    worker.progress(&start, 3).await;
    let name = start.job.strip_prefix("team-").unwrap().to_owned();
    becomes(&stage, &name, State::Running).await;
    stage.delete("c");
    until("the end of the resource", async || {
        stage.resource("c").is_none().then_some(())
    })
    .await;
    let lease = "apis/coordination.k8s.io/v1/namespaces/espalier/leases/espalier-operator";
    let holder = |stage: &Stage| {
        let lease = stage.api.get(lease).unwrap();
        lease["spec"]["holderIdentity"].as_str().unwrap().to_owned()
    };
    assert!(!holder(&stage).is_empty());
    stop.send_replace(true);
    soon("the operator's end", operator).await.unwrap().unwrap();
    // Given back: the next one need not wait.
    assert_eq!(holder(&stage), "");
    stage.node.stop().await;
}
