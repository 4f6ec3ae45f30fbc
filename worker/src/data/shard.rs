//! Which shard computes which samples of a step, and in which parts.

use super::Error;
use espalier_spec::Shard;
use std::cmp::Reverse;

/// Cost of a sample besides its tokens: head, loss and bookkeeping, in tokens.
pub(super) const SAMPLE_COST: u64 = 2;

/// Who may compute what: the part of a plan that the data side obeys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    shards: usize,
    /// For each task, the shards that may compute it: ascending, none twice.
    tasks: Vec<Vec<usize>>,
}

impl Placement {
    /// A placement on `shards` shards, where task k may run on the shards `tasks[k]`.
    ///
    /// # Errors
    /// A task without a shard, or with one that doesn't exist.
    pub fn new<'a>(
        shards: usize,
        tasks: impl IntoIterator<Item = &'a [Shard]>,
    ) -> Result<Self, Error> {
        let mut placed = Vec::new();
        for (task, allowed) in tasks.into_iter().enumerate() {
            let mut allowed: Vec<usize> = allowed.iter().map(|shard| shard.0 as usize).collect();
            allowed.sort_unstable();
            allowed.dedup();
            if allowed.last().is_none_or(|last| *last >= shards) {
                let named: Vec<String> = allowed.iter().map(ToString::to_string).collect();
                let named = if named.is_empty() {
                    "no shard".to_owned()
                } else {
                    format!("shards {}", named.join(", "))
                };
                return Err(Error::Placement {
                    task,
                    shards: named,
                    count: shards,
                });
            }
            placed.push(allowed);
        }
        Ok(Self {
            shards,
            tasks: placed,
        })
    }

    /// Number of shards.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards
    }
}

/// One sample of a step, as the split sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Index of its task.
    pub task: usize,
    /// Its tokens; 1 for an image; with those of the target's that is drawn with it.
    pub tokens: u64,
}

impl Work {
    fn cost(self) -> u64 {
        self.tokens.saturating_add(SAMPLE_COST)
    }
}

/// Splits the samples of a step among shards so that all have about equal cost: for each shard the
/// indices into `work`, ascending.
///
/// Samples of tasks with the fewest shards go first, and among those the costliest first; each goes
/// to the least loaded shard that may compute it (longest processing time first; Graham 1969). Ties
/// go to the lower index, so the result is a function of the arguments. Where all tasks may run on
/// all shards, no shard has more than the mean plus one sample's cost, and no more than 4/3 of the
/// best possible.
///
/// # Errors
/// A sample of a task that the placement doesn't know.
pub fn split(work: &[Work], placement: &Placement) -> Result<Vec<Vec<usize>>, Error> {
    let mut order = Vec::with_capacity(work.len());
    for (index, item) in work.iter().enumerate() {
        let Some(allowed) = placement.tasks.get(item.task) else {
            let shards = "no shard".to_owned();
            return Err(Error::Placement {
                task: item.task,
                shards,
                count: placement.shards,
            });
        };
        order.push((allowed.len(), Reverse(item.cost()), index));
    }
    order.sort_unstable();

    let mut load = vec![0_u64; placement.shards];
    let mut parts = vec![Vec::new(); placement.shards];
    for (_, Reverse(cost), index) in order {
        let allowed = &placement.tasks[work[index].task];
        // `Placement` holds no empty list; min_by_key takes the first of equals.
        if let Some(shard) = allowed.iter().copied().min_by_key(|shard| load[*shard]) {
            load[shard] = load[shard].saturating_add(cost);
            parts[shard].push(index);
        }
    }
    for part in &mut parts {
        part.sort_unstable();
    }
    Ok(parts)
}

/// Splits one shard's samples into `parts` micro-batches of about equal cost: for each the indices
/// into `work`, ascending. Empty ones are left out, so there may be fewer.
#[must_use]
pub fn micro_batches(work: &[Work], parts: u32) -> Vec<Vec<usize>> {
    let all: Vec<usize> = (0..parts.max(1) as usize).collect();
    let tasks = work.iter().map(|item| item.task + 1).max().unwrap_or(0);
    let placement = Placement {
        shards: all.len(),
        tasks: vec![all; tasks],
    };
    // Every task is placed on every part, so the split can't fail.
    let split = split(work, &placement).unwrap_or_default();
    split.into_iter().filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shards(list: &[u32]) -> Vec<Shard> {
        list.iter().copied().map(Shard).collect()
    }

    fn load(work: &[Work], part: &[usize]) -> u64 {
        part.iter().map(|index| work[*index].cost()).sum()
    }

    fn work() -> impl Strategy<Value = Vec<Work>> {
        let item = (0_usize..3, 1_u64..128).prop_map(|(task, tokens)| Work { task, tokens });
        proptest::collection::vec(item, 0..80)
    }

    proptest! {
        /// Every sample is computed by exactly one shard, and only by one that may.
        #[test]
        fn split_is_an_exact_partition(work in work(), seed in 0_u32..64) {
            let sets: Vec<Vec<Shard>> = (0..3)
                .map(|task| (0..4).filter(|s| s == &(task % 4) || (seed >> (s + task)) & 1 == 1).map(Shard).collect())
                .collect();
            let placement = Placement::new(4, sets.iter().map(Vec::as_slice)).unwrap();
            let parts = split(&work, &placement).unwrap();
            prop_assert_eq!(&parts, &split(&work, &placement).unwrap());
            let mut seen: Vec<usize> = parts.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..work.len()).collect::<Vec<_>>());
            for (shard, part) in parts.iter().enumerate() {
                prop_assert!(part.is_sorted());
                for index in part {
                    prop_assert!(sets[work[*index].task].contains(&Shard(shard as u32)));
                }
            }
        }

        /// Without restrictions no shard has more than the mean plus the costliest sample.
        #[test]
        fn split_is_balanced(work in work(), count in 1_u32..6) {
            let all: Vec<Shard> = (0..count).map(Shard).collect();
            let placement = Placement::new(count as usize, [all.as_slice(); 3]).unwrap();
            let parts = split(&work, &placement).unwrap();
            let total: u64 = work.iter().map(|item| item.cost()).sum();
            let largest = work.iter().map(|item| item.cost()).max().unwrap_or(0);
            for part in &parts {
                prop_assert!(load(&work, part) <= total.div_ceil(u64::from(count)) + largest);
            }
        }

        /// Micro-batches hold every sample once, are never empty and never more than asked for.
        #[test]
        fn micro_batches_partition(work in work(), parts in 0_u32..9) {
            let batches = micro_batches(&work, parts);
            prop_assert!(batches.len() <= parts.max(1) as usize);
            prop_assert!(batches.iter().all(|batch| !batch.is_empty()));
            let mut seen: Vec<usize> = batches.into_iter().flatten().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..work.len()).collect::<Vec<_>>());
        }
    }

    /// A task bound to one shard doesn't starve: the free task fills the other shard.
    #[test]
    fn bound_tasks_go_first() {
        let work: Vec<Work> = (0..8)
            .map(|i| Work {
                task: i % 2,
                tokens: 10,
            })
            .collect();
        let sets = [shards(&[0]), shards(&[0, 1])];
        let placement = Placement::new(2, sets.iter().map(Vec::as_slice)).unwrap();
        let parts = split(&work, &placement).unwrap();
        assert_eq!(parts, [vec![0, 2, 4, 6], vec![1, 3, 5, 7]]);
    }

    /// A plan that places a task nowhere, or on a shard that isn't there, is refused by name.
    #[test]
    fn bad_placement_is_refused() {
        let none = Placement::new(2, [shards(&[0]).as_slice(), &[]]).unwrap_err();
        assert_eq!(
            none.to_string(),
            "task 1 of the plan is served by no shard; expected one or more of shards 0 to 1"
        );
        let beyond = Placement::new(2, [shards(&[1, 2]).as_slice()]).unwrap_err();
        assert_eq!(
            beyond.to_string(),
            "task 0 of the plan is served by shards 1, 2; expected one or more of shards 0 to 1"
        );
    }
}
