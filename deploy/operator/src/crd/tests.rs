//! What the definition promises an API server.
#![allow(clippy::unwrap_used)]

use super::{definition, root, structural::structural};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::crd::CustomResourceExt;
use serde_json::{Value, json};
use std::path::Path;

/// Words that a structural schema may hold, of those that are used here.
const ALLOWED: [&str; 19] = [
    "type",
    "description",
    "properties",
    "required",
    "items",
    "additionalProperties",
    "nullable",
    "enum",
    "format",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxLength",
    "default",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
];

/// The rules of a structural schema, as the API server checks them.
fn check(place: &str, schema: &Value) {
    let object = schema.as_object().unwrap_or_else(|| panic!("{place}"));
    for word in object.keys() {
        assert!(ALLOWED.contains(&word.as_str()), "{place}: {word}");
    }
    let free = schema["x-kubernetes-preserve-unknown-fields"] == true;
    let kind = schema["type"].as_str();
    assert!(kind.is_some() || free, "{place}: has no type");
    let both = object.contains_key("properties") && object.contains_key("additionalProperties");
    assert!(!both, "{place}: properties and additionalProperties");
    if kind == Some("array") {
        check(&format!("{place}[]"), &schema["items"]);
    }
    for word in schema["required"].as_array().unwrap_or(&vec![]) {
        let known = schema["properties"].get(word.as_str().unwrap()).is_some();
        assert!(known, "{place}: requires {word}, which it does not have");
    }
    if let Some(values) = object.get("additionalProperties") {
        check(&format!("{place}.*"), values);
    }
    if let Some(properties) = object.get("properties") {
        for (name, schema) in properties.as_object().unwrap() {
            check(&format!("{place}.{name}"), schema);
        }
    }
}

// Promise: the schema is structural, so that an API server takes it, and every task has its key.
#[test]
fn it_is_structural() {
    let root = root();
    check("", &root);
    let tasks = &root["properties"]["spec"]["properties"]["job"]["properties"]["tasks"];
    assert_eq!(tasks["minItems"], 1);
    let required = tasks["items"]["required"].as_array().unwrap();
    assert!(required.contains(&json!("name")), "{required:?}");
    let size = definition().to_string().len();
    // `kubectl apply` keeps a copy in an annotation, of at most 256 KiB.
    assert!(size < 200_000, "{size}");
}

// Promise: Kubernetes' own types read it, and names agree with those that the operator asks for.
#[test]
fn it_is_a_definition() {
    let read: CustomResourceDefinition = serde_json::from_value(definition()).unwrap();
    let derived = crate::resource::TrainingJob::crd();
    assert_eq!(read.metadata.name, derived.metadata.name);
    let names = |crd: &CustomResourceDefinition| {
        let names = &crd.spec.names;
        (
            crd.spec.group.clone(),
            crd.spec.scope.clone(),
            names.kind.clone(),
            names.plural.clone(),
            names.singular.clone(),
            names.short_names.clone(),
            crd.spec.versions[0].name.clone(),
        )
    };
    assert_eq!(names(&read), names(&derived));
    let version = &read.spec.versions[0];
    assert!(version.subresources.as_ref().unwrap().status.is_some());
    let columns = version.additional_printer_columns.as_ref().unwrap();
    let columns: Vec<_> = columns.iter().map(|column| &*column.name).collect();
    assert_eq!(columns, ["State", "Step", "Steps", "Age", "Reason"]);
}

// Promise: rules name the states in which a job is fixed, and every rule says what to do.
#[test]
fn rules_say_what_to_do() {
    let root = root();
    let rules = root["x-kubernetes-validations"].as_array().unwrap();
    let fixed = rules[2]["rule"].as_str().unwrap();
    assert!(
        fixed.contains("['Preparing', 'Running', 'Pausing', 'Paused', 'Cancelling']"),
        "{fixed}"
    );
    for rule in rules {
        assert!(
            rule["message"].as_str().unwrap().contains("spec")
                || rule["message"].as_str().unwrap().contains("metadata")
        );
    }
}

// Promise: forms of every kind become what they mean.
#[test]
fn forms() {
    let schema = json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["word"],
        "properties": {
            "word": { "$ref": "#/$defs/Word", "description": "here" },
            "maybe": { "anyOf": [{ "$ref": "#/$defs/Word" }, { "type": "null" }] },
            "number": { "type": ["integer", "null"], "format": "uint32", "minimum": 0, "default": 3 },
            "either": { "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] },
            "map": { "type": "object", "additionalProperties": { "type": "number", "format": "double" } },
        },
        "$defs": {
            "Word": {
                "description": "there",
                "oneOf": [
                    { "type": "string", "const": "a", "description": "A." },
                    { "type": "string", "enum": ["b", "c"] },
                ],
            },
        },
    });
    let word = |description: &str| json!({ "type": "string", "enum": ["a", "b", "c"], "description": description });
    let mut maybe = word("there");
    maybe["nullable"] = true.into();
    let expected = json!({
        "type": "object",
        "required": ["word"],
        "properties": {
            "word": word("here"),
            "maybe": maybe,
            "number": { "type": "integer", "nullable": true, "format": "int64", "minimum": 0 },
            "either": { "x-kubernetes-preserve-unknown-fields": true },
            "map": { "type": "object", "additionalProperties": { "type": "number", "format": "double" } },
        },
    });
    assert_eq!(structural(&schema), expected);
}

// Promise: what is committed beside the manifests is this definition.
#[test]
fn the_committed_one_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kubernetes/base/crd.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let committed: Value = serde_saphyr::from_str(&text).unwrap();
    let hint =
        "write it anew: cargo run -p espalier-operator -- crd > deploy/kubernetes/base/crd.yaml";
    assert!(
        committed == definition(),
        "{} is old; {hint}",
        path.display()
    );
}
