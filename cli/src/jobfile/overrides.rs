//! `--set field=value`: a field of the job given on the command line.

use super::place::{Step, steps};
use crate::error::{Code, Error, Result, nearest};
use espalier_spec::JobSpec;
use serde_json::{Map, Value};

/// The job with one `field=value` applied. The value is YAML: `2`, `heads`, `{last_blocks: 2}`.
/// Tasks are named by index or by name: `tasks[0].weight` or `tasks.section.weight`.
///
/// # Errors
/// Usage errors (exit code 2) that name the field.
pub(super) fn apply(spec: &JobSpec, set: &str) -> Result<JobSpec> {
    let usage = |message: String| Error::new(Code::Usage, format!("--set {set}: {message}"));
    let Some((path, text)) = set.split_once('=') else {
        return Err(usage("has no `=`".to_owned())
            .hint("write it as field=value, such as --set training.steps=100"));
    };
    let value: Value = serde_saphyr::from_str(text)
        .map_err(|error| usage(format!("{text:?} is not a YAML value: {error}")))?;
    let mut root = serde_json::to_value(spec)
        .map_err(|error| usage(format!("can't represent the job: {error}")))?;
    let steps = steps(path);
    if steps.is_empty() {
        return Err(usage("names no field before the `=`".to_owned()));
    }
    *slot(&mut root, &steps).map_err(usage)? = value;
    serde_path_to_error::deserialize(root).map_err(|error| {
        let at = error.path().to_string();
        let message = error.into_inner().to_string();
        let error = usage(format!("{at}: {message}"));
        match suggestion(&message) {
            Some(known) => error.hint(format!("did you mean `{known}`?")),
            None => error.hint("see `espalier schema` for the fields of a job file"),
        }
    })
}

/// The place of the value at `steps`, made if it is not there.
fn slot<'a>(root: &'a mut Value, steps: &[Step]) -> Result<&'a mut Value, String> {
    let mut node = root;
    for step in steps {
        node = match (step, node) {
            (Step::Index(index), Value::Array(items)) => {
                let count = items.len();
                items
                    .get_mut(*index)
                    .ok_or_else(|| format!("there is no entry {index}: the list has {count}"))?
            }
            (Step::Index(index), _) => return Err(format!("[{index}] does not follow a list")),
            (Step::Key(key), Value::Array(items)) => {
                let names: Vec<String> = items.iter().map(name_of).collect();
                let index = names.iter().position(|name| name == key).ok_or_else(|| {
                    format!(
                        "there is no entry named {key:?}; there are: {}",
                        names.join(", ")
                    )
                })?;
                &mut items[index]
            }
            (Step::Key(key), node) => {
                // An enum such as `sampler: uniform` is a word until a field of it is set.
                if !node.is_object() {
                    *node = Value::Object(Map::new());
                }
                match node {
                    Value::Object(fields) => fields.entry(key.as_str()).or_insert(Value::Null),
                    _ => return Err(format!("{key} can't be set here")),
                }
            }
        };
    }
    Ok(node)
}

fn name_of(value: &Value) -> String {
    value
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or("?")
        .to_owned()
}

/// The known field nearest to the unknown one that a serde message speaks of: it quotes the
/// unknown one first and then the known ones.
fn suggestion(message: &str) -> Option<&str> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message
        .starts_with("unknown ")
        .then(|| quoted.next())
        .flatten()?;
    nearest(unknown, quoted)
}
