//! What the operator may do in Kubernetes, by the manifests, beside what it asks for.

use crate::apiserver::Asked;
use crate::kit::{soon, until};
use crate::stage::Stage;
use espalier_operator::resource::State;
use espalier_operator::run::run;
use espalier_operator::scale::Bounds;
use espalier_operator::scaler::Scaler;
use espalier_proto::v1;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tokio::sync::watch;

/// Where the operator runs.
const HOME: &str = "espalier";

/// One thing that is allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Permission {
    group: String,
    resource: String,
    verb: String,
    /// Only in the operator's own namespace.
    here: bool,
    /// Only of this name.
    name: Option<String>,
}

impl Permission {
    fn covers(&self, asked: &Asked) -> bool {
        let named = |name: &String| asked.name.as_ref() == Some(name);
        self.group == asked.group
            && self.resource == asked.resource
            && self.verb == asked.verb
            && (!self.here || asked.namespace.as_deref() == Some(HOME))
            && self.name.as_ref().is_none_or(named)
    }
}

fn words(rule: &Value, field: &str) -> Vec<String> {
    let all = rule[field].as_array().cloned().unwrap_or_default();
    let words = all.iter().filter_map(Value::as_str);
    words.map(str::to_owned).collect()
}

/// The rules of the roles that the manifests bind the operator to.
fn allowed() -> BTreeSet<Permission> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kubernetes/base/operator.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let mut allowed = BTreeSet::new();
    let kinds = ["\nkind: Role\n", "\nkind: ClusterRole\n"];
    let documents = text.split("\n---\n");
    for document in documents.filter(|text| kinds.iter().any(|kind| text.contains(kind))) {
        let object: Value = serde_saphyr::from_str(document).unwrap();
        if object["metadata"]["name"] != "espalier-operator" {
            continue;
        }
        let here = object["kind"] == "Role";
        for rule in object["rules"].as_array().unwrap() {
            let names = words(rule, "resourceNames");
            let names: Vec<Option<String>> = match names.is_empty() {
                true => vec![None],
                false => names.into_iter().map(Some).collect(),
            };
            for group in words(rule, "apiGroups") {
                for resource in words(rule, "resources") {
                    for verb in words(rule, "verbs") {
                        allowed.extend(names.iter().map(|name| Permission {
                            group: group.clone(),
                            resource: resource.clone(),
                            verb: verb.clone(),
                            here,
                            name: name.clone(),
                        }));
                    }
                }
            }
        }
    }
    allowed
}

/// Workers come for a job and go after it.
async fn scale(stage: &Stage, name: &str) {
    let bounds = Bounds { min: 0, max: 1 };
    let at_once = Duration::ZERO;
    let coordinator = stage.coordinator();
    let client = stage.api.client();
    let mut scaler = Scaler::new(client, (HOME, name), coordinator, bounds, 1, at_once);
    let path = format!("apis/apps/v1/namespaces/{HOME}/statefulsets/{name}");
    let replicas = || stage.api.get(&path).unwrap()["spec"]["replicas"].clone();
    scaler.pass().await.unwrap();
    assert_eq!(replicas(), 1);
    let request = v1::CancelJobRequest {
        name: "team-a".into(),
    };
    stage.node.jobs().cancel_job(request).await.unwrap();
    for _ in 0..2 {
        scaler.pass().await.unwrap();
    }
    assert_eq!(replicas(), 0);
}

async fn becomes(stage: &Stage, state: State) {
    until("the resource's state", async || {
        (stage.status("a").state == Some(state)).then_some(())
    })
    .await;
}

// Promise: the manifests allow the operator all that it asks for in its life, and nothing that it does not
// ask for.
#[tokio::test]
async fn no_less_and_no_more() {
    let stage = Stage::start().await;
    let (stop, stopping) = watch::channel(false);
    let (settings, client) = (stage.settings(), stage.api.client());
    let name = settings.worker_set.clone();
    let set = json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": { "name": name },
        "spec": { "replicas": 0, "serviceName": "s", "selector": {}, "template": {} },
    });
    let path = format!("apis/apps/v1/namespaces/{HOME}/statefulsets/{name}");
    let key = crate::apiserver::key(&path);
    stage.api.with(|store| store.create(&key, set).unwrap());
    let operator = tokio::spawn(async move { run(&settings, client, stopping).await });
    stage.create("a");
    becomes(&stage, State::Queued).await;
    scale(&stage, &name).await;
    becomes(&stage, State::Cancelled).await;
    stage.edit("a", json!({ "ttlSecondsAfterFinished": 0 }));
    until("the end of the resource", async || {
        stage.resource("a").is_none().then_some(())
    })
    .await;
    stop.send_replace(true);
    soon("the operator's end", operator).await.unwrap().unwrap();
    let (allowed, asked) = (allowed(), stage.api.asked());
    for request in &asked {
        let covered = allowed.iter().any(|one| one.covers(request));
        assert!(covered, "not allowed: {request:?}");
    }
    for permission in &allowed {
        // How kube counts an event that comes again.
        let again = permission.resource == "events" && permission.verb == "patch";
        let used = asked.iter().any(|request| permission.covers(request));
        assert!(used || again, "never asked for: {permission:?}");
    }
    stage.node.stop().await;
}
