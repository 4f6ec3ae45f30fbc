//! Elastic jobs: the same ranks on more or fewer workers.
//!
//! A job with `resources.workers` has as many ranks as it asks for, for ever; what changes is how
//! many workers host them. They are hosted by as many as are free, at least `min` and at most
//! `max`: in order of rank, each worker getting as many as any other or one more, and each of its
//! free devices likewise. So several ranks may share a device; no other job does.
//!
//! A job that has run already moves to workers that know it: those it was on, which hold its
//! snapshots, and its prepared spares (`spare.rs`). Others are taken only if these are fewer than `min`: a worker that must
//! load model and data first would hold up all.
//!
//! A plan (`place.rs`) is a function of the number of ranks and never of workers, so the result has
//! the same bits wherever they sit.

use crate::generation::count;
use crate::machine::Machine;
use crate::queue::{Wait, some};
use crate::seat::home;
use crate::state::Job;
use espalier_spec::job::Device;
use espalier_spec::plan::Seat;
use espalier_spec::{Rank, WorkerId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Between how many workers an elastic job runs; none if each of its ranks has a device of its own.
pub(crate) fn range(job: &Job) -> Option<(usize, usize)> {
    let given = job.spec.resources.workers?;
    let ranks = job.size.map(|size| size.ranks);
    let ranks = ranks.or(job.spec.resources.ranks)?;
    let max = given.max.min(ranks).max(1);
    Some((given.min.clamp(1, max) as usize, max as usize))
}

/// Workers that host a job's newest generation.
pub(crate) fn hosts(job: &Job) -> BTreeSet<&WorkerId> {
    job.seats.iter().map(|seat| &seat.worker).collect()
}

/// "1 worker with a cpu rank", "2 workers with a cpu rank".
pub(crate) fn noun(number: usize, of: &str) -> String {
    format!("{} with a {of}", count(number, "worker"))
}

impl Machine {
    /// Why an elastic job waits for workers.
    pub(crate) fn too_few(&self, number: u64, job: &Job, kind: Device, min: usize) -> Wait {
        let unfit = self.unfit(number, kind);
        Wait::Few {
            need: min,
            kind,
            has: self.index.hosts(kind).saturating_sub(unfit.len()),
            free: self.usable(number, job, kind).len(),
            unfit: some(&unfit),
        }
    }

    /// Seats of an elastic job's ranks on its workers and spares, or on all that are free; none if
    /// these are fewer than `min`.
    pub(crate) fn spread(
        &self,
        number: u64,
        job: &Job,
        kind: Device,
        ranks: u32,
        (min, max): (usize, usize),
    ) -> Option<Vec<Seat>> {
        if self.index.open(kind).len() < min {
            return None;
        }
        let free = self.usable(number, job, kind);
        let workers = free
            .iter()
            .map(|(name, devices)| (*name, devices.as_slice()));
        let mut workers: Vec<(&WorkerId, &[u32])> = workers.collect();
        let mut places: BTreeMap<&WorkerId, usize> = BTreeMap::new();
        // Those of a generation that was only prepared come after those of the last one that trained.
        let home = home(job);
        for (place, seat) in home.iter().chain(&job.seats).enumerate() {
            places.entry(&seat.worker).or_insert(place);
        }
        let first = |name: &WorkerId| places.get(name).copied();
        // Those that know the job come first.
        workers.sort_by_cached_key(|(name, _)| {
            let place = first(name).unwrap_or(usize::MAX);
            (place, !self.is_spare(number, name), *name)
        });
        let knows = |name: &WorkerId| first(name).is_some() || self.is_spare(number, name);
        let warm = workers.iter().filter(|(name, _)| knows(name)).count();
        if job.plan.is_some() && warm >= min {
            workers.truncate(warm);
        }
        if workers.len() < min {
            return None;
        }
        workers.truncate(max);
        Some(deal(&workers, home, ranks as usize))
    }
}

/// Seats of so many ranks on these workers (with their free devices; at most as many workers as
/// ranks): contiguous, even, and on the worker where they were (`former`) as far as that allows.
/// Workers that had ranks come first in `workers`, in order of these.
fn deal(workers: &[(&WorkerId, &[u32])], former: &[Seat], ranks: usize) -> Vec<Seat> {
    let parts = cut(0..ranks, workers.len());
    let was_on = |rank: usize, name: &WorkerId| {
        let seat = former.get(rank);
        seat.is_some_and(|seat| seat.worker == *name)
    };
    let mut hosts: Vec<Option<usize>> = vec![None; parts.len()];
    let mut rest = Vec::new();
    for (index, (name, _)) in workers.iter().enumerate() {
        let kept = |part: &Range<usize>| part.clone().filter(|rank| was_on(*rank, name)).count();
        let open = (0..parts.len()).filter(|part| hosts[*part].is_none());
        let best = open.max_by_key(|part| (kept(&parts[*part]), std::cmp::Reverse(*part)));
        match best.filter(|part| kept(&parts[*part]) > 0) {
            Some(part) => hosts[part] = Some(index),
            None => rest.push(index),
        }
    }
    let mut rest = rest.into_iter();
    let mut seats = Vec::with_capacity(ranks);
    for (part, host) in parts.into_iter().zip(hosts) {
        // As many workers as parts.
        let Some((name, free)) = host.or_else(|| rest.next()).map(|index| workers[index]) else {
            continue;
        };
        let had = |device: u32| {
            let mut former = former.iter();
            former.any(|seat| seat.worker == *name && seat.device == device)
        };
        let mut devices = free.to_vec();
        devices.sort_by_key(|device| (!had(*device), *device));
        devices.truncate(part.len());
        devices.sort_unstable();
        let shares = cut(part, devices.len());
        for (device, share) in devices.into_iter().zip(shares) {
            seats.extend(share.map(|rank| Seat {
                rank: Rank(u32::try_from(rank).unwrap_or(u32::MAX)),
                worker: name.clone(),
                device,
            }));
        }
    }
    seats
}

/// Cuts a range into parts whose lengths differ by at most one, the longer ones first.
fn cut(range: Range<usize>, parts: usize) -> Vec<Range<usize>> {
    let parts = parts.max(1);
    let (each, more) = (range.len() / parts, range.len() % parts);
    let mut start = range.start;
    let part = |index: usize| {
        let from = start;
        start += each + usize::from(index < more);
        from..start
    };
    (0..parts).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ranks of each worker in order: "a0 a0 b1" is ranks 0 and 1 on device 0 of a, rank 2 on
    /// device 1 of b.
    fn text(seats: &[Seat]) -> String {
        let seat = |(rank, seat): (usize, &Seat)| {
            assert_eq!(seat.rank.0 as usize, rank);
            format!("{}{}", seat.worker, seat.device)
        };
        let seats: Vec<String> = seats.iter().enumerate().map(seat).collect();
        seats.join(" ")
    }

    /// Deals ranks to workers with so many devices.
    fn dealt(workers: &[(&str, u32)], former: &[Seat], ranks: usize) -> Vec<Seat> {
        let named: Vec<(WorkerId, Vec<u32>)> = workers
            .iter()
            .map(|(name, devices)| (WorkerId::from(*name), (0..*devices).collect()))
            .collect();
        let workers: Vec<(&WorkerId, &[u32])> = named
            .iter()
            .map(|(name, devices)| (name, devices.as_slice()))
            .collect();
        deal(&workers, former, ranks)
    }

    #[test]
    fn ranks_are_cut_evenly_and_in_order() {
        // Promise: any number of workers hosts all ranks, in order, sizes differing by at most one.
        for (workers, ranks, expected) in [
            ("a", 4, "a0 a0 a0 a0"),
            ("a b", 4, "a0 a0 b0 b0"),
            ("a b c", 4, "a0 a0 b0 c0"),
            ("a b c d", 4, "a0 b0 c0 d0"),
            ("a b", 5, "a0 a0 a0 b0 b0"),
        ] {
            let workers: Vec<(&str, u32)> = workers.split(' ').map(|name| (name, 1)).collect();
            assert_eq!(text(&dealt(&workers, &[], ranks)), expected);
        }
    }

    #[test]
    fn a_workers_devices_share_its_ranks_evenly() {
        // Promise: a worker uses as many devices as it has ranks, and fewer only if it has fewer.
        assert_eq!(
            text(&dealt(&[("a", 2), ("b", 4)], &[], 5)),
            "a0 a0 a1 b0 b1"
        );
    }

    #[test]
    fn ranks_stay_where_they_were() {
        // Promise: the worker of rank 0 keeps it, and a worker that comes or goes moves no more
        // ranks than the even cut asks for.
        let two = dealt(&[("b", 1), ("a", 1)], &[], 4);
        assert_eq!(text(&two), "b0 b0 a0 a0");
        let three = dealt(&[("b", 1), ("a", 1), ("c", 1)], &two, 4);
        assert_eq!(text(&three), "b0 b0 a0 c0");
        // The one in the middle is lost: its place is taken, the others stay.
        let again = dealt(&[("b", 1), ("c", 1), ("d", 1)], &three, 4);
        assert_eq!(text(&again), "b0 b0 d0 c0");
        // Rank 0's worker is lost: d keeps rank 2, so the others go to c.
        let fewer = dealt(&[("d", 1), ("c", 1)], &again, 4);
        assert_eq!(text(&fewer), "c0 c0 d0 d0");
        // A device that a worker used is used again.
        let second = [Seat {
            rank: Rank(0),
            worker: "a".into(),
            device: 1,
        }];
        assert_eq!(text(&dealt(&[("a", 2)], &second, 1)), "a1");
    }
}
