//! What a job is called in the cluster, how a submission is recognised, and what the job is.

use crate::resource::TrainingJob;
use espalier_spec::{JobSpec, Violation, check};
use serde_json::Value;

/// Most characters of a job's name.
const LONGEST: usize = 63;
/// Characters of the hash at the end of a shortened name.
const HASH: usize = 8;

/// Name of a resource's job: `NAMESPACE-NAME`; beyond 63 characters its beginning and a hash of all of it.
#[must_use]
pub fn job_name(namespace: &str, name: &str) -> String {
    let whole = format!("{namespace}-{name}");
    if whole.len() <= LONGEST {
        return whole;
    }
    // `/` is in neither, so that no other pair has this hash by construction.
    let hash = blake3::hash(format!("{namespace}/{name}").as_bytes()).to_hex();
    let begin: String = whole.chars().take(LONGEST - HASH - 1).collect();
    format!("{}-{}", begin.trim_end_matches('-'), &hash[..HASH])
}

/// The id that a resource's job is submitted with: the same for the same resource and the same job, whatever
/// else of the resource has changed.
#[must_use]
pub fn request_id(uid: &str, spec: &JobSpec) -> String {
    // A spec is plain data: writing it can't fail.
    let spec = serde_json::to_string(spec).unwrap_or_default();
    let hash = blake3::hash(format!("{uid}/{spec}").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    uuid::Builder::from_custom_bytes(bytes)
        .into_uuid()
        .to_string()
}

/// The job of a resource, with the resource's name and namespace, all rules checked.
///
/// # Errors
/// Everything that is wrong with it, each with its place under `spec.job`.
pub fn job_spec(resource: &TrainingJob) -> Result<JobSpec, Vec<Violation>> {
    let (namespace, name) = resource.key();
    let Value::Object(mut job) = resource.spec.job.clone() else {
        return Err(vec![bad(
            "spec.job",
            "is no object, expected the fields of a job file",
        )]);
    };
    let mut violations = Vec::new();
    if let Some(given) = job.get("name")
        && given.as_str() != Some(name.as_str())
    {
        let message =
            format!("is {given}, expected the resource's own name, `{name}`; leave it out");
        violations.push(bad("spec.job.name", message));
    }
    if job.contains_key("namespace") {
        let message = format!("is the resource's own, `{namespace}`; leave it out");
        violations.push(bad("spec.job.namespace", message));
    }
    job.insert("name".into(), job_name(&namespace, &name).into());
    job.insert("namespace".into(), namespace.into());
    match serde_json::from_value::<JobSpec>(Value::Object(job)) {
        Err(error) => violations.push(bad("spec.job", error.to_string())),
        Ok(spec) => {
            let broken = check(&spec).err().unwrap_or_default();
            violations.extend(broken.into_iter().map(|violation| Violation {
                field: format!("spec.job.{}", violation.field),
                ..violation
            }));
            if violations.is_empty() {
                return Ok(spec);
            }
        }
    }
    Err(violations)
}

fn bad(field: &str, message: impl Into<String>) -> Violation {
    Violation {
        field: field.to_owned(),
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::decide::kit;

    // Promise: names are legal names of jobs, whatever Kubernetes allows, and different ones stay different.
    #[test]
    fn names() {
        assert_eq!(job_name("team", "digits"), "team-digits");
        let long = |last: char| format!("{}{last}", "x".repeat(62));
        let (a, b) = (job_name("team", &long('a')), job_name("team", &long('b')));
        assert_ne!(a, b);
        for name in [&a, &b] {
            assert_eq!(name.len(), 63, "{name}");
            assert!(name.starts_with("team-xxx"), "{name}");
        }
        // The cut falls on the `-` between namespace and name.
        let cut = job_name(&"n".repeat(53), "some-name-or-other");
        assert!(!cut.contains("--") && cut.len() <= 63, "{cut}");
    }

    // Promise: an id depends on the resource and the job alone.
    #[test]
    fn ids() {
        let one = job_spec(&kit::resource("a")).unwrap();
        let mut other = one.clone();
        other.seed = 7;
        assert_eq!(request_id("u", &one), request_id("u", &one.clone()));
        assert_ne!(request_id("u", &one), request_id("v", &one));
        assert_ne!(request_id("u", &one), request_id("u", &other));
        assert!(uuid::Uuid::try_parse(&request_id("u", &one)).is_ok());
    }

    // Promise: the job is the resource's in name and namespace, and everything wrong is named by its place.
    #[test]
    fn jobs() {
        let spec = job_spec(&kit::resource("digits")).unwrap();
        assert_eq!((&*spec.name, &*spec.namespace), ("team-digits", "team"));
        let fields = |job: Value| -> Vec<String> {
            let mut resource = kit::resource("digits");
            resource.spec.job = job;
            let violations = job_spec(&resource).unwrap_err();
            violations.into_iter().map(|v| v.field).collect()
        };
        assert_eq!(fields(Value::Null), ["spec.job"]);
        let mut job = kit::job();
        job["name"] = "other".into();
        job["namespace"] = "team".into();
        job["tasks"] = Value::Array(vec![]);
        let found = fields(job);
        for field in ["spec.job.name", "spec.job.namespace", "spec.job.tasks"] {
            assert!(found.iter().any(|f| f == field), "{field}: {found:?}");
        }
        let mut typo = kit::job();
        typo["trainng"] = 1.into();
        assert_eq!(fields(typo), ["spec.job"]);
    }
}
