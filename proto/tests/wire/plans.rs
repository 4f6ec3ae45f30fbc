//! Promise: plans of older coordinators are read, and those that can't be obeyed are refused.

use espalier_proto::convert::plan_from_wire;
use espalier_proto::v1;
use espalier_spec::JobId;
use espalier_spec::plan::{ExchangePlan, SyncPath};

// Promise: a plan that can't be obeyed is refused with the place, not obeyed in part.
#[test]
fn broken_plans_are_refused() {
    let seat = |rank| v1::Seat {
        rank,
        worker: "w".into(),
        device: 0,
        shards: vec![rank],
    };
    let message = v1::Plan {
        generation: 1,
        seats: vec![seat(0), seat(2)],
        tasks: vec![v1::TaskPlacement {
            task: "t".into(),
            shards: vec![0, 1],
            load: vec![1.0],
        }],
        blocks: vec![
            v1::BlockPlacement {
                block: "a".into(),
                ends: vec![5, 4],
            },
            v1::BlockPlacement {
                block: "b".into(),
                ends: vec![5],
            },
            v1::BlockPlacement {
                block: "frozen".into(),
                ends: vec![],
            },
        ],
        reasons: vec![],
        exchange: Some(v1::ExchangePlan {
            sync: v1::exchange::Sync::Auto.into(),
            dtype: 9,
            ..Default::default()
        }),
    };
    let bad = plan_from_wire(&JobId::from("job"), message).unwrap_err();
    let fields: Vec<_> = bad.0.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "seats[1].rank",
            "tasks[0].load",
            "blocks[0].ends",
            "blocks[1].ends",
            "exchange.sync",
            "exchange.dtype",
        ]
    );
}

// Promise: a plan of before there was a choice is obeyed as it was: owners combine sums.
#[test]
fn older_plans_are_read() {
    let message = v1::Plan {
        generation: 1,
        ..Default::default()
    };
    let plan = plan_from_wire(&JobId::from("job"), message).unwrap();
    assert_eq!(plan.exchange, ExchangePlan::default());
    assert_eq!(plan.exchange.sync, SyncPath::OwnerCombine);
    assert!(!plan.exchange.apart);
}
