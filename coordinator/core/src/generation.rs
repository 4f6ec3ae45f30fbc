//! Generations: prepare, acknowledgements, start.
//!
//! A generation starts when all its workers have prepared it. With their acknowledgement they say
//! which snapshots of the job they hold in memory; the start says which one to go on from.

use crate::command::Order;
use crate::event::{ConnId, PeerAddress};
use crate::live::{Key, LeaseState, Live};
use crate::machine::Machine;
use crate::member::seconds;
use crate::place::{Problem, place};
use crate::record::Kind;
use crate::recover::{End, choose};
use crate::state::{Phase, Size};
use espalier_spec::plan::{Profile, Seat};
use espalier_spec::recovery::{Cause, HeldSnapshot};
use espalier_spec::report::Failure;
use espalier_spec::{JobSpec, Rank, WorkerId};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Workers that a sentence names at most.
const NAMED: usize = 8;

impl Machine {
    /// Begins the next generation of a queued job on these seats.
    pub(crate) fn begin(&mut self, number: u64, seats: Vec<Seat>, size: Size) {
        let Some(job) = self.state.jobs.get(&number) else {
            return;
        };
        let generation = job.generation.next();
        let workers: BTreeSet<WorkerId> = seats.iter().map(|seat| seat.worker.clone()).collect();
        let message = format!(
            "generation {}: {} on {} prepare{} {}",
            generation.0,
            count(seats.len(), "rank"),
            names("worker", &workers),
            if seats.len() == 1 { "s" } else { "" },
            job.way_on()
        );
        let key = (job.name(), generation);
        let reached = self.reached_now(number);
        let order = Order::Prepare {
            job: job.name(),
            uid: job.uid.clone(),
            generation,
            spec: Box::new(job.spec.clone()),
            seats: seats.clone(),
            spare: false,
        };
        self.tell(
            number,
            message,
            Kind::Placed {
                generation,
                seats,
                size,
                reached,
            },
        );
        let deadline = self.now.plus(self.config.prepare_timeout_ms);
        let live = self.live.entry(number).or_default();
        let (progress, ran) = (live.progress.take(), live.ran.take());
        let unseen = live.unseen;
        *live = Live {
            deadline: Some(deadline),
            progress,
            ran,
            unseen,
            ..Live::default()
        };
        self.grant(number, LeaseState::Active);
        for worker in &workers {
            // Left by a deleted job of the same name.
            if let Some(worker) = self.workers.get_mut(worker) {
                worker.accused.remove(&key);
            }
            self.send(worker, order.clone());
        }
    }

    /// A worker's ranks are ready.
    pub(crate) fn prepared(
        &mut self,
        conn: ConnId,
        key: Key,
        mut addresses: Vec<PeerAddress>,
        profile: Profile,
        snapshots: Vec<HeldSnapshot>,
    ) {
        if self.spare_answered(conn, &key, &profile) {
            return;
        }
        let Some((name, number)) = self.reporter(conn, &key) else {
            return;
        };
        let Some(job) = self.state.jobs.get(&number) else {
            return;
        };
        if job.phase != Phase::Preparing {
            self.stale += 1;
            return;
        }
        addresses.sort();
        let seats = job.seats.iter().filter(|seat| seat.worker == name);
        let expected: Vec<Rank> = seats.map(|seat| seat.rank).collect();
        let given: Vec<Rank> = addresses.iter().map(|address| address.rank).collect();
        let live = self.live.entry(number).or_default();
        let wrong = if given != expected {
            Some(format!(
                "worker {name} gave addresses of {}, expected those of {}; this is an error of \
                 the worker",
                ranks(&given),
                ranks(&expected)
            ))
        } else if let Err(message) = profile_fits(&job.spec, &profile) {
            Some(format!(
                "worker {name} prepared something else than the job asks for: {message}"
            ))
        } else {
            match &live.profile {
                Some((first, other)) if other.fetched_others(&profile) => Some(format!(
                    "workers {first} and {name} fetched different versions of the job's files: one \
                     was changed at its URL in between; submit the job again when it changes no more"
                )),
                Some((first, other)) if !other.agrees(&profile) => Some(format!(
                    "workers {first} and {name} found different models or data; check that {} and \
                     the data files are the same on both",
                    job.spec.backbone.path
                )),
                _ => None,
            }
        };
        if let Some(message) = wrong {
            self.fail(
                number,
                Failure {
                    code: "internal".to_owned(),
                    message,
                    retryable: false,
                    lost: None,
                },
            );
            return;
        }
        live.profile.get_or_insert((name.clone(), profile));
        live.held.insert(name.clone(), snapshots);
        live.acks.insert(name, addresses);
        self.start_if_ready(number);
    }

    fn start_if_ready(&mut self, number: u64) {
        let (Some(job), Some(live)) = (self.state.jobs.get(&number), self.live.get(&number)) else {
            return;
        };
        if job
            .seats
            .iter()
            .any(|seat| !live.acks.contains_key(&seat.worker))
        {
            return;
        }
        let (Some((_, profile)), Some(size)) = (&live.profile, job.size) else {
            return;
        };
        let plan = place(&Problem {
            job: job.name(),
            generation: job.generation,
            seats: job.seats.clone(),
            shards: size.shards,
            spec: &job.spec,
            profile,
            previous: job.plan.as_ref(),
            measured: self
                .newest_progress(number)
                .map(|progress| &progress.task_milliseconds),
        });
        let mut addresses: Vec<PeerAddress> = live.acks.values().flatten().cloned().collect();
        addresses.sort();
        let restore = choose(job, live);
        let from = match &restore {
            Some(restore) => format!("from the snapshot of step {} in memory", restore.step),
            None => job.resume_point(),
        };
        let message = format!(
            "generation {} runs on {} {from}",
            job.generation.0,
            count(job.seats.len(), "rank"),
        );
        let workers: BTreeSet<WorkerId> =
            job.seats.iter().map(|seat| seat.worker.clone()).collect();
        if let Some(live) = self.live.get_mut(&number) {
            live.ran = live.profile.take();
            live.unseen = 0;
        }
        self.tell(
            number,
            message,
            Kind::Started {
                plan: Box::new(plan),
                addresses,
                restore,
            },
        );
        for worker in workers {
            self.send_start(&worker, number);
        }
        self.move_off(number);
    }

    fn send_start(&mut self, worker: &WorkerId, number: u64) {
        let Some(job) = self.state.jobs.get(&number) else {
            return;
        };
        let Phase::Running {
            addresses, restore, ..
        } = &job.phase
        else {
            return;
        };
        let Some(plan) = &job.plan else {
            return;
        };
        let order = Order::Start {
            job: job.name(),
            uid: job.uid.clone(),
            generation: job.generation,
            plan: Box::new(plan.clone()),
            addresses: addresses.clone(),
            resume: job.checkpoint.clone(),
            restore: restore.clone(),
        };
        self.send(worker, order);
    }

    /// The order to start may have been lost with the worker's stream, unless the job has reported
    /// since.
    pub(crate) fn repeat_start(&mut self, worker: &WorkerId, number: u64) {
        if self
            .live
            .get(&number)
            .is_none_or(|live| live.reached.is_none())
        {
            self.send_start(worker, number);
        }
    }

    /// A worker reconnected whose preparations are in doubt: its order or its answer may have been
    /// lost with its stream. Preparing again is cheap and certain.
    pub(crate) fn abort_unheard(&mut self, name: &WorkerId) {
        let Some(worker) = self.workers.get(name) else {
            return;
        };
        let active = worker
            .leases
            .values()
            .filter(|lease| lease.state == LeaseState::Active);
        let numbers: Vec<u64> = active.map(|lease| lease.number).collect();
        for number in numbers {
            let acked = self
                .live
                .get(&number)
                .is_some_and(|live| live.acks.contains_key(name));
            if self.phase(number) == Some(Phase::Preparing) && !acked {
                let why = format!("worker {name} lost its connection while it prepared");
                let end = End {
                    counts: false,
                    ..End::fault(name)
                };
                self.retry(number, &why, end);
            }
        }
    }

    /// Generations of these jobs that were not prepared in time.
    pub(crate) fn expire_preparations(&mut self, among: &BTreeSet<u64>) {
        for number in among.iter().copied() {
            let deadline = self.live.get(&number).and_then(|live| live.deadline);
            if deadline.is_none_or(|at| at > self.now) {
                continue;
            }
            let (Some(job), Some(live)) = (self.state.jobs.get(&number), self.live.get(&number))
            else {
                continue;
            };
            let seats = job.seats.iter().map(|seat| seat.worker.clone());
            let late: BTreeSet<WorkerId> = seats.filter(|w| !live.acks.contains_key(w)).collect();
            let why = format!(
                "{} had not prepared it after {} s",
                names("worker", &late),
                seconds(self.config.prepare_timeout_ms)
            );
            let end = End {
                cause: Cause::Failure,
                worker: late.first().cloned(),
                failure: None,
                counts: true,
            };
            self.retry(number, &why, end);
        }
    }
}

/// Whether a profile is one of this job.
pub(crate) fn profile_fits(spec: &JobSpec, profile: &Profile) -> Result<(), String> {
    let given: Vec<&str> = profile
        .tasks
        .iter()
        .map(|task| task.name.as_str())
        .collect();
    let expected: Vec<&str> = spec.tasks.iter().map(|task| task.name.as_str()).collect();
    if given != expected {
        return Err(format!(
            "tasks {}, expected {}",
            given.join(", "),
            expected.join(", ")
        ));
    }
    for task in &profile.tasks {
        for (what, value) in [("share", task.share), ("sample cost", task.sample_cost)] {
            if !value.is_finite() || value < 0.0 {
                return Err(format!(
                    "{what} {value} of task {}, expected 0 or a positive number",
                    task.name
                ));
            }
        }
    }
    if let Some(block) = profile
        .blocks
        .iter()
        .find(|block| block.trainable > block.total)
    {
        return Err(format!(
            "block {} with {} trainable of {} numbers",
            block.name, block.trainable, block.total
        ));
    }
    if profile.blocks.iter().all(|block| block.trainable == 0) {
        return Err("no block with anything to train".to_owned());
    }
    Ok(())
}

/// "1 rank", "2 ranks".
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// "worker a", "workers a, b and c", "workers a, b, c and 997 others".
pub(crate) fn names(noun: &str, names: &BTreeSet<WorkerId>) -> String {
    crowd(noun, names, names.len())
}

/// So many workers, of which only the first are known by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Crowd {
    first: Arc<BTreeSet<WorkerId>>,
    number: usize,
}

impl Crowd {
    pub(crate) fn of<'a>(names: impl ExactSizeIterator<Item = &'a WorkerId>) -> Self {
        let number = names.len();
        let first = Arc::new(names.take(NAMED + 1).cloned().collect());
        Self { first, number }
    }
}

impl fmt::Display for Crowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crowd("worker", &self.first, self.number))
    }
}

/// The same of so many, of which these are the first.
fn crowd(noun: &str, names: &BTreeSet<WorkerId>, number: usize) -> String {
    // One more name is no longer than a number.
    let named = if number <= NAMED + 1 { number } else { NAMED };
    let names: Vec<&str> = names.iter().take(named).map(WorkerId::as_str).collect();
    match (number - names.len().min(number), names.as_slice()) {
        (_, []) => format!("no {noun}"),
        (0, [one]) => format!("{noun} {one}"),
        (0, [first @ .., last]) => format!("{noun}s {} and {last}", first.join(", ")),
        (others, named) => format!("{noun}s {} and {others} others", named.join(", ")),
    }
}

fn ranks(ranks: &[Rank]) -> String {
    if ranks.is_empty() {
        return "no rank".to_owned();
    }
    ranks
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: a sentence about a large cluster can be read.
    #[test]
    fn few_are_named() {
        let named = |number: usize| {
            let names_of = (0..number).map(|at| WorkerId(format!("w{at:04}")));
            names("worker", &names_of.collect())
        };
        assert_eq!(named(0), "no worker");
        assert_eq!(named(1), "worker w0000");
        assert_eq!(named(3), "workers w0000, w0001 and w0002");
        assert!(named(9).ends_with("w0007 and w0008"));
        let many = "workers w0000, w0001, w0002, w0003, w0004, w0005, w0006, w0007 and 992 others";
        assert_eq!(named(1_000), many);
    }
}
