//! When a rank takes its part of a snapshot, and who else holds it.

use super::Error;
use super::part::Part;
use super::trainer::Trainer;
use crate::agent::held::Holding;
use crate::checkpoint::RunState;
use espalier_comm::{Communicator, CommunicatorExt};
use espalier_spec::plan::Seat;
use espalier_spec::recovery::RecoverySpec;
use espalier_spec::{Rank, Step};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Share of the time of steps that snapshots may cost.
const SHARE: f64 = 0.02;
/// Most steps between two snapshots.
const MOST: u64 = 1000;
/// Steps that are timed before the first distance is chosen.
const PROBE: u32 = 3;
/// Bytes before a part on its way: rank and lengths of both images.
const HEAD: usize = 20;

/// Steps from one snapshot to the next, for one that costs `cost` seconds between steps of `step`
/// seconds each: the least k with cost / (k step) <= 2 %, at least 1, at most 1000.
pub(super) fn distance(cost: f64, step: f64) -> u64 {
    // What is no number becomes 0, what is too large the largest: both are put between the ends.
    let least = (cost / (SHARE * step)).ceil() as u64;
    least.clamp(1, MOST)
}

/// For each rank the one that mirrors it: the first after it, cyclically, that another worker hosts;
/// none if one worker hosts all.
pub(super) fn buddies(seats: &[Seat]) -> Vec<Option<usize>> {
    let count = seats.len();
    let of = |rank: usize| {
        let worker = &seats[rank].worker;
        let mut others = (1..count).map(|ahead| (rank + ahead) % count);
        others.find(|other| seats[*other].worker != *worker)
    };
    (0..count).map(of).collect()
}

/// Ranks whose parts the worker of `rank` holds: those it hosts and those that these mirror.
pub(super) fn held_by(seats: &[Seat], rank: usize) -> BTreeSet<Rank> {
    let Some(worker) = seats.get(rank).map(|seat| &seat.worker) else {
        return BTreeSet::new();
    };
    let here = |other: usize| seats[other].worker == *worker;
    let buddies = buddies(seats);
    (0..seats.len())
        .filter(|other| here(*other) || buddies[*other].is_some_and(here))
        .map(|other| Rank(other as u32))
        .collect()
}

/// Writes a part for another rank; without `own` if that rank does not need it.
pub(super) fn pack(part: &Part, with_own: bool, out: &mut Vec<u8>) {
    let own: &[u8] = if with_own { &part.own } else { &[] };
    out.reserve(HEAD + part.shared.len() + own.len());
    out.extend(part.rank.0.to_le_bytes());
    out.extend((part.shared.len() as u64).to_le_bytes());
    out.extend((own.len() as u64).to_le_bytes());
    out.extend_from_slice(&part.shared);
    out.extend_from_slice(own);
}

/// Reads what [`pack`] wrote, once or several times.
///
/// # Errors
/// [`Error::NoSnapshot`] if it was cut off.
pub(super) fn unpack(mut bytes: &[u8], step: Step) -> Result<Vec<Part>, Error> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let (part, rest) = unpack_one(bytes, step).ok_or_else(|| Error::NoSnapshot {
            rank: Rank(0),
            step: step.0,
            message: "a peer sent a part that is cut off".to_owned(),
        })?;
        parts.push(part);
        bytes = rest;
    }
    Ok(parts)
}

fn unpack_one(bytes: &[u8], step: Step) -> Option<(Part, &[u8])> {
    let (rank, rest) = bytes.split_first_chunk::<4>()?;
    let (shared, rest) = rest.split_first_chunk::<8>()?;
    let (own, rest) = rest.split_first_chunk::<8>()?;
    let shared = usize::try_from(u64::from_le_bytes(*shared)).ok()?;
    let own = usize::try_from(u64::from_le_bytes(*own)).ok()?;
    let (shared, rest) = rest.split_at_checked(shared)?;
    let (own, rest) = rest.split_at_checked(own)?;
    let part = Part {
        rank: Rank(u32::from_le_bytes(*rank)),
        step,
        shared: Arc::from(shared),
        own: Arc::from(own),
    };
    Some((part, rest))
}

/// A rank's snapshots. All ranks take theirs at the same steps: what they decide by is the same on all.
#[derive(Debug)]
pub(super) struct Snapshots {
    holding: Arc<Holding>,
    buddies: Vec<Option<usize>>,
    /// Steps between two, if the job says so; 0: there are none.
    fixed: Option<u64>,
    /// Steps between two, as last agreed; none before that.
    agreed: Option<u64>,
    /// Steps done at the newest.
    last: u64,
    /// What the newest cost this rank.
    cost: Duration,
    /// Steps since the last agreement, and their time.
    steps: u32,
    spent: Duration,
}

impl Snapshots {
    pub(super) fn new(spec: &RecoverySpec, seats: &[Seat], holding: Arc<Holding>) -> Self {
        Self {
            holding,
            buddies: buddies(seats),
            fixed: spec.snapshot_every,
            agreed: None,
            last: 0,
            cost: Duration::ZERO,
            steps: 0,
            spent: Duration::ZERO,
        }
    }

    /// Whether the job has any.
    pub(super) fn on(&self) -> bool {
        self.fixed != Some(0)
    }

    /// The first one, before the generation's first step; there already is one if it went on from one.
    ///
    /// # Errors
    /// See [`Snapshots::take`].
    pub(super) fn begin(
        &mut self,
        trainer: &mut Trainer,
        state: &mut RunState,
        restored: bool,
    ) -> Result<(), Error> {
        self.last = state.step.0;
        match self.on() && !restored {
            true => self.take(trainer, state),
            false => Ok(()),
        }
    }

    /// After a step that took so long: takes one if it is due.
    ///
    /// # Errors
    /// See [`Snapshots::take`].
    pub(super) fn stepped(
        &mut self,
        took: Duration,
        trainer: &mut Trainer,
        state: &mut RunState,
    ) -> Result<(), Error> {
        if !self.on() {
            return Ok(());
        }
        self.steps += 1;
        self.spent += took;
        if self.fixed.is_none() && self.agreed.is_none() && self.steps >= PROBE {
            self.agree(trainer.exchange.comm())?;
        }
        let Some(every) = self.fixed.or(self.agreed) else {
            return Ok(());
        };
        if state.step.0.saturating_sub(self.last) < every {
            return Ok(());
        }
        self.take(trainer, state)?;
        if self.fixed.is_none() {
            self.agree(trainer.exchange.comm())?;
        }
        Ok(())
    }

    /// Takes this rank's part and mirrors it. All ranks call it together. It counts as held only then:
    /// if a rank is lost meanwhile, all still hold the one before.
    ///
    /// # Errors
    /// What the communicator or libtorch says.
    pub(super) fn take(
        &mut self,
        trainer: &mut Trainer,
        state: &mut RunState,
    ) -> Result<(), Error> {
        let begun = Instant::now();
        let part = trainer.take_part(state)?;
        self.mirror(trainer.exchange.comm(), part)?;
        self.last = state.step.0;
        self.cost = begun.elapsed();
        Ok(())
    }

    fn mirror(&self, comm: &dyn Communicator, part: Part) -> Result<(), Error> {
        if self.buddies.iter().any(Option::is_some) {
            let mut out = vec![Vec::new(); comm.size()];
            let buddy = self.buddies.get(comm.rank()).copied().flatten();
            if let Some(out) = buddy.and_then(|buddy| out.get_mut(buddy)) {
                pack(&part, true, out);
            }
            for bytes in comm.all_to_all_bytes(out)? {
                for other in unpack(&bytes, part.step)? {
                    self.holding.insert(other);
                }
            }
        }
        self.holding.insert(part);
        Ok(())
    }

    /// Agrees on the distance, from what snapshots and steps cost all ranks.
    fn agree(&mut self, comm: &dyn Communicator) -> Result<(), Error> {
        let pace = self.spent.as_secs_f64() / f64::from(self.steps.max(1));
        let mine = [self.cost.as_secs_f64().to_le_bytes(), pace.to_le_bytes()];
        let (mut cost, mut step) = (0.0, f64::INFINITY);
        for theirs in comm.all_gather_bytes(mine.concat())? {
            let (pairs, _) = theirs.as_chunks::<8>();
            if let [of_one, of_step] = pairs {
                cost = f64::max(cost, f64::from_le_bytes(*of_one));
                step = f64::min(step, f64::from_le_bytes(*of_step));
            }
        }
        let every = distance(cost, step);
        if self.agreed != Some(every) && comm.rank() == 0 {
            tracing::debug!(every, cost, step, "steps between snapshots");
        }
        self.agreed = Some(every);
        (self.steps, self.spent) = (0, Duration::ZERO);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(workers: &[&str]) -> Vec<Seat> {
        let seat = |(rank, worker): (u32, &&str)| Seat {
            rank: Rank(rank),
            worker: (*worker).into(),
            device: 0,
        };
        (0..).zip(workers).map(seat).collect()
    }

    // Promise: snapshots cost at most 2 % of the time of steps, where that can be with at most 1000
    // steps between them, and no number makes it something else than 1 to 1000.
    #[test]
    fn the_distance_keeps_the_cost_below_its_share() {
        assert_eq!(distance(0.02, 1.0), 1);
        assert_eq!(distance(0.5, 0.25), 100);
        assert_eq!(distance(0.0, 0.1), 1);
        assert_eq!(distance(10.0, 0.001), MOST);
        assert_eq!(distance(1.0, 0.0), MOST);
        assert_eq!(distance(0.0, 0.0), 1);
        for (cost, step) in [(0.013, 0.2), (0.4, 0.31), (1.7, 0.9)] {
            let every = distance(cost, step);
            assert!(cost / (every as f64 * step) <= SHARE + 1e-12);
            assert!(cost / ((every - 1) as f64 * step) > SHARE);
        }
    }

    // Promise: a rank is mirrored by the first one after it on another worker, by nobody where there is
    // none; a worker holds its own ranks' parts and those that these mirror.
    #[test]
    fn buddies_are_on_other_workers() {
        assert_eq!(buddies(&seats(&["a", "a"])), [None, None]);
        let four = seats(&["a", "a", "b", "c"]);
        assert_eq!(buddies(&four), [Some(2), Some(2), Some(3), Some(0)]);
        let held = |rank| -> Vec<u32> { held_by(&four, rank).iter().map(|r| r.0).collect() };
        assert_eq!(held(1), [0, 1, 3]);
        assert_eq!(held(2), [0, 1, 2]);
        assert_eq!(held(3), [2, 3]);
    }

    // Promise: parts come out as they went in, `own` only where it was sent, and half a part is an
    // error that names the step.
    #[test]
    fn parts_travel_unchanged() {
        let part = |rank: u32| Part {
            rank: Rank(rank),
            step: Step(7),
            shared: Arc::from(vec![rank as u8; 5].as_slice()),
            own: Arc::from(vec![9u8; 3].as_slice()),
        };
        let mut bytes = Vec::new();
        pack(&part(1), true, &mut bytes);
        pack(&part(2), false, &mut bytes);
        let parts = unpack(&bytes, Step(7)).unwrap();
        let seen: Vec<_> = parts.iter().map(|p| (p.rank.0, p.own.len())).collect();
        assert_eq!(seen, [(1, 3), (2, 0)]);
        assert_eq!(&*parts[1].shared, [2; 5]);
        let error = unpack(&bytes[..bytes.len() - 1], Step(7)).err().unwrap();
        assert!(error.to_string().contains("step 7"), "{error}");
    }
}
