//! Objects and the rules of their versions.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Such as `apis/apps/v1`.
    pub(crate) group: String,
    /// Such as `statefulsets`.
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: u16, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// As the API server says it.
    pub(crate) fn status(&self) -> Value {
        let reason = match self.code {
            403 => "Forbidden",
            404 => "NotFound",
            409 if self.message.contains("exists") => "AlreadyExists",
            409 => "Conflict",
            410 => "Expired",
            _ => "InternalError",
        };
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": reason,
            "code": self.code,
        })
    }
}

/// Something that happened to an object.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) kind: &'static str,
    pub(crate) key: Key,
    pub(crate) object: Value,
}

/// All objects, and what happened to them.
#[derive(Default)]
pub(crate) struct Store {
    version: u64,
    objects: BTreeMap<Key, Value>,
    changes: Vec<Change>,
    /// Changes up to here are forgotten.
    forgotten: u64,
}

impl Store {
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Whether a watch can go on after a version.
    pub(crate) fn knows(&self, version: u64) -> bool {
        version >= self.forgotten
    }

    pub(crate) fn forget(&mut self) {
        self.forgotten = self.version;
        self.changes.clear();
    }

    /// The first change after a version that fits.
    pub(crate) fn next(&self, after: u64, fits: impl Fn(&Key) -> bool) -> Option<&Change> {
        let seen = self
            .changes
            .partition_point(|change| change.version <= after);
        let mut later = self.changes[seen..].iter();
        later.find(|change| fits(&change.key))
    }

    pub(crate) fn list(&self, fits: impl Fn(&Key) -> bool) -> Vec<Value> {
        let found = self.objects.iter().filter(|(key, _)| fits(key));
        found.map(|(_, object)| object.clone()).collect()
    }

    pub(crate) fn get(&self, key: &Key) -> Result<Value, Refusal> {
        let found = self.objects.get(key).cloned();
        found.ok_or_else(|| Refusal::new(404, format!("{} {:?} not found", key.resource, key.name)))
    }

    pub(crate) fn create(&mut self, key: &Key, mut object: Value) -> Result<Value, Refusal> {
        if self.objects.contains_key(key) {
            let message = format!("{} {:?} already exists", key.resource, key.name);
            return Err(Refusal::new(409, message));
        }
        let uid = format!("00000000-0000-4000-8000-{:012}", self.version + 1);
        let metadata = &mut object["metadata"];
        metadata["name"] = key.name.clone().into();
        metadata["namespace"] = key.namespace.clone().into();
        metadata["uid"] = uid.into();
        metadata["generation"] = 1.into();
        metadata["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        if has_status(key) {
            remove(&mut object, "status");
        }
        Ok(self.keep(key, object, "ADDED"))
    }

    /// Writes an object or one of its subresources.
    pub(crate) fn replace(
        &mut self,
        key: &Key,
        sub: Option<&str>,
        new: &Value,
    ) -> Result<Value, Refusal> {
        let old = self.get(key)?;
        let (based_on, is) = (version(new), version(&old));
        if based_on.is_some() && based_on != is {
            let message = format!(
                "{} {:?} has been modified: it is {is:?}, not {based_on:?}",
                key.resource, key.name
            );
            return Err(Refusal::new(409, message));
        }
        let mut next = old.clone();
        match sub {
            Some("status") => next["status"] = new["status"].clone(),
            Some("scale") => next["spec"]["replicas"] = new["spec"]["replicas"].clone(),
            Some(other) => return Err(Refusal::new(404, format!("no subresource {other}"))),
            None => {
                for (field, value) in new.as_object().unwrap() {
                    let kept = field == "metadata" || (field == "status" && has_status(key));
                    if !kept {
                        next[field] = value.clone();
                    }
                }
                for field in ["labels", "annotations", "finalizers"] {
                    match new["metadata"].get(field) {
                        Some(value) if !value.is_null() => {
                            next["metadata"][field] = value.clone();
                        }
                        _ => remove(&mut next["metadata"], field),
                    }
                }
            }
        }
        if next == old {
            return Ok(old);
        }
        if next["spec"] != old["spec"] {
            let generation = old["metadata"]["generation"].as_u64().unwrap_or(0) + 1;
            next["metadata"]["generation"] = generation.into();
        }
        if is_deleted(&next) && !is_held(&next) {
            return Ok(self.take_out(key, next));
        }
        Ok(self.keep(key, next, "MODIFIED"))
    }

    /// A merge patch (RFC 7386) of an object or one of its subresources.
    pub(crate) fn patch(
        &mut self,
        key: &Key,
        sub: Option<&str>,
        patch: &Value,
    ) -> Result<Value, Refusal> {
        let mut new = self.get(key)?;
        merge(&mut new, patch);
        self.replace(key, sub, &new)
    }

    pub(crate) fn delete(&mut self, key: &Key, options: &Value) -> Result<Value, Refusal> {
        let mut object = self.get(key)?;
        for field in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][field];
            if !wanted.is_null() && *wanted != object["metadata"][field] {
                let message = format!("precondition failed: {field} is another one");
                return Err(Refusal::new(409, message));
            }
        }
        if !is_held(&object) {
            return Ok(self.take_out(key, object));
        }
        if is_deleted(&object) {
            return Ok(object);
        }
        object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
        Ok(self.keep(key, object, "MODIFIED"))
    }

    fn keep(&mut self, key: &Key, object: Value, kind: &'static str) -> Value {
        let object = self.record(key, object, kind);
        self.objects.insert(key.clone(), object.clone());
        object
    }

    fn take_out(&mut self, key: &Key, object: Value) -> Value {
        self.objects.remove(key);
        self.record(key, object, "DELETED")
    }

    fn record(&mut self, key: &Key, mut object: Value, kind: &'static str) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.changes.push(Change {
            version: self.version,
            kind,
            key: key.clone(),
            object: object.clone(),
        });
        object
    }
}

fn version(object: &Value) -> Option<&str> {
    object["metadata"]["resourceVersion"]
        .as_str()
        .filter(|version| !version.is_empty())
}

fn has_status(key: &Key) -> bool {
    matches!(&*key.resource, "trainingjobs" | "statefulsets")
}

fn is_held(object: &Value) -> bool {
    let finalizers = object["metadata"]["finalizers"].as_array();
    finalizers.is_some_and(|finalizers| !finalizers.is_empty())
}

fn is_deleted(object: &Value) -> bool {
    object["metadata"].get("deletionTimestamp").is_some()
}

fn remove(object: &mut Value, field: &str) {
    if let Some(object) = object.as_object_mut() {
        object.shift_remove(field);
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (field, value) in patch {
        if value.is_null() {
            remove(target, field);
        } else {
            merge(&mut target[field], value);
        }
    }
}
