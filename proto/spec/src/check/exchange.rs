//! Rules of the exchange: what the way of the gradients allows.

use super::Findings;
use crate::JobSpec;
use crate::exchange::{Sharding, SyncKind};

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
