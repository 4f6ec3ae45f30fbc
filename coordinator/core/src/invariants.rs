//! What is true after every step, by name.

use crate::account::KEPT;
use crate::elastic;
use crate::live::{LeaseState, Link, Worker};
use crate::machine::Machine;
use crate::state::{Job, Phase};
use espalier_spec::WorkerId;
use espalier_spec::plan::Plan;
use espalier_spec::recovery::HeldSnapshot;
use std::collections::{BTreeMap, BTreeSet};

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {message}")]
pub struct Broken {
    /// Which invariant.
    pub name: &'static str,
    /// What breaks it.
    pub message: String,
}

/// Checks all invariants over the whole state.
#[must_use]
pub fn check(machine: &Machine) -> Vec<Broken> {
    let numbers = machine.state.jobs.keys().copied().collect();
    let names = machine.workers.iter().map(|(name, _)| name.clone());
    let mut broken = check_touched(machine, &numbers, &names.collect());
    broken.extend(store_knows_workers(machine));
    broken.extend(spares_have_no_ranks(machine));
    broken.extend(index_is_right(machine));
    broken.extend(nothing_is_overlooked(machine));
    broken
}

/// Checks those of these jobs and workers.
pub(crate) fn check_touched(
    machine: &Machine,
    numbers: &BTreeSet<u64>,
    names: &BTreeSet<WorkerId>,
) -> Vec<Broken> {
    let mut broken = Vec::new();
    let workers = names.iter().filter_map(|name| machine.workers.get(name));
    for worker in workers {
        broken.extend(no_device_in_two_jobs(worker));
        broken.extend(leases_are_of_known_generations(machine, worker));
    }
    for number in numbers {
        let Some(job) = machine.state.jobs.get(number) else {
            continue;
        };
        broken.extend(one_generation_runs(machine, *number, job));
        broken.extend(events_without_gaps(job));
        broken.extend(name_leads_to_job(machine, *number, job));
        broken.extend(runs_or_waits_for_a_reason(machine, *number, job));
        broken.extend(job.plan.iter().flat_map(slices_tile));
        broken.extend(seats_are_distinct(job));
        broken.extend(elastic_seats_are_even(job));
        broken.extend(every_rank_has_a_provider(machine, *number, job));
        broken.extend(recoveries_follow_generations(job));
    }
    broken
}

fn one(name: &'static str, message: String) -> Option<Broken> {
    Some(Broken { name, message })
}

fn no_device_in_two_jobs(worker: &Worker) -> Vec<Broken> {
    let (mut broken, mut used) = (Vec::new(), BTreeSet::new());
    for lease in worker.leases.values() {
        // Ranks of one job may share a device.
        let devices: BTreeSet<u32> = lease.seats.iter().map(|(device, _)| *device).collect();
        for device in devices {
            if !used.insert(device) {
                let name = &worker.info.name;
                let message = format!("device {device} of worker {name} is in two leases");
                broken.extend(one("no_device_in_two_jobs", message));
            }
        }
    }
    broken
}

/// Looking at those that have changed is looking at all.
fn nothing_is_overlooked(machine: &Machine) -> Option<Broken> {
    let overlooked = machine.overlooked()?;
    one("nothing_is_overlooked", overlooked)
}

/// What is counted step by step is what counting everything anew leads to.
fn index_is_right(machine: &Machine) -> Option<Broken> {
    let wrong = machine.misindexed()?;
    one(
        "index_is_right",
        format!("the {wrong} are not those that there are"),
    )
}

fn store_knows_workers(machine: &Machine) -> Vec<Broken> {
    let live = machine
        .workers
        .iter()
        .filter(|(_, worker)| worker.link != Link::Gone);
    let live: BTreeMap<_, _> = live.map(|(name, worker)| (name, &worker.info)).collect();
    let stored: BTreeMap<_, _> = machine.state.workers.iter().collect();
    if live == stored {
        return Vec::new();
    }
    let message = format!(
        "the store has {:?}, the cluster {:?}",
        stored.keys(),
        live.keys()
    );
    one("store_knows_workers", message).into_iter().collect()
}

/// No lease is of a generation that its job has not had yet, and those of older ones are to stop;
/// all are of workers on which the job sits.
fn leases_are_of_known_generations(machine: &Machine, worker: &Worker) -> Vec<Broken> {
    let mut broken = Vec::new();
    let name = &worker.info.name;
    for (key, lease) in &worker.leases {
        let Some(job) = machine.state.jobs.get(&lease.number) else {
            continue;
        };
        let stale = key.1 < job.generation && lease.state == LeaseState::Active;
        let seated = job.seats.iter().any(|seat| seat.worker == *name);
        if key.1 > job.generation || stale || !seated {
            let message = format!(
                "worker {name} holds {:?} of generation {} of job {}, which is at {}, seated there: {seated}",
                lease.state, key.1.0, key.0, job.generation.0
            );
            broken.extend(one("leases_are_of_known_generations", message));
        }
    }
    broken
}

/// What a worker keeps as a spare is nothing it has devices for.
fn spares_have_no_ranks(machine: &Machine) -> Vec<Broken> {
    let mut broken = Vec::new();
    for (name, spares) in machine.spares.iter() {
        let worker = machine.workers.get(name);
        for spare in spares.values() {
            if worker.is_some_and(|worker| worker.leases.contains_key(&spare.key)) {
                let message = format!("worker {name} is a spare of {:?} and has ranks", spare.key);
                broken.extend(one("spares_have_no_ranks", message));
            }
        }
    }
    broken
}

/// Two generations of a job never train at once: devices are held by one, and orders to train are
/// out only while it is prepared or runs.
fn one_generation_runs(machine: &Machine, number: u64, job: &Job) -> Option<Broken> {
    let hosts = elastic::hosts(job).into_iter();
    let hosts = hosts.filter_map(|name| machine.workers.get(name));
    let leases = hosts.flat_map(|worker| &worker.leases);
    let of_job: Vec<_> = leases.filter(|(_, lease)| lease.number == number).collect();
    let generations: BTreeSet<u64> = of_job.iter().map(|(key, _)| key.1.0).collect();
    let active = of_job
        .iter()
        .any(|(_, lease)| lease.state == LeaseState::Active);
    let runs = matches!(job.phase, Phase::Preparing | Phase::Running { .. });
    if generations.len() > 1 || active && !runs {
        let message = format!(
            "job {} is {:?} and holds leases of generations {generations:?}, active: {active}",
            job.spec.name,
            job.state()
        );
        return one("one_generation_runs", message);
    }
    None
}

fn events_without_gaps(job: &Job) -> Option<Broken> {
    let counted = (1..)
        .zip(&job.events)
        .all(|(number, event)| event.sequence == number);
    if counted && !job.events.is_empty() {
        return None;
    }
    one(
        "events_without_gaps",
        format!("the events of job {} are not 1, 2, ...", job.spec.name),
    )
}

fn name_leads_to_job(machine: &Machine, number: u64, job: &Job) -> Option<Broken> {
    if machine.state.names.get(&job.name()) == Some(&number) {
        return None;
    }
    one(
        "name_leads_to_job",
        format!("the name {} leads elsewhere", job.spec.name),
    )
}

/// Every job that has not ended either moves by itself or says what it waits for.
fn runs_or_waits_for_a_reason(machine: &Machine, number: u64, job: &Job) -> Option<Broken> {
    let holders: BTreeSet<WorkerId> = machine.holders(number).into_iter().collect();
    let message = match &job.phase {
        Phase::Queued if !machine.waits.contains_key(&number) => "is queued without a reason",
        Phase::Preparing
            if machine
                .live
                .get(&number)
                .is_none_or(|live| live.deadline.is_none())
                && !job
                    .seats
                    .iter()
                    .any(|seat| is_awaited(machine, &seat.worker)) =>
        {
            "is prepared without a deadline"
        }
        Phase::Preparing if job.seats.iter().any(|seat| !holders.contains(&seat.worker)) => {
            "is prepared on a worker that does not hold its seats"
        }
        Phase::Running { finished, .. }
            if job.seats.iter().any(|seat| {
                !holders.contains(&seat.worker) && !finished.contains(&seat.worker)
            }) =>
        {
            "runs on a worker that does not hold its seats"
        }
        Phase::Stopping { .. } if holders.is_empty() => "stops, but nothing is left to stop",
        _ => return None,
    };
    one(
        "runs_or_waits_for_a_reason",
        format!("job {} {message}", job.spec.name),
    )
}

fn is_awaited(machine: &Machine, name: &WorkerId) -> bool {
    let worker = machine.workers.get(name);
    worker.is_some_and(|worker| matches!(worker.link, Link::Awaited { .. }))
}

fn seats_are_distinct(job: &Job) -> Option<Broken> {
    let places: BTreeSet<_> = job
        .seats
        .iter()
        .map(|seat| (&seat.worker, seat.device))
        .collect();
    let ranks = (0..)
        .zip(&job.seats)
        .all(|(rank, seat)| seat.rank.0 == rank);
    let size = job.size.map_or(0, |size| size.ranks as usize);
    let distinct = places.len() == job.seats.len() || elastic::range(job).is_some();
    if distinct && ranks && job.seats.len() == size {
        return None;
    }
    one(
        "seats_are_distinct",
        format!("job {} has seats {:?}", job.spec.name, job.seats),
    )
}

/// The ranks of an elastic job are on as many workers as it allows, in order, and as many on each as
/// on any other or one more.
fn elastic_seats_are_even(job: &Job) -> Option<Broken> {
    let (min, max) = elastic::range(job)?;
    let mut parts: Vec<(&WorkerId, usize)> = Vec::new();
    for seat in &job.seats {
        match parts.last_mut() {
            Some((worker, ranks)) if **worker == seat.worker => *ranks += 1,
            _ => parts.push((&seat.worker, 1)),
        }
    }
    let workers = elastic::hosts(job).len();
    let sizes = || parts.iter().map(|(_, ranks)| *ranks);
    let even = sizes().max().unwrap_or(0) - sizes().min().unwrap_or(0) <= 1;
    if parts.is_empty() || parts.len() == workers && even && (min..=max).contains(&workers) {
        return None;
    }
    one(
        "elastic_seats_are_even",
        format!("job {} has seats {:?}", job.spec.name, job.seats),
    )
}

/// A snapshot to go on from has a provider for each rank, whose worker said that it holds the part.
fn every_rank_has_a_provider(machine: &Machine, number: u64, job: &Job) -> Option<Broken> {
    let Phase::Running {
        restore: Some(restore),
        ..
    } = &job.phase
    else {
        return None;
    };
    // Empty after a restart of the coordinator: then it is not known any more.
    let held = machine.live.get(&number).map(|live| &live.held);
    let mut parts = job.seats.iter().zip(&restore.providers);
    let provided = parts.all(|(seat, provider)| {
        let Some(holder) = job.seats.get(provider.0 as usize) else {
            return false;
        };
        let part = HeldSnapshot {
            rank: seat.rank,
            step: restore.step,
        };
        let parts = held.and_then(|held| held.get(&holder.worker));
        parts.is_none_or(|parts| parts.contains(&part))
    });
    if provided && restore.providers.len() == job.seats.len() {
        return None;
    }
    one(
        "every_rank_has_a_provider",
        format!("job {} goes on from {restore:?}", job.spec.name),
    )
}

/// Each recovery is of a later generation than the one before it, none of one that never was; none
/// goes on from a step that nobody had done.
fn recoveries_follow_generations(job: &Job) -> Option<Broken> {
    let rising = job
        .recoveries
        .is_sorted_by(|one, next| one.generation < next.generation);
    let newest = job.recoveries.last();
    let known = newest.is_none_or(|newest| newest.generation <= job.generation);
    let done = job
        .recoveries
        .iter()
        .all(|recovery| recovery.from <= recovery.reached);
    if rising && known && done && job.recoveries.len() <= KEPT {
        return None;
    }
    one(
        "recoveries_follow_generations",
        format!(
            "job {} at {} has the recoveries {:?}",
            job.spec.name, job.generation, job.recoveries
        ),
    )
}

/// Every block's slices tile it, shards are dealt once each, every task has shards.
#[must_use]
pub fn slices_tile(plan: &Plan) -> Vec<Broken> {
    let mut broken = Vec::new();
    for block in &plan.blocks {
        let sorted = block.ends.is_sorted();
        if !block.ends.is_empty() && (block.ends.len() != plan.seats.len() || !sorted) {
            let message = format!("block {} ends at {:?}", block.block, block.ends);
            broken.extend(one("slices_tile", message));
        }
    }
    let dealt: Vec<u32> = plan.shards.iter().flatten().map(|shard| shard.0).collect();
    let in_order = (0..).zip(&dealt).all(|(number, shard)| *shard == number);
    if !in_order || plan.shards.len() != plan.seats.len() {
        let message = format!("shards are dealt as {:?}", plan.shards);
        broken.extend(one("shards_tile", message));
    }
    for task in &plan.tasks {
        let known = task
            .shards
            .iter()
            .all(|shard| (shard.0 as usize) < dealt.len());
        if task.shards.is_empty() || task.shards.len() != task.load.len() || !known {
            let message = format!("task {} is on shards {:?}", task.task, task.shards);
            broken.extend(one("every_task_has_shards", message));
        }
    }
    broken
}
