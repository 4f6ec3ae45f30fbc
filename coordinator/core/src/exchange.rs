//! How gradients travel: by which way, and whether each task's apart. A pure function of the job
//! and of where its tasks are computed.
//!
//! What a job asks for is obeyed; contradictions were refused when it was submitted. What it
//! leaves open is decided here: **owners combine** unless every rank keeps everything anyway and
//! nothing needs the tasks' gradients apart. **Apart** they travel where the balancer or the job
//! needs it, and where it costs nothing, since no rank serves more than one task.

use crate::generation::count;
use espalier_spec::JobSpec;
use espalier_spec::balancer::{Class, Normalize, OnNonFinite};
use espalier_spec::exchange::{Affinity, ExchangeType, Sharding, SyncKind};
use espalier_spec::job::{AdaptiveBy, Sampler};
use espalier_spec::plan::{ExchangePlan, SyncPath};

/// What was chosen and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What ranks obey.
    pub plan: ExchangePlan,
    /// Why, in sentences for people.
    pub reasons: Vec<String>,
}

/// Whether the tasks' gradients have to travel apart wherever the tasks are computed by so many
/// ranks.
#[must_use]
pub fn needs_apart(spec: &JobSpec, ranks: usize) -> bool {
    why_apart(spec, ranks).is_some()
}

/// What needs them apart.
fn why_apart(spec: &JobSpec, ranks: usize) -> Option<String> {
    let method = spec.balancer.method;
    let all_reduce = spec.exchange.sync == SyncKind::AllReduce;
    if all_reduce || method.info().class == Class::Representation {
        None
    } else if spec.tasks.len() < 2 {
        // There is nothing to compare it with, but its weight, too, is found from the losses of a
        // whole step.
        let late = spec.balancer.weighs_by_losses() && spec.computes_in_parts(ranks);
        late.then(|| by_whole_step(spec))
    } else if method.info().class.separate_gradients() {
        Some(format!("{method} needs them"))
    } else if spec.exchange.affinity == Affinity::On {
        Some("exchange.affinity is on".to_owned())
    } else if follows_affinity(spec) {
        Some("the sampler follows how they agree".to_owned())
    } else if matches!(spec.balancer.normalize, Normalize::L2 | Normalize::LossL2) {
        Some("balancer.normalize needs their norms".to_owned())
    } else if spec.balancer.on_non_finite == OnNonFinite::SkipTaskStep {
        Some("a task that is not finite is to be skipped".to_owned())
    } else if spec.balancer.weighs_by_losses() && spec.computes_in_parts(1) {
        // By one rank, whatever there are: a job of several tasks keeps the way that it has.
        Some(by_whole_step(spec))
    } else {
        None
    }
}

/// Why weights can't be known before a rank's first backward pass.
fn by_whole_step(spec: &JobSpec) -> String {
    let method = spec.balancer.method;
    format!("{method} weighs by the losses of a whole step, which is computed in parts")
}

/// Whether shares of tasks depend on how gradients agree.
fn follows_affinity(spec: &JobSpec) -> bool {
    matches!(&spec.sampler, Sampler::Adaptive(given) if given.by == AdaptiveBy::Affinity)
}

/// Chooses for a job whose ranks serve so many tasks each, in order of rank.
#[must_use]
pub fn choose(spec: &JobSpec, tasks: &[usize]) -> Choice {
    let wish = &spec.exchange;
    let needed = why_apart(spec, tasks.len());
    let sync = match wish.sync {
        SyncKind::OwnerCombine => SyncPath::OwnerCombine,
        SyncKind::AllReduce => SyncPath::AllReduce,
        SyncKind::Auto if wish.sharding == Sharding::None && needed.is_none() => {
            SyncPath::AllReduce
        }
        SyncKind::Auto => SyncPath::OwnerCombine,
    };
    let several = spec.tasks.len() > 1;
    let most = tasks.iter().copied().max().unwrap_or(0);
    let free = several
        && sync == SyncPath::OwnerCombine
        && most == 1
        && wish.affinity != Affinity::Off
        && spec.balancer.method.info().class != Class::Representation;
    let plan = ExchangePlan {
        sync,
        // All ranks sum everything, so all keep everything.
        sharding: match sync {
            SyncPath::AllReduce => Sharding::None,
            SyncPath::OwnerCombine => wish.sharding,
        },
        apart: needed.is_some() || free,
        dtype: wish.dtype,
    };
    let mut reasons = vec![way(spec, &plan)];
    if let Some(why) = needed {
        reasons.push(format!(
            "task gradients travel apart, since {why}: {}",
            gradients(tasks)
        ));
    } else if free {
        reasons.push(
            "task gradients travel apart at no cost, as no rank serves more than one task"
                .to_owned(),
        );
    } else if several && sync == SyncPath::OwnerCombine {
        reasons.push(format!(
            "a rank's tasks share one gradient, as {} needs no more",
            spec.balancer.method
        ));
    }
    if plan.dtype == ExchangeType::Bf16 {
        reasons.push(half(&plan, several));
    }
    Choice { plan, reasons }
}

/// The way of the gradients and what is kept where, in words.
fn way(spec: &JobSpec, plan: &ExchangePlan) -> String {
    let asked = spec.exchange.sync != SyncKind::Auto;
    match (plan.sync, plan.sharding) {
        (SyncPath::AllReduce, _) if asked => {
            "an all-reduce sums the gradients, as exchange.sync asks".to_owned()
        }
        (SyncPath::AllReduce, _) => {
            "an all-reduce sums the gradients, as every rank keeps everything and nothing needs \
             them apart"
                .to_owned()
        }
        (SyncPath::OwnerCombine, Sharding::None) => {
            "owners combine the gradients; every rank keeps everything, as exchange.sharding asks"
                .to_owned()
        }
        (SyncPath::OwnerCombine, Sharding::Optimizer) => {
            "owners combine the gradients and alone keep the optimizer's state".to_owned()
        }
        (SyncPath::OwnerCombine, Sharding::Full) => {
            "owners combine the gradients and alone keep parameters and the optimizer's state"
                .to_owned()
        }
    }
}

/// Whether bf16 is used. Where gradients are summed on their way they stay exact.
fn half(plan: &ExchangePlan, several: bool) -> String {
    let why = if plan.apart {
        return "task gradients travel as bf16, as exchange.dtype asks".to_owned();
    } else if !several {
        "there is one task"
    } else {
        "they do not travel apart"
    };
    format!(
        "exchange.dtype: bf16 is not used, as it is for task gradients that travel apart, and {why}; \
         numbers travel as f32"
    )
}

/// "each rank sends 2 gradients a step".
fn gradients(tasks: &[usize]) -> String {
    let least = tasks.iter().copied().min().unwrap_or(0);
    let most = tasks.iter().copied().max().unwrap_or(0);
    let sent = count(most, "gradient");
    match tasks.len() {
        0 | 1 => format!("rank 0 computes {sent} a step"),
        _ if least == most => format!("each rank sends {sent} a step"),
        _ => format!("the ranks send between {least} and {sent} a step"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_spec::balancer::{BalancerSpec, METHODS, Method};
    use espalier_spec::job::AdaptiveSpec;

    fn spec(tasks: usize, balancer: Method) -> JobSpec {
        let task = |k: usize| {
            serde_json::json!({
                "name": format!("t{k}"), "head": "single_label", "data": { "train": "t.csv" }
            })
        };
        let mut spec: JobSpec = serde_json::from_value(serde_json::json!({
            "name": "x",
            "backbone": { "path": "m" },
            "tasks": (0..tasks).map(task).collect::<Vec<_>>(),
        }))
        .unwrap();
        spec.balancer = BalancerSpec::of(balancer);
        spec
    }

    #[test]
    fn weights_that_come_late_need_them_apart() {
        // Promise: where weights can't be known before a step's first backward pass, or need norms,
        // tasks are kept apart, however cheap the method.
        let mut job = spec(2, Method::Dwa);
        assert!(!needs_apart(&job, 1));
        job.training.accumulation = 2;
        assert!(needs_apart(&job, 1));
        job.balancer = BalancerSpec::of(Method::Equal);
        assert!(!needs_apart(&job, 1));
        job.balancer.normalize = Normalize::L2;
        assert!(needs_apart(&job, 1));
        let mut job = spec(2, Method::Equal);
        job.exchange.sync = SyncKind::AllReduce;
        assert_eq!(choose(&job, &[1, 1]).plan.sharding, Sharding::None);
        let mut job = spec(2, Method::Mean);
        job.sampler = Sampler::Adaptive(AdaptiveSpec {
            by: AdaptiveBy::Affinity,
            ..AdaptiveSpec::default()
        });
        assert!(needs_apart(&job, 1));
    }

    #[test]
    fn a_balancer_of_gradients_gets_them_apart() {
        // Promise: every method that needs the tasks' gradients gets them, whatever the ranks
        // serve, and every other one sends one gradient for a rank with several tasks.
        for info in &METHODS {
            let spec = spec(3, info.method);
            let choice = choose(&spec, &[3, 2]);
            let needed = info.class.separate_gradients();
            assert_eq!(choice.plan.apart, needed, "{}", info.name);
            assert_eq!(needs_apart(&spec, 2), needed, "{}", info.name);
            assert_eq!(choice.plan.sync, SyncPath::OwnerCombine, "{}", info.name);
        }
        let reasons = choose(&spec(2, Method::Upgrad), &[2, 2]).reasons;
        assert_eq!(
            reasons,
            [
                "owners combine the gradients and alone keep the optimizer's state",
                "task gradients travel apart, since upgrad needs them: each rank sends 2 gradients a \
                 step",
            ]
        );
    }

    #[test]
    fn affinity_comes_where_it_is_free() {
        // Promise: with one task a rank gradients are apart anyway; else only if the job asks.
        let mut spec = spec(2, Method::Mean);
        assert!(choose(&spec, &[1, 1]).plan.apart);
        assert!(!choose(&spec, &[1, 2]).plan.apart);
        spec.exchange.affinity = Affinity::Off;
        assert!(!choose(&spec, &[1, 1]).plan.apart);
        spec.exchange.affinity = Affinity::On;
        let choice = choose(&spec, &[1, 2]);
        assert!(choice.plan.apart);
        assert_eq!(
            choice.reasons[1],
            "task gradients travel apart, since exchange.affinity is on: the ranks send between 1 \
             and 2 gradients a step"
        );
        assert_eq!(
            choose(&spec, &[2]).reasons[1],
            "task gradients travel apart, since exchange.affinity is on: rank 0 computes 2 gradients \
             a step"
        );
    }

    #[test]
    fn one_task_is_never_apart() {
        // Promise: with nothing to compare nothing is sent twice.
        let mut spec = spec(1, Method::Mean);
        spec.exchange.affinity = Affinity::On;
        assert!(!choose(&spec, &[1, 1]).plan.apart);
        assert_eq!(choose(&spec, &[1, 1]).reasons.len(), 1);
    }

    #[test]
    fn a_task_alone_is_weighed_by_its_whole_step() {
        // Promise: where a rank computes a step in several passes, no pass asks the balancer, whose
        // weight is of all losses, even if there is one task only; where each rank makes one pass
        // nothing changes.
        for method in [Method::Uw, Method::ImtlL, Method::Si] {
            let mut job = spec(1, method);
            job.resources.shards = Some(2);
            assert!(!choose(&job, &[1, 1]).plan.apart, "{method}");
            job.resources.shards = Some(3);
            let choice = choose(&job, &[1, 1]);
            assert!(choice.plan.apart, "{method}");
            assert!(choice.reasons[1].contains("computed in parts"), "{method}");
            job.resources.shards = None;
            job.training.accumulation = 2;
            assert!(choose(&job, &[1, 1]).plan.apart, "{method}");
        }
        for method in [Method::Mean, Method::Equal, Method::Fixed] {
            let mut job = spec(1, method);
            job.training.accumulation = 2;
            assert!(!choose(&job, &[1, 1]).plan.apart, "{method}");
        }
    }

    #[test]
    fn a_wish_is_obeyed() {
        // Promise: what the job says of its exchange is what its ranks do.
        let mut spec = spec(2, Method::Mean);
        for sync in [SyncKind::OwnerCombine, SyncKind::AllReduce] {
            for sharding in [Sharding::None, Sharding::Optimizer, Sharding::Full] {
                for dtype in [ExchangeType::F32, ExchangeType::Bf16] {
                    spec.exchange.sync = sync;
                    spec.exchange.sharding = sharding;
                    spec.exchange.dtype = dtype;
                    let plan = choose(&spec, &[2, 2]).plan;
                    let reduces = sync == SyncKind::AllReduce;
                    assert_eq!(plan.sync == SyncPath::AllReduce, reduces);
                    // A sum that all ranks have leaves nothing to shard.
                    let sharding = if reduces { Sharding::None } else { sharding };
                    assert_eq!((plan.sharding, plan.dtype), (sharding, dtype));
                }
            }
        }
    }

    #[test]
    fn bf16_is_told_only_where_it_is_used() {
        // Promise: the plan says that numbers travel as bf16 where they do; elsewhere it says that
        // they don't, and why.
        let mut job = spec(2, Method::Upgrad);
        job.exchange.dtype = ExchangeType::Bf16;
        let last = |job: &JobSpec| choose(job, &[2, 2]).reasons.pop().unwrap();
        assert_eq!(
            last(&job),
            "task gradients travel as bf16, as exchange.dtype asks"
        );
        job.balancer = BalancerSpec::of(Method::Mean);
        assert!(last(&job).contains("bf16 is not used"), "{}", last(&job));
        assert!(last(&job).contains("do not travel apart"));
        job.tasks.truncate(1);
        assert!(last(&job).contains("there is one task"), "{}", last(&job));
        job.exchange.dtype = ExchangeType::F32;
        assert!(!last(&job).contains("bf16"));
    }

    #[test]
    fn an_all_reduce_is_chosen_where_it_loses_nothing() {
        // Promise: left open, the way is the all-reduce only if every rank keeps everything and no
        // task gradient is wanted.
        let mut spec = spec(2, Method::Mean);
        spec.exchange.sharding = Sharding::None;
        let choice = choose(&spec, &[2, 2]);
        assert_eq!(choice.plan.sync, SyncPath::AllReduce);
        assert_eq!(
            choice.reasons,
            [
                "an all-reduce sums the gradients, as every rank keeps everything and nothing needs \
                 them apart"
            ]
        );
        spec.balancer = BalancerSpec::of(Method::Cagrad);
        let plan = choose(&spec, &[2, 2]).plan;
        assert_eq!((plan.sync, plan.apart), (SyncPath::OwnerCombine, true));
    }
}
