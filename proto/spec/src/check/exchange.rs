//! Rules of the exchange: what the way of the gradients allows.

use super::Findings;
use crate::JobSpec;
use crate::balancer::{Class, OnNonFinite};
use crate::exchange::{Affinity, Sharding, SyncKind};

pub(super) fn rules(spec: &JobSpec, found: &mut Findings) {
    let exchange = &spec.exchange;
    if exchange.sync != SyncKind::AllReduce {
        return;
    }
    let method = spec.balancer.method;
    let class = method.info().class;
    found.require(!class.separate_gradients(), "exchange.sync", || {
        format!(
            "is all_reduce, which sums the tasks' gradients, but balancer `{method}` (class {}) \
             needs them apart; use `owner_combine` or `auto`",
            class.as_str()
        )
    });
    found.require(
        exchange.affinity != Affinity::On,
        "exchange.affinity",
        || {
            "is on, but with exchange.sync all_reduce the tasks' gradients are summed and nobody \
             sees them apart; set `affinity: auto`, or `sync: owner_combine`"
                .to_owned()
        },
    );
    if class == Class::Losses {
        nothing_left_out(spec, found);
        if spec.balancer.weighs_by_losses() {
            whole_step(spec, found);
        }
    }
    let sharding = match exchange.sharding {
        Sharding::None => return,
        Sharding::Optimizer => "optimizer (the default)",
        Sharding::Full => "full",
    };
    found.add(
        "exchange.sharding",
        format!(
            "is {sharding}, but with exchange.sync all_reduce every rank has everything; set \
             `sharding: none`, or `sync: owner_combine`"
        ),
    );
}

/// Of a sum no task can be taken out any more.
fn nothing_left_out(spec: &JobSpec, found: &mut Findings) {
    let skips = spec.balancer.on_non_finite == OnNonFinite::SkipTaskStep;
    found.require(!skips, "balancer.on_non_finite", || {
        // A step of one task has nothing left without it.
        let instead = match spec.tasks.len() {
            0 | 1 => "",
            _ => ", or set `exchange.sync: owner_combine`",
        };
        format!(
            "is skip_task_step, but with exchange.sync all_reduce the tasks' gradients are summed and \
             none can be left out of a step; leave it out (the job then fails and names the \
             task){instead}"
        )
    });
}

/// What is summed is weighed before, and weights that follow from the losses of the whole step are
/// known before a rank's first backward pass only if it makes no more than that one.
fn whole_step(spec: &JobSpec, found: &mut Findings) {
    let method = spec.balancer.method;
    let training = &spec.training;
    found.require(training.accumulation <= 1, "training.accumulation", || {
        format!(
            "is {}, which computes a step in parts, but with exchange.sync all_reduce `{method}` \
             needs the losses of the whole step before the first part's gradients; leave it out, or \
             set `exchange.sync: owner_combine`",
            training.accumulation
        )
    });
    // Nobody knows yet how many ranks a job gets that names no number: there may be but one.
    let ranks = spec.resources.ranks.unwrap_or(1);
    let shards = spec.resources.shards.unwrap_or(ranks);
    found.require(shards <= ranks, "resources.shards", || {
        format!(
            "is {shards}, so that a rank with several shards computes a step in parts, but with \
             exchange.sync all_reduce `{method}` needs the losses of the whole step before the first \
             part's gradients; leave it out, set `resources.ranks` to {shards} too, or set \
             `exchange.sync: owner_combine`"
        )
    });
}

#[cfg(test)]
mod tests {
    use crate::balancer::{BalancerSpec, Method, OnNonFinite};
    use crate::exchange::{Affinity, Sharding, SyncKind};
    use crate::{JobSpec, check};

    /// A job of one task whose gradients an all-reduce sums.
    fn job() -> JobSpec {
        let mut spec: JobSpec = serde_json::from_value(serde_json::json!({
            "name": "x",
            "backbone": { "path": "m" },
            "tasks": [{ "name": "t", "head": "single_label", "data": { "train": "t.csv" } }],
        }))
        .expect("a job");
        spec.exchange.sync = SyncKind::AllReduce;
        spec.exchange.sharding = Sharding::None;
        spec
    }

    #[test]
    fn weights_by_losses_need_the_whole_step() {
        // Promise: where only sums travel, a method that weighs by losses is refused for a step that
        // a rank computes in parts, and for no other; the answer names the field that cuts it.
        let mut spec = job();
        spec.balancer = BalancerSpec::of(Method::Uw);
        assert_eq!(check(&spec), Ok(()));
        (spec.resources.ranks, spec.resources.shards) = (Some(2), Some(2));
        assert_eq!(check(&spec), Ok(()));
        spec.training.accumulation = 2;
        spec.resources.shards = Some(3);
        let violations = check(&spec).expect_err("parts");
        let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["training.accumulation", "resources.shards"]);
        for violation in &violations {
            assert!(violation.message.contains("exchange.sync: owner_combine"));
        }
        // Weights that are known before the losses are don't mind.
        for method in [Method::Mean, Method::Equal, Method::Fixed] {
            spec.balancer = BalancerSpec::of(method);
            assert_eq!(check(&spec), Ok(()), "{method}");
        }
        spec.balancer = BalancerSpec::of(Method::Uw);
        spec.exchange.sync = SyncKind::Auto;
        assert_eq!(check(&spec), Ok(()));
    }

    #[test]
    fn an_all_reduce_leaves_no_task_out() {
        // Promise: to skip a task that is not finite is refused where only sums travel, instead of
        // doing nothing; with two tasks the answer names the way on which it works.
        let mut spec = job();
        spec.balancer.on_non_finite = OnNonFinite::SkipTaskStep;
        for tasks in 1..=2 {
            if tasks == 2 {
                let mut other = spec.tasks[0].clone();
                other.name = "u".to_owned();
                spec.tasks.push(other);
            }
            let violations = check(&spec).expect_err("a contradiction");
            assert_eq!(violations.len(), 1, "{violations:?}");
            assert_eq!(violations[0].field, "balancer.on_non_finite");
            assert!(violations[0].message.contains("exchange.sync all_reduce"));
            let way = violations[0].message.contains("sync: owner_combine");
            assert_eq!(way, tasks == 2);
        }
        (spec.exchange.sync, spec.exchange.sharding) = (SyncKind::Auto, Sharding::Optimizer);
        assert_eq!(check(&spec), Ok(()));
    }

    #[test]
    fn an_all_reduce_sees_no_task_apart() {
        // Affinity can't be asked for where only sums travel; the answer says what to change.
        let mut spec = job();
        assert_eq!(check(&spec), Ok(()));
        spec.exchange.affinity = Affinity::On;
        let violations = check(&spec).expect_err("a contradiction");
        assert_eq!(violations.len(), 1);
        assert_eq!(violations[0].field, "exchange.affinity");
        assert!(violations[0].message.contains("sync: owner_combine"));
    }
}
