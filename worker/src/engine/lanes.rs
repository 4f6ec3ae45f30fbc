//! Lanes: which gradients travel apart.
//!
//! A rank computes one gradient, or one for each task (and each part of the batch) that must stay
//! apart: its *slots*. What an owner receives is one *lane* per rank and slot. Lanes of one task
//! and part form a *row* of the gradient matrix J.

use espalier_spec::{InputGroups, Plan};

/// What a slot's gradient holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The task; none if it holds all of the rank's tasks together.
    pub task: Option<usize>,
    /// Which part of a step's batch, from 0.
    pub part: usize,
    /// Parts that a step's batch is cut into.
    pub parts: usize,
}

impl Slot {
    /// All tasks and all of a step's batch.
    pub const ALL: Self = Self {
        task: None,
        part: 0,
        parts: 1,
    };
}

/// A lane: a slot of a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneId {
    /// The rank that computes it.
    pub rank: usize,
    /// Which of its slots.
    pub slot: usize,
}

/// One row of the gradient matrix: a task's gradient over one part of a step's batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowId {
    /// The task.
    pub task: usize,
    /// The part of the batch.
    pub part: usize,
    /// The lanes that add up to it, in order of rank.
    pub lanes: Vec<LaneId>,
}

/// The slots of all ranks; the same on all ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lanes {
    slots: Vec<Vec<Slot>>,
    apart: bool,
}

impl Lanes {
    /// Every rank's tasks in one gradient.
    #[must_use]
    pub fn together(world: usize) -> Self {
        Self {
            slots: vec![vec![Slot::ALL]; world],
            apart: false,
        }
    }

    /// Every task that a rank serves in a gradient of its own, and of each `parts` of them. Slots
    /// over the same samples are neighbours.
    #[must_use]
    pub fn apart(plan: &Plan, groups: &InputGroups, parts: usize) -> Self {
        let parts = parts.max(1);
        let of_rank = |shards: &Vec<espalier_spec::Shard>| {
            let serves = |task: &usize| {
                let placed = &plan.tasks[*task].shards;
                placed.iter().any(|shard| shards.contains(shard))
            };
            let tasks: Vec<usize> = (0..plan.tasks.len()).filter(serves).collect();
            let leaders = tasks.iter().filter(|task| groups.leads(**task));
            let mut slots = Vec::with_capacity(tasks.len() * parts);
            for leader in leaders {
                for part in 0..parts {
                    slots.extend(groups.members(*leader).map(|task| Slot {
                        task: Some(task),
                        part,
                        parts,
                    }));
                }
            }
            slots
        };
        Self {
            slots: plan.shards.iter().map(of_rank).collect(),
            apart: true,
        }
    }

    /// Whether tasks are kept apart.
    #[must_use]
    pub fn is_apart(&self) -> bool {
        self.apart
    }

    /// Slots of a rank.
    #[must_use]
    pub fn of(&self, rank: usize) -> &[Slot] {
        self.slots.get(rank).map_or(&[], Vec::as_slice)
    }

    /// The largest number of slots of any rank.
    #[must_use]
    pub fn most(&self) -> usize {
        self.slots.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Rows of the gradient matrix in order of task and part; none if tasks are together.
    #[must_use]
    pub fn rows(&self) -> Vec<RowId> {
        let mut rows: Vec<RowId> = Vec::new();
        for (rank, slots) in self.slots.iter().enumerate() {
            for (slot, what) in slots.iter().enumerate() {
                let Some(task) = what.task else { continue };
                let lane = LaneId { rank, slot };
                let known = rows
                    .iter_mut()
                    .find(|row| row.task == task && row.part == what.part);
                match known {
                    Some(row) => row.lanes.push(lane),
                    None => rows.push(RowId {
                        task,
                        part: what.part,
                        lanes: vec![lane],
                    }),
                }
            }
        }
        rows.sort_by_key(|row| (row.task, row.part));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_spec::plan::TaskPlacement;
    use espalier_spec::{Generation, JobId, Shard};

    fn plan(shards: &[&[u32]], tasks: &[&[u32]]) -> Plan {
        let list = |numbers: &&[u32]| numbers.iter().copied().map(Shard).collect::<Vec<_>>();
        let place = |numbers: &&[u32]| TaskPlacement {
            task: "t".into(),
            shards: list(numbers),
            load: vec![],
        };
        Plan {
            job: JobId::from("j"),
            generation: Generation(1),
            seats: vec![],
            shards: shards.iter().map(list).collect(),
            tasks: tasks.iter().map(place).collect(),
            blocks: vec![],
            exchange: Default::default(),
            reasons: vec![],
        }
    }

    // Promise: every (rank, task it serves) is one lane, and a row lists a task's lanes by rank.
    #[test]
    fn a_row_lists_its_lanes() {
        let plan = plan(&[&[0], &[1]], &[&[0], &[0, 1], &[1]]);
        let lanes = Lanes::apart(&plan, &InputGroups::apart(3), 1);
        assert_eq!(lanes.of(0).len(), 2);
        assert_eq!(lanes.most(), 2);
        let rows = lanes.rows();
        assert_eq!(rows.len(), 3);
        let shared: Vec<_> = rows[1].lanes.iter().map(|l| (l.rank, l.slot)).collect();
        assert_eq!(shared, [(0, 1), (1, 0)]);
    }

    // Promise: parts of a batch are rows of their own; tasks together make none.
    #[test]
    fn parts_are_rows() {
        let plan = plan(&[&[0, 1]], &[&[0], &[1]]);
        let rows = Lanes::apart(&plan, &InputGroups::apart(2), 3).rows();
        let order: Vec<_> = rows.iter().map(|row| (row.task, row.part)).collect();
        assert_eq!(order, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
        assert!(Lanes::together(2).rows().is_empty());
    }
}
