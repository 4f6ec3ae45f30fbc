//! Placement: who computes and who owns what, as a pure function of the problem.
//!
//! **Work.** The tasks are laid along a line, each as long as its predicted cost (share in a batch
//! times mean cost of a sample), and the line is cut into equal pieces, one per shard (the
//! wrap-around rule of McNaughton 1959). So every shard gets the same work, and at most one task
//! per cut is split. A cut that falls within [`SNAP`] of a piece from a boundary between tasks is
//! moved to it: a hardly better balance is not worth a split task. Where task gradients travel
//! apart, a split task is a gradient more on the wire: there [`SNAP_APART`] is the limit, and if
//! tasks are split still, but whole ones can be dealt to the shards within [`EVEN`] of even (longest
//! first, each to the shard with least work), they are dealt.
//!
//! **Input groups**: tasks that label the same inputs are one on the line and go to the same shards.
//!
//! **Shards** go to ranks in order, evenly.
//!
//! **Ownership.** Each block is sliced evenly among all ranks, at multiples of [`GRAIN`] numbers; a
//! block too small for that goes whole to the rank that owns least. Frozen blocks have no owner.
//!
//! Costs are counted in integers, so that the same problem has the same plan on every machine.

use crate::exchange::{choose, needs_apart};
use espalier_spec::plan::{
    BlockPlacement, BlockProfile, Plan, Profile, Seat, TaskPlacement, TaskProfile,
};
use espalier_spec::{Generation, InputGroups, JobId, JobSpec, Rank, Shard};
use std::collections::BTreeMap;

/// Slices of blocks begin at multiples of so many numbers (64 bytes of f32).
pub const GRAIN: u64 = 16;

/// A block with fewer trainable numbers than this for every rank is not sliced.
pub const TINY: u64 = 64;

/// Part of a shard's work (1/100) by which a cut may move to a boundary between tasks.
pub const SNAP: u64 = 100;

/// The same where task gradients travel apart (1/20).
pub const SNAP_APART: u64 = 20;

/// Part of a shard's work (1/20) by which whole tasks may miss it.
pub const EVEN: u64 = 20;

/// Length of the line that tasks are laid along.
const LINE: f64 = (1_u64 << 50) as f64;

/// What is to be placed.
#[derive(Clone, Debug)]
pub struct Problem<'a> {
    /// The job.
    pub job: JobId,
    /// The generation to plan for.
    pub generation: Generation,
    /// The world, in order of rank; not empty.
    pub seats: Vec<Seat>,
    /// Shards; at least 1.
    pub shards: u32,
    /// What the job asks for.
    pub spec: &'a JobSpec,
    /// Blocks and tasks; shares and costs are finite and not negative.
    pub profile: &'a Profile,
    /// The plan of the job's generation before, to tell what changed.
    pub previous: Option<&'a Plan>,
    /// Milliseconds that a sample of each task took in generations before. Only told, never
    /// planned by: times differ from run to run, and the result must not.
    pub measured: Option<&'a BTreeMap<String, f64>>,
}

/// Places a job. The same problem has the same plan.
#[must_use]
pub fn place(problem: &Problem<'_>) -> Plan {
    let world = problem.seats.len().max(1);
    let count = problem.shards.max(1);
    let shards = deal(count, world);
    let groups = InputGroups::of(&problem.spec.tasks);
    let (tasks, whole) = lay_groups(
        &problem.profile.tasks,
        &groups,
        count,
        needs_apart(problem.spec, world),
    );
    let blocks = slice(&problem.profile.blocks, world);
    let served: Vec<usize> = shards.iter().map(|shards| served(&tasks, shards)).collect();
    let choice = choose(problem.spec, &served);
    let mut plan = Plan {
        job: problem.job.clone(),
        generation: problem.generation,
        seats: problem.seats.clone(),
        shards,
        tasks,
        blocks,
        exchange: choice.plan,
        reasons: Vec::new(),
    };
    plan.reasons = crate::reason::reasons(&plan, problem, whole, choice.reasons);
    plan
}

/// Tasks that a rank with these shards serves.
fn served(tasks: &[TaskPlacement], shards: &[Shard]) -> usize {
    let serves = |task: &&TaskPlacement| task.shards.iter().any(|s| shards.contains(s));
    tasks.iter().filter(serves).count()
}

/// Deals shards to ranks in order: rank r gets those from r·S/N to (r+1)·S/N.
fn deal(shards: u32, world: usize) -> Vec<Vec<Shard>> {
    let start = |rank: usize| (rank as u64 * u64::from(shards) / world as u64) as u32;
    (0..world)
        .map(|rank| (start(rank)..start(rank + 1)).map(Shard).collect())
        .collect()
}

/// Which shards compute which task: tasks that share inputs go where these go, as one.
fn lay_groups(
    tasks: &[TaskProfile],
    groups: &InputGroups,
    shards: u32,
    apart: bool,
) -> (Vec<TaskPlacement>, bool) {
    let leads = |(index, task): (usize, &TaskProfile)| groups.leads(index).then(|| task.clone());
    let leading: Vec<TaskProfile> = tasks.iter().enumerate().filter_map(leads).collect();
    let (laid, whole) = lay(&leading, shards, apart);
    let place = |(index, task): (usize, &TaskProfile)| {
        let leader = groups.leader(index);
        let place = (0..leader).filter(|task| groups.leads(*task)).count();
        let share = groups.members(leader).count() as f64;
        // As many placements as leading tasks.
        let of_group = laid.get(place);
        TaskPlacement {
            task: task.name.clone(),
            shards: of_group.map(|p| p.shards.clone()).unwrap_or_default(),
            load: of_group.map_or_else(Vec::new, |p| p.load.iter().map(|l| l / share).collect()),
        }
    };
    (tasks.iter().enumerate().map(place).collect(), whole)
}

/// Which shards compute which task, and whether whole tasks were dealt rather than cut.
fn lay(tasks: &[TaskProfile], shards: u32, apart: bool) -> (Vec<TaskPlacement>, bool) {
    let ends = boundaries(tasks);
    if !apart {
        return (cut(tasks, &ends, shards, SNAP), false);
    }
    let cut = cut(tasks, &ends, shards, SNAP_APART);
    if cut.iter().all(|task| task.shards.len() == 1) {
        return (cut, false);
    }
    match whole(tasks, &ends, shards) {
        Some(whole) => (whole, true),
        None => (cut, false),
    }
}

/// Cuts the line into one piece per shard.
fn cut(tasks: &[TaskProfile], ends: &[u64], shards: u32, snap: u64) -> Vec<TaskPlacement> {
    let total = ends.last().copied().unwrap_or(0);
    let cuts = cuts(ends, total, shards, snap);
    let mut start = 0;
    let mut placements = Vec::with_capacity(tasks.len());
    for (task, end) in tasks.iter().zip(ends) {
        let mut placement = TaskPlacement {
            task: task.name.clone(),
            shards: Vec::new(),
            load: Vec::new(),
        };
        for shard in 0..shards {
            let piece = cuts[shard as usize]..cuts[shard as usize + 1];
            let overlap = piece.end.min(*end).saturating_sub(piece.start.max(start));
            if overlap > 0 {
                placement.shards.push(Shard(shard));
                placement.load.push(overlap as f64 / total as f64);
            }
        }
        start = *end;
        placements.push(placement);
    }
    placements
}

/// Deals whole tasks to shards, the longest first, each to the shard that has least; none if that
/// leaves a shard more than [`EVEN`] from even.
fn whole(tasks: &[TaskProfile], ends: &[u64], shards: u32) -> Option<Vec<TaskPlacement>> {
    let total = ends.last().copied()?;
    let mut lengths: Vec<(u64, usize)> = Vec::with_capacity(ends.len());
    let mut start = 0;
    for (index, end) in ends.iter().enumerate() {
        lengths.push((end - start, index));
        start = *end;
    }
    // Equal ones in the order of the job file.
    lengths.sort_by_key(|(length, index)| (std::cmp::Reverse(*length), *index));
    let mut work = vec![0_u64; shards as usize];
    let mut dealt: Vec<(u64, u32)> = vec![(0, 0); tasks.len()];
    for (length, index) in lengths {
        let (_, shard) = work.iter().copied().zip(0..shards).min()?;
        work[shard as usize] += length;
        dealt[index] = (length, shard);
    }
    let even = total / u64::from(shards);
    if work.iter().any(|work| work.abs_diff(even) > even / EVEN) {
        return None;
    }
    let placed = tasks.iter().zip(dealt);
    let placed = placed.map(|(task, (length, shard))| TaskPlacement {
        task: task.name.clone(),
        shards: vec![Shard(shard)],
        load: vec![length as f64 / total as f64],
    });
    Some(placed.collect())
}

/// Where each task ends on the line. Every task has a length, be it the smallest.
fn boundaries(tasks: &[TaskProfile]) -> Vec<u64> {
    // Scaled by the largest factors first: their product can't overflow to infinity then.
    let largest = |f: fn(&TaskProfile) -> f64| tasks.iter().map(f).fold(0.0, f64::max);
    let (share, cost) = (largest(|task| task.share), largest(|task| task.sample_cost));
    let part = |value: f64, of: f64| if of > 0.0 { value / of } else { 1.0 };
    let weights: Vec<f64> = tasks
        .iter()
        .map(|t| part(t.share, share) * part(t.sample_cost, cost))
        .collect();
    let sum: f64 = weights.iter().sum();
    let length = |weight: &f64| {
        let length = if sum > 0.0 {
            weight / sum * LINE
        } else {
            LINE / weights.len() as f64
        };
        (length.round() as u64).max(1)
    };
    weights
        .iter()
        .scan(0, |end, weight| {
            *end += length(weight);
            Some(*end)
        })
        .collect()
}

/// The pieces' bounds: 0, the cuts, the end of the line.
fn cuts(ends: &[u64], total: u64, shards: u32, snap: u64) -> Vec<u64> {
    let at = |cut: u32| {
        (u128::from(total) * u128::from(cut) / u128::from(shards)).min(u128::from(total)) as u64
    };
    let reach = total / u64::from(shards) / snap;
    let snapped = |cut: u32| {
        let exact = at(cut);
        let nearest = ends.iter().copied().min_by_key(|end| end.abs_diff(exact));
        nearest
            .filter(|end| end.abs_diff(exact) <= reach && *end < total)
            .unwrap_or(exact)
    };
    (0..=shards)
        .map(|c| {
            if c == 0 || c == shards {
                at(c)
            } else {
                snapped(c)
            }
        })
        .collect()
}

/// Slices blocks among ranks.
fn slice(blocks: &[BlockProfile], world: usize) -> Vec<BlockPlacement> {
    let mut owned = vec![0_u64; world];
    let mut ends: Vec<Vec<u64>> = vec![Vec::new(); blocks.len()];
    let is_tiny = |block: &BlockProfile| block.trainable < TINY.saturating_mul(world as u64);
    for (block, ends) in blocks
        .iter()
        .zip(&mut ends)
        .filter(|(block, _)| !is_tiny(block))
    {
        let cut = |rank: usize| {
            let exact = u128::from(block.trainable) * rank as u128 / world as u128;
            exact as u64 / GRAIN * GRAIN
        };
        *ends = (1..=world)
            .map(|r| if r == world { block.trainable } else { cut(r) })
            .collect();
        let mut start = 0;
        for (owned, end) in owned.iter_mut().zip(ends.iter()) {
            *owned = owned.saturating_add(end - start);
            start = *end;
        }
    }
    for (block, ends) in blocks.iter().zip(&mut ends) {
        if block.trainable == 0 || !is_tiny(block) {
            continue;
        }
        let least = (0..world)
            .min_by_key(|rank| (owned[*rank], *rank))
            .unwrap_or(0);
        owned[least] = owned[least].saturating_add(block.trainable);
        *ends = (0..world)
            .map(|rank| if rank < least { 0 } else { block.trainable })
            .collect();
    }
    let placed = blocks.iter().zip(ends);
    placed
        .map(|(block, ends)| BlockPlacement {
            block: block.name.clone(),
            ends,
        })
        .collect()
}

/// Numbers that each rank owns, in order of rank.
#[must_use]
pub fn owned(plan: &Plan) -> Vec<u64> {
    let rank = |index: usize| Rank(u32::try_from(index).unwrap_or(u32::MAX));
    let slice = |block: &BlockPlacement, index| {
        let slice = block.slice(rank(index));
        slice.end.saturating_sub(slice.start)
    };
    (0..plan.seats.len())
        .map(|r| {
            plan.blocks
                .iter()
                .fold(0_u64, |sum, b| sum.saturating_add(slice(b, r)))
        })
        .collect()
}

/// Predicted share of the job's work that each rank does, in order of rank; sums to 1.
#[must_use]
pub fn work(plan: &Plan) -> Vec<f64> {
    let shards = plan.shards.iter().map(|shards| {
        let mine = |shard: &Shard| shards.contains(shard);
        let loads = plan
            .tasks
            .iter()
            .flat_map(|task| task.shards.iter().zip(&task.load));
        loads
            .filter(|(shard, _)| mine(shard))
            .map(|(_, load)| load)
            .sum()
    });
    shards.collect()
}
