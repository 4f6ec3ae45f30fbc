//! Rules of the job as a whole: name, backbone, list of tasks, sampler, resources, output.

use super::Findings;
use crate::balancer::Class;
use crate::exchange::{Affinity, SyncKind};
use crate::job::{AdaptiveBy, AdaptiveSpec, BackboneSpec, Resources, Sampler, TaskSpec, Tuning};
use crate::location::{Location, shown};
use crate::{InputGroups, JobSpec};
use std::collections::BTreeMap;

/// Longest name of a job or a task, in bytes: that of a DNS label.
pub(super) const MAX_NAME: usize = 63;

/// The name of the job, or of its namespace.
pub(super) fn name(field: &str, name: &str, found: &mut Findings) {
    let rule = "lower-case letters, digits and `-`, starting with a letter and ending with a \
                letter or digit";
    if name.is_empty() {
        found.add(field, format!("is empty; expected a name of {rule}"));
        return;
    }
    if name.len() > MAX_NAME {
        found.add(
            field,
            format!(
                "has {} characters; at most {MAX_NAME} are allowed: shorten it",
                name.len()
            ),
        );
    }
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase());
    let ends_well = name.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let only_allowed = name
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if starts_well && ends_well && only_allowed {
        return;
    }
    let advice = match proposal(name) {
        Some(proposal) => format!("; `{proposal}` would do"),
        None => String::new(),
    };
    found.add(
        field,
        format!("{name:?} is not a valid name; expected {rule}{advice}"),
    );
}

/// The nearest valid name, if one can be made of `name`.
fn proposal(name: &str) -> Option<String> {
    let mapped: String = name
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                c
            } else {
                '-'
            }
        })
        .collect();
    let start = mapped.find(|c: char| c.is_ascii_lowercase())?;
    let cut: String = mapped[start..].chars().take(MAX_NAME).collect();
    let trimmed = cut.trim_end_matches('-');
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

pub(super) fn backbone(backbone: &BackboneSpec, found: &mut Findings) {
    found.require(!backbone.path.trim().is_empty(), "backbone.path", || {
        "is empty; expected a directory with config.json and model.safetensors".to_owned()
    });
    match Location::parse(&backbone.path) {
        Err(message) => found.add(
            "backbone.path",
            format!("{:?} {message}", shown(&backbone.path)),
        ),
        Ok(Location::Http(_)) => found.add(
            "backbone.path",
            format!(
                "{:?} is one file to an HTTP server, and a model is a directory; expected a path, \
                 file:///… or s3://BUCKET/PREFIX",
                shown(&backbone.path)
            ),
        ),
        Ok(Location::Path(_) | Location::S3 { .. }) => {}
    }
    found.require((3..=100_000).contains(&backbone.max_tokens), "backbone.max_tokens", || {
        format!(
            "is {}; expected 3 to 100000 (a start token, an end token and at least one of text)",
            backbone.max_tokens
        )
    });
    if let Some(dropout) = backbone.dropout {
        found.require((0.0..1.0).contains(&dropout), "backbone.dropout", || {
            format!("is {dropout}; expected at least 0 and below 1")
        });
    }
}

pub(super) fn tasks(tasks: &[TaskSpec], found: &mut Findings) {
    found.require(!tasks.is_empty(), "tasks", || {
        "is empty; expected at least one task with `name`, `head` and `data`".to_owned()
    });
    let mut first_use = BTreeMap::new();
    for (index, task) in tasks.iter().enumerate() {
        let field = format!("tasks[{index}].name");
        task_name(&task.name, &field, found);
        if let Some(first) = first_use.get(task.name.as_str()) {
            found.add(
                field,
                format!(
                    "{:?} is already the name of tasks[{first}]; rename one",
                    task.name
                ),
            );
        } else {
            first_use.insert(task.name.as_str(), index);
        }
    }
}

/// Task names become parts of file and tensor names, so they are kept plain.
fn task_name(name: &str, field: &str, found: &mut Findings) {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let only_allowed = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if name.is_empty() {
        found.add(
            field,
            "is empty; expected a name of letters, digits, `-` and `_`",
        );
    } else if !(starts_well && only_allowed) {
        found.add(
            field,
            format!(
                "{name:?} is not a valid name; expected letters, digits, `-` and `_`, starting \
                 with a letter or digit"
            ),
        );
    } else if name.len() > MAX_NAME {
        found.add(
            field,
            format!(
                "has {} characters; at most {MAX_NAME} are allowed: shorten it",
                name.len()
            ),
        );
    }
}

pub(super) fn sampler(spec: &JobSpec, found: &mut Findings) {
    let mut temperature = |temperature: f64, field: &str| {
        found.require(temperature.is_finite() && temperature > 0.0, field, || {
            format!(
                "is {temperature}; expected a finite number above 0: 1 is proportional, \
                 larger ones are nearer to uniform"
            )
        });
    };
    match &spec.sampler {
        Sampler::Proportional | Sampler::Uniform => {}
        Sampler::Temperature(given) => temperature(*given, "sampler.temperature"),
        Sampler::Capped {
            cap,
            temperature: given,
        } => {
            temperature(*given, "sampler.capped.temperature");
            found.require(*cap > 0, "sampler.capped.cap", || {
                "is 0; expected the number of samples that count at most".to_owned()
            });
        }
        Sampler::Annealed { from, to } => {
            for (name, value) in [("from", from), ("to", to)] {
                let field = format!("sampler.annealed.{name}");
                found.require((0.0..=4.0).contains(value), &field, || {
                    format!("is {value}; expected 0 (uniform) to 4, where 1 is proportional")
                });
            }
        }
        Sampler::Adaptive(given) => {
            temperature(given.temperature, "sampler.adaptive.temperature");
            adaptive(*given, found);
            if given.by == AdaptiveBy::Affinity {
                by_affinity(spec, found);
            }
        }
        Sampler::Probabilities(given) => probabilities(spec, given, found),
    }
}

fn adaptive(given: AdaptiveSpec, found: &mut Findings) {
    let (alpha, every, smoothing) = (given.alpha, given.every_steps, given.smoothing);
    found.require(
        (0.0..=10.0).contains(&alpha),
        "sampler.adaptive.alpha",
        || format!("is {alpha}; expected 0 (follows no loss) to 10, such as 1"),
    );
    let (field, least) = ("sampler.adaptive.every_steps", AdaptiveSpec::LEAST);
    found.require(every >= least, field, || {
        format!("is {every}; expected at least {least}: batches are prepared some steps ahead")
    });
    let field = "sampler.adaptive.smoothing";
    found.require((0.0..1.0).contains(&smoothing), field, || {
        format!("is {smoothing}; expected at least 0 and below 1")
    });
}

/// Gradients can be compared where there are two or more, on a backbone, and each travels apart.
fn by_affinity(spec: &JobSpec, found: &mut Findings) {
    const FIELD: &str = "sampler.adaptive.by";
    let method = spec.balancer.method;
    let reasons = [
        (spec.tasks.len() < 2, "there is one task only".to_owned()),
        (
            spec.tuning == Tuning::Heads,
            "`tuning: heads` gives the backbone no gradients".to_owned(),
        ),
        (
            method.info().class == Class::Representation,
            format!("`{method}` never has the tasks' gradients of the backbone apart"),
        ),
        (
            spec.exchange.sync == SyncKind::AllReduce,
            "`exchange.sync: all_reduce` sums them".to_owned(),
        ),
        (
            spec.exchange.affinity == Affinity::Off,
            "`exchange.affinity` is off".to_owned(),
        ),
    ];
    for (holds, why) in reasons {
        found.require(!holds, FIELD, || {
            format!(
                "follows cosines between tasks' gradients, but {why}; change that, or use `losses`"
            )
        });
    }
}

/// Every task that leads its inputs has a probability, and nothing else has.
fn probabilities(spec: &JobSpec, given: &BTreeMap<String, f64>, found: &mut Findings) {
    const FIELD: &str = "sampler.probabilities";
    let groups = InputGroups::of(&spec.tasks);
    for (index, task) in spec.tasks.iter().enumerate() {
        let named = given.contains_key(&task.name);
        if groups.leads(index) {
            found.require(named, FIELD, || {
                format!("has no number for the task `{}`; add one", task.name)
            });
        } else if named {
            let leader = &spec.tasks[groups.leader(index)].name;
            found.add(
                format!("{FIELD}.{}", task.name),
                format!("is of a task that is drawn with `{leader}` (input_group); remove it"),
            );
        }
    }
    for (name, value) in given {
        let field = format!("{FIELD}.{name}");
        found.require(value.is_finite() && *value > 0.0, &field, || {
            format!("is {value}; expected a finite number above 0")
        });
        if !spec.tasks.iter().any(|task| task.name == *name) {
            found.add(field, "is of no task of this job; remove it");
        }
    }
}

/// Most ranks, and most shards, of a job: what a coordinator plans for without being asked twice.
const MOST_RANKS: u32 = 65_536;

pub(super) fn resources(resources: &Resources, batch_size: u32, found: &mut Findings) {
    if let Some(range) = resources.workers {
        found.require(range.min >= 1, "resources.workers.min", || {
            "is 0; expected at least 1".to_owned()
        });
        found.require(range.max >= range.min, "resources.workers.max", || {
            format!(
                "is {}, below min, {}; expected at least that",
                range.max, range.min
            )
        });
        if let Some(ranks) = resources.ranks {
            found.require(range.max <= ranks, "resources.workers.max", || {
                format!(
                    "is {}: more workers than ranks ({ranks}); raise resources.ranks or lower it",
                    range.max
                )
            });
        } else {
            found.add(
                "resources.ranks",
                "is missing: a job that may run on several numbers of workers fixes its number of ranks",
            );
        }
    }
    for (field, number) in [
        ("resources.ranks", resources.ranks),
        ("resources.shards", resources.shards),
    ] {
        found.require(
            number.is_none_or(|number| number <= MOST_RANKS),
            field,
            || {
                format!(
                    "is {}; expected at most {MOST_RANKS}",
                    number.unwrap_or_default()
                )
            },
        );
    }
    if let Some(ranks) = resources.ranks {
        found.require(ranks >= 1, "resources.ranks", || {
            "is 0; expected at least 1, or leave it out to take every rank".to_owned()
        });
    }
    if let Some(shards) = resources.shards {
        found.require(shards >= 1, "resources.shards", || {
            "is 0; expected at least 1, or leave it out for one per rank".to_owned()
        });
        if let Some(ranks) = resources.ranks {
            found.require(shards >= ranks, "resources.shards", || {
                format!("is {shards}, fewer than the {ranks} ranks; expected at least one per rank")
            });
        }
    }
    let (field, parts, noun) = match (resources.shards, resources.ranks) {
        (Some(shards), _) => ("resources.shards", shards, "shards"),
        (None, Some(ranks)) => ("resources.ranks", ranks, "ranks"),
        (None, None) => return,
    };
    found.require(parts <= batch_size || batch_size == 0, field, || {
        format!(
            "is {parts}: more {noun} than samples in a batch (training.batch_size is \
             {batch_size}); raise the batch size or lower the number of {noun}"
        )
    });
}

pub(super) fn output(output: Option<&str>, found: &mut Findings) {
    if let Some(path) = output {
        found.require(!path.trim().is_empty(), "output", || {
            "is empty; expected a directory, or leave it out".to_owned()
        });
        found.require(!Location::is_url(path), "output", || {
            format!(
                "{:?} is a URL; expected a directory that all workers of the job share",
                shown(path)
            )
        });
    }
}
