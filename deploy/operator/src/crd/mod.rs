//! The definition of `TrainingJob` that is installed: schema, rules, columns.
//!
//! The schema of `spec.job` is the one that `espalier schema` prints, in the form that Kubernetes takes
//! ([`structural`]). Defaults of the job are not in it: they are the vocabulary's, filled in by the
//! coordinator. Nothing unknown is kept, so that `kubectl apply` refuses a slip by its name.

pub mod structural;

#[cfg(test)]
mod tests;

use crate::resource::State;
use espalier_spec::JobSpec;
use serde_json::{Map, Value, json};

/// The definition as an object.
#[must_use]
pub fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "trainingjobs.espalier.dev",
            "labels": {
                "app.kubernetes.io/name": "espalier",
                "app.kubernetes.io/component": "operator",
                "app.kubernetes.io/part-of": "espalier",
            },
        },
        "spec": {
            "group": "espalier.dev",
            "scope": "Namespaced",
            "names": {
                "kind": "TrainingJob",
                "listKind": "TrainingJobList",
                "plural": "trainingjobs",
                "singular": "trainingjob",
                "shortNames": ["tj"],
            },
            "versions": [{
                "name": "v1alpha1",
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": columns(),
                "schema": { "openAPIV3Schema": root() },
            }],
        },
    })
}

/// The definition as YAML.
///
/// # Errors
/// It can't be written: a bug.
pub fn yaml() -> Result<String, serde_saphyr::SerializeError> {
    serde_saphyr::to_string(&definition())
}

fn columns() -> Value {
    let column = |name: &str, kind: &str, path: &str| json!({ "name": name, "type": kind, "jsonPath": path });
    let mut steps = column("Steps", "integer", ".status.totalSteps");
    steps["priority"] = 1.into();
    json!([
        column("State", "string", ".status.state"),
        column("Step", "integer", ".status.step"),
        steps,
        column("Age", "date", ".metadata.creationTimestamp"),
        column("Reason", "string", ".status.reason"),
    ])
}

fn root() -> Value {
    json!({
        "type": "object",
        "description": "A training job: one shared backbone and the tasks that are learned on it.",
        "required": ["spec"],
        "properties": {
            "apiVersion": { "type": "string" },
            "kind": { "type": "string" },
            "metadata": { "type": "object" },
            "spec": {
                "type": "object",
                "description": "What is wanted.",
                "required": ["job"],
                "properties": {
                    "job": job(),
                    "suspend": {
                        "type": "boolean",
                        "default": false,
                        "description": "Hold no ranks: a job that runs is paused with a checkpoint, one \
                                        that was not submitted yet waits.",
                    },
                    "ttlSecondsAfterFinished": {
                        "type": "integer",
                        "format": "int32",
                        "minimum": 0,
                        "description": "Seconds after the job's end until the resource and its job are \
                                        deleted. Default: never.",
                    },
                },
            },
            "status": status(),
        },
        "x-kubernetes-validations": rules(),
    })
}

/// The schema of job files without the fields that the resource has itself.
fn job() -> Value {
    let schema = schemars::schema_for!(JobSpec);
    let mut job = structural::structural(schema.as_value());
    job["description"] = "The job file as an object; name and namespace are the resource's.".into();
    if let Some(required) = job.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|field| field != "name");
    }
    if let Some(properties) = job.get_mut("properties").and_then(Value::as_object_mut) {
        properties.shift_remove("namespace");
        if let Some(name) = properties.get_mut("name") {
            name["description"] = "The resource's own name; best left out.".into();
            name["maxLength"] = 63.into();
        }
        if let Some(tasks) = properties.get_mut("tasks") {
            tasks["minItems"] = 1.into();
            tasks["x-kubernetes-list-type"] = "map".into();
            tasks["x-kubernetes-list-map-keys"] = json!(["name"]);
        }
    }
    job
}

/// Rules between fields, in CEL.
fn rules() -> Value {
    // Beginning with the states in which a job can't be another one any more.
    let fixed: Vec<String> = State::ALL
        .into_iter()
        .filter(|state| state.is_under_way() || *state == State::Paused)
        .map(|state| format!("'{}'", state.as_str()))
        .collect();
    let fixed = fixed.join(", ");
    json!([
        {
            "rule": "size(self.metadata.name) <= 63 && \
                     self.metadata.name.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')",
            "message": "metadata.name must be at most 63 lower-case letters, digits and `-`, starting with a \
                        letter and ending with a letter or digit",
        },
        {
            "rule": "!has(self.spec.job.name) || self.spec.job.name == self.metadata.name",
            "message": "spec.job.name must be the resource's own name; leave it out",
        },
        {
            "rule": format!(
                "!has(oldSelf.status) || !has(oldSelf.status.state) || \
                 !(oldSelf.status.state in [{fixed}]) || self.spec.job == oldSelf.spec.job"
            ),
            "message": "spec.job can't be changed while the job runs; spec.suspend and \
                        spec.ttlSecondsAfterFinished can: delete the resource and create it anew for another job",
        },
    ])
}

fn status() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    let number = |description: &str| json!({ "type": "integer", "format": "int64", "description": description });
    let time = |description: &str| json!({ "type": "string", "format": "date-time", "description": description });
    let states: Vec<Value> = State::ALL.map(|state| state.as_str().into()).to_vec();
    let mut state = text("Where the job is in its life; all conditions follow from it.");
    state["enum"] = states.into();
    let condition = json!({
        "type": "object",
        "required": ["type", "status", "reason", "message", "lastTransitionTime"],
        "properties": {
            "type": text("What is said."),
            "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
            "reason": text("Why, as a word."),
            "message": text("Why, as a sentence."),
            "lastTransitionTime": time("Since when."),
            "observedGeneration": number("The change of the spec that it was found at."),
        },
    });
    let mut properties = Map::new();
    let fields = [
        ("jobName", text("Name of the job in the cluster.")),
        ("jobUid", text("The job's uid.")),
        ("requestId", text("With which id the job is submitted.")),
        (
            "replaces",
            text("Uid of a job that never ran and gives way to a changed one."),
        ),
        ("state", state),
        ("reason", text("Why it is there, in a sentence.")),
        ("step", number("Steps done.")),
        ("totalSteps", number("Steps in all.")),
        (
            "observedGeneration",
            number("The newest change of the spec that was looked at."),
        ),
        ("exportPath", text("Where the exported model is.")),
        (
            "workersWanted",
            number("Workers that the job wants now; 0 where it wants none."),
        ),
        ("completionTime", time("When the job ended.")),
        (
            "conditions",
            json!({
                "type": "array",
                "items": condition,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            }),
        ),
    ];
    for (name, schema) in fields {
        properties.insert(name.to_owned(), schema);
    }
    json!({ "type": "object", "description": "What is known of the job.", "properties": properties })
}
