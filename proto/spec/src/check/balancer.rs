//! Rules of the balancer: options that fit the method, parameters that it has, in their ranges.

use super::{Findings, Violation, nearest};
use crate::balancer::{BalancerSpec, Class, Method, Normalize, OnNonFinite};
use crate::exchange::Affinity;
use crate::job::HeadKind;
use crate::{InputGroups, JobSpec};

/// Checks a balancer by itself, as in a job with `tasks` tasks (None: any number). Field paths
/// begin with `balancer`. Returns all violations.
#[must_use]
pub fn balancer(spec: &BalancerSpec, tasks: Option<usize>) -> Vec<Violation> {
    let mut found = Findings::default();
    if let Some(tasks) = tasks {
        number_of_tasks(spec, tasks, &mut found);
    }
    params(spec, &mut found);
    options(spec, &mut found);
    found.violations
}

/// The rules of a job's balancer.
pub(super) fn rules(spec: &JobSpec, found: &mut Findings) {
    let own = balancer(&spec.balancer, Some(spec.tasks.len()));
    found.violations.extend(own);
    let method = spec.balancer.method;
    if method.info().class == Class::Representation {
        representation(spec, found);
    }
    if matches!(method, Method::Mean | Method::Fixed) {
        return;
    }
    for (index, task) in spec.tasks.iter().enumerate() {
        // What is not above 0 is the complaint of another rule.
        found.require(
            task.weight == 1.0 || task.weight.is_nan() || task.weight <= 0.0,
            &format!("tasks[{index}].weight"),
            || {
                format!(
                    "is {}, but balancer `{method}` finds the weights itself; leave it out, or use \
                     balancer `fixed` or `mean`",
                    task.weight
                )
            },
        );
    }
}

/// Rules of the methods that weigh gradients of the features that all tasks share: one forward pass
/// serves all tasks, and weights are found before its backward.
fn representation(spec: &JobSpec, found: &mut Findings) {
    let method = spec.balancer.method;
    let instead = match method {
        Method::AlignedUb => Method::AlignedMtl,
        _ => Method::Mgda,
    };
    let shared = InputGroups::of(&spec.tasks).all_shared();
    found.require(shared || spec.tasks.len() < 2, "balancer", || {
        format!(
            "`{method}` weighs gradients of the features that all tasks share, so all tasks must be \
             in one input_group; put them there, or use `{instead}`"
        )
    });
    for (index, task) in spec.tasks.iter().enumerate() {
        let field = format!("tasks[{index}].head");
        let by_vectors = task.zero_shot.as_ref().is_some_and(|s| s.vectors.is_some());
        let described = matches!(task.head, HeadKind::Entailment | HeadKind::Ranking)
            || task.head == HeadKind::LabelEmbedding && !by_vectors;
        found.require(!described, &field, || {
            format!(
                "learns from more texts than its samples', but `{method}` weighs gradients of samples' \
                 features; use `{instead}`"
            )
        });
        found.require(!task.head.reads_rows(), &field, || {
            format!(
                "reads the vectors of words or frames, but `{method}` weighs gradients of pooled features; \
                 use `{instead}`"
            )
        });
        found.require(!task.head.reads_map(), &field, || {
            format!(
                "reads a map of features, but `{method}` weighs gradients of pooled ones; use \
                 `{instead}`"
            )
        });
    }
    let one_pass = [
        ("training.accumulation", spec.training.accumulation <= 1),
        (
            "resources.shards",
            spec.resources.shards.is_none_or(|shards| shards <= 1),
        ),
    ];
    for (field, holds) in one_pass {
        found.require(holds, field, || {
            format!(
                "computes a step in parts, but `{method}` needs the features of the whole step at \
                 once; leave it out, or use `{instead}`"
            )
        });
    }
    found.require(
        spec.balancer.on_non_finite == OnNonFinite::Fail,
        "balancer.on_non_finite",
        || {
            format!(
                "`{method}` cannot leave a task out of a step; leave it out, or use `{instead}`"
            )
        },
    );
    found.require(
        spec.exchange.affinity != Affinity::On,
        "exchange.affinity",
        || {
            format!(
                "is on, but `{method}` never has the tasks' gradients of the backbone apart; set \
             `affinity: auto`, or use `{instead}`"
            )
        },
    );
}

fn number_of_tasks(spec: &BalancerSpec, tasks: usize, found: &mut Findings) {
    let method = spec.method;
    let least = match (method, spec.param("trim")) {
        (Method::TrimmedMean, Some(trim)) if (0.0..1e6).contains(&trim) => 1 + 2 * trim as usize,
        _ => method.info().min_tasks,
    };
    // A job without tasks is the complaint of another rule.
    found.require(tasks >= least || tasks == 0, "balancer", || {
        let has = if tasks == 1 {
            "1 task".to_owned()
        } else {
            format!("{tasks} tasks")
        };
        format!("`{method}` needs at least {least} tasks, the job has {has}; use `mean`")
    });
}

fn params(spec: &BalancerSpec, found: &mut Findings) {
    let info = spec.method.info();
    for (name, &value) in &spec.params {
        let field = format!("balancer.params.{name}");
        let Some(known) = info.param(name) else {
            let names: Vec<&str> = info.params.iter().map(|param| param.name).collect();
            let list = names.join(", ");
            let advice = match (nearest(name, names.iter().copied()), names.is_empty()) {
                (Some(near), _) => format!("; did you mean `{near}`? It has {list}"),
                (None, false) => format!("; it has {list}"),
                (None, true) => "; it has none: remove it".to_owned(),
            };
            found.add(
                field,
                format!("`{}` has no such parameter{advice}", spec.method),
            );
            continue;
        };
        found.require(known.range.holds(value), &field, || {
            format!(
                "is {value}; expected {}, such as {} ({})",
                known.range, known.default, known.meaning
            )
        });
    }
}

fn options(spec: &BalancerSpec, found: &mut Findings) {
    let (method, class) = (spec.method, spec.method.info().class);
    found.require(
        spec.scale.is_finite() && spec.scale > 0.0,
        "balancer.scale",
        || format!("is {}; expected a finite number above 0", spec.scale),
    );
    found.require(
        spec.scale == 1.0 || method != Method::Mean,
        "balancer.scale",
        || "has no use with `mean`; change training.optimizer.learning_rate instead".to_owned(),
    );
    let constant = matches!(method, Method::Equal | Method::Fixed | Method::Rlw);
    let by_gram = matches!(class, Class::Gram | Class::Representation);
    found.require(
        !spec.log_losses || constant || by_gram || class == Class::TwoBatch,
        "balancer.log_losses",
        || format!("does not fit `{method}`, which treats losses in its own way; remove it"),
    );
    found.require(
        spec.normalize == Normalize::None || by_gram,
        "balancer.normalize",
        || {
            format!(
                "needs a method that sees each task's gradient as a whole, not `{method}` (class \
                 {}); remove it",
                class.as_str()
            )
        },
    );
    found.require(
        !spec.log_losses || matches!(spec.normalize, Normalize::None | Normalize::L2),
        "balancer.normalize",
        || "divides by the loss, as log_losses does already; use one of the two".to_owned(),
    );
    let weighs = !matches!(class, Class::Elementwise) && method != Method::Mean;
    let smoothing = spec.smoothing;
    found.require(
        (0.0..1.0).contains(&smoothing),
        "balancer.smoothing",
        || format!("is {smoothing}; expected at least 0 and below 1 (0 turns it off)"),
    );
    found.require(smoothing == 0.0 || weighs, "balancer.smoothing", || {
        format!("smooths weights, and `{method}` has none; remove it")
    });
    found.require(spec.update_every >= 1, "balancer.update_every", || {
        "is 0; expected at least 1 (1 finds new weights at every step)".to_owned()
    });
    found.require(
        spec.update_every <= 1 || (weighs && class != Class::Buffers),
        "balancer.update_every",
        || format!("does not fit `{method}`, which has to see every step; remove it"),
    );
}

#[cfg(test)]
mod tests {
    use super::balancer;
    use crate::JobSpec;
    use crate::balancer::{BalancerSpec, METHODS, Method};
    use crate::check::{check, tests::valid};
    use crate::exchange::{Affinity, Sharding, SyncKind};
    use serde_json::{Value, json};

    #[test]
    fn every_method_is_valid_as_it_is() {
        // A method's name alone is a valid balancer for a job with enough tasks.
        for info in &METHODS {
            assert_eq!(
                balancer(&BalancerSpec::of(info.method), Some(3)),
                [],
                "{}",
                info.name
            );
            assert_eq!(
                balancer(&BalancerSpec::of(info.method), None),
                [],
                "{}",
                info.name
            );
        }
    }

    #[test]
    fn a_representation_is_shared_by_all_tasks() {
        // Promise: a method of shared features trains only where one pass serves all tasks; else the
        // answer names what to use instead.
        for (method, instead) in [
            (Method::MgdaUb, "`mgda`"),
            (Method::AlignedUb, "`aligned_mtl`"),
        ] {
            let mut spec: JobSpec = serde_json::from_value(valid()).expect("right types");
            spec.balancer = BalancerSpec::of(method);
            let found = check(&spec).expect_err("refused");
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].field, "balancer");
            assert!(found[0].message.ends_with(instead), "{}", found[0].message);
            let data = spec.tasks[0].data.clone();
            for task in &mut spec.tasks {
                task.data = data.clone();
                task.data.labels = None;
                task.input_group = Some("texts".to_owned());
            }
            assert_eq!(check(&spec), Ok(()));
            spec.training.accumulation = 2;
            spec.exchange.affinity = Affinity::On;
            let found = check(&spec).expect_err("refused");
            let fields: Vec<&str> = found.iter().map(|v| v.field.as_str()).collect();
            assert_eq!(fields, ["training.accumulation", "exchange.affinity"]);
        }
    }

    #[test]
    fn odd_numbers_are_answered() {
        // Whatever number a parameter gets, the answer is a violation or none, never a panic.
        for info in &METHODS {
            for param in info.params {
                for value in [f64::NAN, f64::INFINITY, -1.0, 1e300, f64::MIN, 0.5] {
                    let mut spec = BalancerSpec::of(info.method);
                    spec.params.insert(param.name.to_owned(), value);
                    let found = balancer(&spec, Some(2));
                    let named = found.iter().any(|v| v.field.ends_with(param.name));
                    assert_eq!(named, !param.range.holds(value), "{} {value}", param.name);
                }
            }
        }
    }

    #[test]
    fn trimming_needs_what_it_leaves_out() {
        // Two tasks at each end and one to be left.
        let mut spec = BalancerSpec::of(Method::TrimmedMean);
        spec.params.insert("trim".to_owned(), 2.0);
        assert!(
            balancer(&spec, Some(4))[0]
                .message
                .contains("at least 5 tasks")
        );
        assert_eq!(balancer(&spec, Some(5)), []);
    }

    fn job(balancer: Value) -> JobSpec {
        let mut spec = valid();
        spec["balancer"] = balancer;
        serde_json::from_value(spec).expect("right types")
    }

    #[test]
    fn a_balancer_fits_the_job() {
        // Methods that compare tasks need two, find the weights themselves, and see gradients apart.
        let mut spec = job(json!("upgrad"));
        assert_eq!(check(&spec), Ok(()));
        assert_eq!(spec, job(json!({"method": "upgrad"})));
        spec.tasks[1].weight = 2.0;
        spec.exchange.sync = SyncKind::AllReduce;
        spec.exchange.sharding = Sharding::None;
        let violations = check(&spec).expect_err("weight and exchange");
        let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["tasks[1].weight", "exchange.sync"]);
        assert!(violations[0].message.contains("balancer `fixed`"));
        assert!(violations[1].message.contains("owner_combine"));
        spec.balancer.method = Method::Fixed;
        assert_eq!(check(&spec), Ok(()));
        spec.balancer.method = Method::Upgrad;
        spec.exchange.sync = SyncKind::Auto;
        spec.tasks.truncate(1);
        let violations = check(&spec).expect_err("one task");
        assert_eq!(violations[0].field, "balancer");
        assert!(
            violations[0]
                .message
                .contains("at least 2 tasks, the job has 1 task")
        );
    }
}
