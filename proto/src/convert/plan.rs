//! The plan and the profile it is made from.
//!
//! On the wire a plan travels inside a message that names its job, and a seat carries its shards.

use super::{Bad, Violations, Wire, at, item};
use crate::v1;
use espalier_spec::exchange::{ExchangeSpec, SyncKind};
use espalier_spec::plan::{
    BlockPlacement, BlockProfile, ExchangePlan, Profile, Seat, SyncPath, TaskPlacement, TaskProfile,
};
use espalier_spec::{Generation, JobId, Plan, Rank, Shard, WorkerId};

/// Writes a plan; the job's name is left to the message around it.
#[must_use]
pub fn plan_to_wire(plan: &Plan) -> v1::Plan {
    let shards = |rank: usize| {
        plan.shards
            .get(rank)
            .map(|s| numbers(s))
            .unwrap_or_default()
    };
    v1::Plan {
        generation: plan.generation.0,
        seats: plan
            .seats
            .iter()
            .enumerate()
            .map(|(rank, seat)| v1::Seat {
                shards: shards(rank),
                ..seat.to_wire()
            })
            .collect(),
        tasks: plan
            .tasks
            .iter()
            .map(|task| v1::TaskPlacement {
                task: task.task.clone(),
                shards: numbers(&task.shards),
                load: task.load.clone(),
            })
            .collect(),
        blocks: plan
            .blocks
            .iter()
            .map(|block| v1::BlockPlacement {
                block: block.block.clone(),
                ends: block.ends.clone(),
            })
            .collect(),
        reasons: plan.reasons.clone(),
        exchange: Some(plan.exchange.to_wire()),
    }
}

/// Reads the plan of `job`. Errors: a seat out of order, a task whose loads are not one per shard,
/// a block whose slices are not one per rank or do not grow.
pub fn plan_from_wire(job: &JobId, message: v1::Plan) -> Result<Plan, Violations> {
    let mut bad = Bad::default();
    let world = message.seats.len();
    let mut seats = Vec::with_capacity(world);
    let mut shards = Vec::with_capacity(world);
    for (index, mut seat) in message.seats.into_iter().enumerate() {
        let path = item("", "seats", index);
        if seat.rank as usize != index {
            bad.add(
                at(&path, "rank"),
                format!("is {}, expected {index}", seat.rank),
            );
        }
        shards.push(
            std::mem::take(&mut seat.shards)
                .into_iter()
                .map(Shard)
                .collect(),
        );
        seats.push(Seat::read(seat, &mut bad, &path));
    }
    let mut tasks = Vec::with_capacity(message.tasks.len());
    for (index, task) in message.tasks.into_iter().enumerate() {
        if task.load.len() != task.shards.len() {
            bad.add(
                at(&item("", "tasks", index), "load"),
                format!(
                    "has {} numbers, expected {}",
                    task.load.len(),
                    task.shards.len()
                ),
            );
        }
        tasks.push(TaskPlacement {
            task: task.task,
            shards: task.shards.into_iter().map(Shard).collect(),
            load: task.load,
        });
    }
    let mut blocks = Vec::with_capacity(message.blocks.len());
    for (index, block) in message.blocks.into_iter().enumerate() {
        let ends = &block.ends;
        if !(ends.is_empty() || ends.len() == world && ends.is_sorted()) {
            bad.add(
                at(&item("", "blocks", index), "ends"),
                format!("is {ends:?}, expected {world} numbers that never fall, or none"),
            );
        }
        blocks.push(BlockPlacement {
            block: block.block,
            ends: block.ends,
        });
    }
    let plan = Plan {
        job: job.clone(),
        generation: Generation(message.generation),
        seats,
        shards,
        tasks,
        blocks,
        exchange: Wire::read(
            message.exchange.unwrap_or_default(),
            &mut bad,
            &at("", "exchange"),
        ),
        reasons: message.reasons,
    };
    if bad.0.is_empty() {
        Ok(plan)
    } else {
        Err(Violations(bad.0))
    }
}

fn numbers(shards: &[Shard]) -> Vec<u32> {
    shards.iter().map(|shard| shard.0).collect()
}

impl Wire for ExchangePlan {
    type Message = v1::ExchangePlan;

    fn to_wire(&self) -> v1::ExchangePlan {
        let sync = match self.sync {
            SyncPath::OwnerCombine => SyncKind::OwnerCombine,
            SyncPath::AllReduce => SyncKind::AllReduce,
        };
        let spec = ExchangeSpec {
            sync,
            sharding: self.sharding,
            dtype: self.dtype,
            ..ExchangeSpec::default()
        };
        let wire = spec.to_wire();
        v1::ExchangePlan {
            sync: wire.sync,
            sharding: wire.sharding,
            apart: self.apart,
            dtype: wire.dtype,
        }
    }

    fn read(m: v1::ExchangePlan, bad: &mut Bad, path: &str) -> Self {
        if m.sync == i32::from(v1::exchange::Sync::Auto) {
            bad.add(
                at(path, "sync"),
                "is auto, expected a decision: owner_combine or all_reduce",
            );
        }
        let wire = v1::Exchange {
            sync: m.sync,
            sharding: m.sharding,
            dtype: m.dtype,
            ..v1::Exchange::default()
        };
        let spec = ExchangeSpec::read(wire, bad, path);
        ExchangePlan {
            sync: match spec.sync {
                SyncKind::AllReduce => SyncPath::AllReduce,
                SyncKind::OwnerCombine | SyncKind::Auto => SyncPath::OwnerCombine,
            },
            sharding: spec.sharding,
            apart: m.apart,
            dtype: spec.dtype,
        }
    }
}

impl Wire for Seat {
    type Message = v1::Seat;

    fn to_wire(&self) -> v1::Seat {
        v1::Seat {
            rank: self.rank.0,
            worker: self.worker.0.clone(),
            device: self.device,
            shards: Vec::new(),
        }
    }

    fn read(m: v1::Seat, _bad: &mut Bad, _path: &str) -> Self {
        Seat {
            rank: Rank(m.rank),
            worker: WorkerId(m.worker),
            device: m.device,
        }
    }
}

impl Wire for Profile {
    type Message = v1::Profile;

    fn to_wire(&self) -> v1::Profile {
        v1::Profile {
            blocks: self
                .blocks
                .iter()
                .map(|block| v1::profile::Block {
                    name: block.name.clone(),
                    trainable: block.trainable,
                    total: block.total,
                })
                .collect(),
            tasks: self
                .tasks
                .iter()
                .map(|task| v1::profile::TaskCost {
                    name: task.name.clone(),
                    train_samples: task.train_samples,
                    share: task.share,
                    sample_cost: task.sample_cost,
                })
                .collect(),
            fetched: self.fetched.clone(),
        }
    }

    fn read(m: v1::Profile, bad: &mut Bad, path: &str) -> Self {
        let mut blocks = Vec::with_capacity(m.blocks.len());
        for (index, block) in m.blocks.into_iter().enumerate() {
            let v1::profile::Block {
                name,
                trainable,
                total,
            } = block;
            if trainable > total {
                bad.add(
                    at(&item(path, "blocks", index), "trainable"),
                    format!("is {trainable}, more than the {total} numbers of the block"),
                );
            }
            blocks.push(BlockProfile {
                name,
                trainable,
                total,
            });
        }
        let mut tasks = Vec::with_capacity(m.tasks.len());
        for (index, task) in m.tasks.into_iter().enumerate() {
            let v1::profile::TaskCost {
                name,
                train_samples,
                share,
                sample_cost,
            } = task;
            for (field, number) in [("share", share), ("sample_cost", sample_cost)] {
                if !number.is_finite() || number < 0.0 {
                    bad.add(
                        at(&item(path, "tasks", index), field),
                        format!("is {number}, expected a finite number of at least 0"),
                    );
                }
            }
            tasks.push(TaskProfile {
                name,
                train_samples,
                share,
                sample_cost,
            });
        }
        Profile {
            blocks,
            tasks,
            fetched: m.fetched,
        }
    }
}
