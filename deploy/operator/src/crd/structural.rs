//! A JSON schema in the form that Kubernetes demands of custom resources.
//!
//! There every field has one type and nothing is referred to. What has several forms (`tuning: heads` or
//! `tuning: {lora: …}`) is kept as it is and checked by the operator; all else is checked by the API server.

use serde_json::{Map, Value, json};

/// Words that mean the same in both.
const KEPT: [&str; 6] = [
    "description",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "required",
];

/// Turns the schema of a whole document, with its definitions, into a structural one.
#[must_use]
pub fn structural(schema: &Value) -> Value {
    let none = Map::new();
    let definitions = schema
        .get("$defs")
        .and_then(Value::as_object)
        .unwrap_or(&none);
    node(schema, definitions)
}

fn node(schema: &Value, definitions: &Map<String, Value>) -> Value {
    if let Some(target) = referred(schema, definitions) {
        let mut found = node(target, definitions);
        // What is said at the place itself is closer to it.
        if let Some(description) = schema.get("description") {
            found["description"] = description.clone();
        }
        return found;
    }
    for word in ["oneOf", "anyOf"] {
        if let Some(forms) = schema.get(word).and_then(Value::as_array) {
            return choice(schema, forms, definitions);
        }
    }
    let (kind, nullable) = kind(schema);
    let Some(kind) = kind else {
        return free(schema);
    };
    let mut out = Map::new();
    out.insert("type".into(), kind.into());
    if nullable {
        out.insert("nullable".into(), true.into());
    }
    for word in KEPT {
        if let Some(value) = schema.get(word) {
            out.insert(word.into(), value.clone());
        }
    }
    if let Some(values) = values(schema) {
        out.insert("enum".into(), values.into());
    }
    if let Some(format) = schema.get("format").and_then(Value::as_str)
        && let Some(format) = known(format)
    {
        out.insert("format".into(), format.into());
    }
    if let Some(items) = schema.get("items") {
        out.insert("items".into(), node(items, definitions));
    } else if kind == "array" {
        out.insert("items".into(), free(&Value::Null));
    }
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        let properties: Map<String, Value> = properties
            .iter()
            .map(|(name, schema)| (name.clone(), node(schema, definitions)))
            .collect();
        out.insert("properties".into(), properties.into());
    } else if let Some(values) = schema
        .get("additionalProperties")
        .filter(|values| values.is_object())
    {
        out.insert("additionalProperties".into(), node(values, definitions));
    }
    Value::Object(out)
}

/// Several forms: one that may be null, words, or what has no one type.
fn choice(schema: &Value, forms: &[Value], definitions: &Map<String, Value>) -> Value {
    let null = |form: &&Value| form.get("type").and_then(Value::as_str) == Some("null");
    let rest: Vec<&Value> = forms.iter().filter(|form| !null(form)).collect();
    let nullable = rest.len() < forms.len();
    let mut out = match rest.as_slice() {
        [only] => node(only, definitions),
        several => {
            let words: Option<Vec<Value>> = several
                .iter()
                .map(|form| (kind(form).0 == Some("string")).then(|| values(form))?)
                .collect::<Option<Vec<_>>>()
                .map(|words| words.concat());
            match words {
                Some(words) => json!({ "type": "string", "enum": words }),
                None => free(&Value::Null),
            }
        }
    };
    if let Some(description) = schema.get("description") {
        out["description"] = description.clone();
    }
    if nullable {
        out["nullable"] = true.into();
    }
    out
}

/// Whatever it is: kept as it is.
fn free(schema: &Value) -> Value {
    let mut out = json!({ "x-kubernetes-preserve-unknown-fields": true });
    if let Some(description) = schema.get("description") {
        out["description"] = description.clone();
    }
    out
}

fn referred<'a>(schema: &Value, definitions: &'a Map<String, Value>) -> Option<&'a Value> {
    let name = schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")?;
    definitions.get(name)
}

/// The one type, and whether null is allowed beside it.
fn kind(schema: &Value) -> (Option<&str>, bool) {
    match schema.get("type") {
        Some(Value::String(kind)) => (Some(kind.as_str()), false),
        Some(Value::Array(kinds)) => {
            let mut kinds: Vec<&str> = kinds.iter().filter_map(Value::as_str).collect();
            let all = kinds.len();
            kinds.retain(|kind| *kind != "null");
            match kinds.as_slice() {
                [only] => (Some(*only), all > 1),
                _ => (None, false),
            }
        }
        _ => (None, false),
    }
}

/// The words that a text may be.
fn values(schema: &Value) -> Option<Vec<Value>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(only), _) => Some(vec![only.clone()]),
        (None, Some(Value::Array(values))) => Some(values.clone()),
        _ => None,
    }
}

/// Formats that Kubernetes knows. It has no unsigned numbers: `minimum` says that they are none below 0.
fn known(format: &str) -> Option<&'static str> {
    match format {
        "double" => Some("double"),
        "float" => Some("float"),
        "int32" => Some("int32"),
        "uint8" | "uint16" | "uint32" | "int64" | "uint64" | "uint" => Some("int64"),
        _ => None,
    }
}
