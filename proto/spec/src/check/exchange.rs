//! Rules of the exchange: what the way of the gradients allows.

use super::Findings;
use crate::JobSpec;
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

#[cfg(test)]
mod tests {
    use crate::exchange::{Affinity, Sharding, SyncKind};
    use crate::{JobSpec, check};

    #[test]
    fn an_all_reduce_sees_no_task_apart() {
        // Affinity can't be asked for where only sums travel; the answer says what to change.
        let mut spec: JobSpec = serde_json::from_value(serde_json::json!({
            "name": "x",
            "backbone": { "path": "m" },
            "tasks": [{ "name": "t", "head": "single_label", "data": { "train": "t.csv" } }],
        }))
        .expect("a job");
        spec.exchange.sync = SyncKind::AllReduce;
        spec.exchange.sharding = Sharding::None;
        assert_eq!(check(&spec), Ok(()));
        spec.exchange.affinity = Affinity::On;
        let violations = check(&spec).expect_err("a contradiction");
        assert_eq!(violations.len(), 1);
        assert_eq!(violations[0].field, "exchange.affinity");
        assert!(violations[0].message.contains("sync: owner_combine"));
    }
}
