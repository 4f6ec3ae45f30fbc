//! When a rank takes its part of a snapshot, and who else holds it.

use super::Error;
use super::part::Part;
use super::trainer::Trainer;
use crate::agent::held::Holding;
use crate::checkpoint::{Images, RunState};
use espalier_comm::{Communicator, CommunicatorExt};
use espalier_spec::plan::Seat;
use espalier_spec::recovery::RecoverySpec;
use espalier_spec::{Rank, WorkerId};
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Share of the time of steps that snapshots may cost.
const SHARE: f64 = 0.02;
/// Most steps between two snapshots.
const MOST: u64 = 1000;
/// Steps that are timed before the first distance is chosen, from what a snapshot costs after them: the
/// very first one pays for memory that nobody has touched.
const PROBE: u32 = 3;
/// Snapshots whose mean cost counts: one that was disturbed does not set the distance alone.
const RECENT: usize = 8;

/// Steps from one snapshot to the next, for one that costs `cost` seconds between steps of `step`
/// seconds each: the least k with cost / (k step) <= 2 %, at least 1, at most 1000.
pub(super) fn distance(cost: f64, step: f64) -> u64 {
    // What is no number becomes 0, what is too large the largest: both are put between the ends.
    let least = (cost / (SHARE * step)).ceil() as u64;
    least.clamp(1, MOST)
}

/// The same where `debt` seconds were spent above the share: a generation's first snapshots come before
/// anybody knows their cost. It is paid back by the next ones, each at most twice as far away for it.
fn repaying(cost: f64, debt: f64, step: f64) -> u64 {
    let plain = distance(cost, step);
    let most = plain.saturating_mul(2).min(MOST);
    distance(cost + debt.max(0.0), step).clamp(plain, most)
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

/// Whether every rank's part of a snapshot is held by a worker that stays; `stay` says of each rank whether its worker
/// does. A worker of which one rank says that it leaves, leaves.
pub(super) fn outlives(seats: &[Seat], stay: &[bool]) -> bool {
    let leaving: BTreeSet<&WorkerId> = seats
        .iter()
        .zip(stay)
        .filter(|(_, stays)| !**stays)
        .map(|(seat, _)| &seat.worker)
        .collect();
    let stays = |rank: usize| !leaving.contains(&seats[rank].worker);
    let mut parts = (0..).zip(buddies(seats));
    parts.all(|(rank, buddy)| stays(rank) || buddy.is_some_and(stays))
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

/// Sends the first `to[r]` bytes of `send` to each rank r and receives `from[r]` bytes of it: from where
/// they are kept to where they will be kept. Gives all that came in one piece, in order of rank, and where
/// the bytes of each begin. All ranks call it together.
///
/// # Errors
/// What the communicator says, or that there is no memory.
pub(super) fn swap(
    comm: &dyn Communicator,
    send: &[u8],
    to: &[usize],
    from: &[usize],
) -> Result<(Arc<Vec<u8>>, Vec<usize>), Error> {
    let given: Vec<Range<usize>> = to.iter().map(|length| 0..*length).collect();
    let mut taken: Vec<Range<usize>> = Vec::with_capacity(from.len());
    let mut end = 0usize;
    for length in from {
        let start = end;
        end = start.saturating_add(*length);
        taken.push(start..end);
    }
    let mut received = room(end)?;
    comm.all_to_all(send, &given, &mut received, &taken)?;
    let starts = taken.into_iter().map(|range| range.start).collect();
    Ok((Arc::new(received), starts))
}

/// Memory that the system zeroes when it is first touched; an absurd length is an error, not an abort.
fn room(length: usize) -> Result<Vec<u8>, Error> {
    let mut asked = Vec::<u8>::new();
    let answer = asked.try_reserve_exact(length);
    answer.map_err(|error| espalier_comm::Error::System {
        what: format!("take {length} bytes for parts of a snapshot"),
        reason: error.to_string(),
    })?;
    // What is given back unused may be taken to have been there.
    drop(std::hint::black_box(asked));
    Ok(vec![0; length])
}

/// A length that a peer sent.
pub(super) fn length(bytes: &[u8; 8]) -> usize {
    usize::try_from(u64::from_le_bytes(*bytes)).unwrap_or(usize::MAX)
}

/// Bytes of both images of every rank's part.
fn lengths(comm: &dyn Communicator, part: &Part) -> Result<Vec<[usize; 2]>, Error> {
    let mine = part.images.lengths();
    let mine = mine.map(|length| (length as u64).to_le_bytes());
    let theirs = comm.all_gather_bytes(mine.concat())?;
    let read = |(rank, bytes): (u32, &Vec<u8>)| match bytes.as_chunks::<8>() {
        ([shared, own], []) => Ok([length(shared), length(own)]),
        _ => Err(Error::NoSnapshot {
            rank: Rank(rank),
            step: part.step.0,
            message: "it said no lengths of its part".to_owned(),
        }),
    };
    (0..).zip(&theirs).map(read).collect()
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
    /// What the newest ones cost this rank, at most [`RECENT`].
    costs: VecDeque<Duration>,
    /// Those that were taken since they were counted: what they cost, and bytes.
    taken: Vec<(Duration, u64)>,
    /// Steps since the last agreement, and their time.
    steps: u32,
    spent: Duration,
    /// Seconds that all snapshots took above their share of all steps' time; below zero: that they may still take.
    debt: f64,
}

impl Snapshots {
    pub(super) fn new(spec: &RecoverySpec, seats: &[Seat], holding: Arc<Holding>) -> Self {
        Self {
            holding,
            buddies: buddies(seats),
            fixed: spec.snapshot_every,
            agreed: None,
            last: 0,
            costs: VecDeque::with_capacity(RECENT),
            taken: Vec::new(),
            steps: 0,
            spent: Duration::ZERO,
            debt: 0.0,
        }
    }

    /// Snapshots that were taken since this was asked last: what each cost this rank, and its bytes.
    pub(super) fn take_costs(&mut self) -> Vec<(Duration, u64)> {
        std::mem::take(&mut self.taken)
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
        self.debt -= SHARE * took.as_secs_f64();
        let due = match self.fixed.or(self.agreed) {
            Some(every) => state.step.0.saturating_sub(self.last) >= every,
            None => {
                self.costs.clear();
                self.steps >= PROBE
            }
        };
        if !due {
            return Ok(());
        }
        self.take(trainer, state)?;
        if self.fixed.is_none() {
            self.agree(trainer.exchange.comm())?;
        }
        Ok(())
    }

    /// Takes this rank's part and mirrors it. All ranks call it together. Nobody comes through the barrier
    /// before all have it and those that they mirror, and then the snapshot before is given up: a step's
    /// activations never meet two. If a rank is lost before, all others still hold the one before; if it
    /// is lost afterwards, they all hold this one, also those that fail in the barrier and keep both.
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
        let bytes = part.images.whole().len() as u64;
        let mut cost = begun.elapsed();
        let comm = trainer.exchange.comm();
        // Waiting for slower ranks is no cost of the snapshot: the next step would wait for them.
        cost += self.mirror(comm, part)?;
        self.last = state.step.0;
        comm.barrier()?;
        let begun = Instant::now();
        self.holding.confirmed(state.step);
        cost += begun.elapsed();
        if self.costs.len() == RECENT {
            self.costs.pop_front();
        }
        self.costs.push_back(cost);
        self.debt += cost.as_secs_f64();
        self.taken.push((cost, bytes));
        Ok(())
    }

    /// Gives what it took from when all ranks had come.
    fn mirror(&self, comm: &dyn Communicator, part: Part) -> Result<Duration, Error> {
        let mut begun = Instant::now();
        if self.buddies.iter().any(Option::is_some) {
            let rank = comm.rank();
            let mirrors = |by: usize, of: usize| self.buddies.get(of) == Some(&Some(by));
            let lengths = lengths(comm, &part)?;
            begun = Instant::now();
            let send = part.images.whole();
            let to = (0..comm.size()).map(|by| if mirrors(by, rank) { send.len() } else { 0 });
            let from = lengths.iter().enumerate().map(|(of, [shared, own])| {
                if mirrors(rank, of) {
                    shared.saturating_add(*own)
                } else {
                    0
                }
            });
            let (to, from): (Vec<usize>, Vec<usize>) = (to.collect(), from.collect());
            let (bytes, starts) = swap(comm, send, &to, &from)?;
            for (of, (start, lengths)) in starts.into_iter().zip(lengths).enumerate() {
                if mirrors(rank, of) {
                    self.holding.insert(Part {
                        rank: Rank(of as u32),
                        step: part.step,
                        images: Images::within(&bytes, start, lengths),
                    });
                }
            }
        }
        self.holding.insert(part);
        Ok(begun.elapsed())
    }

    /// Agrees on the distance, from what snapshots and steps cost all ranks, and from who owes most.
    fn agree(&mut self, comm: &dyn Communicator) -> Result<(), Error> {
        let pace = self.spent.as_secs_f64() / f64::from(self.steps.max(1));
        let cost = self.costs.iter().sum::<Duration>().as_secs_f64();
        let cost = cost / self.costs.len().max(1) as f64;
        let mine = [cost, pace, self.debt].map(f64::to_le_bytes);
        let (mut cost, mut step, mut debt) = (0.0, f64::INFINITY, 0.0);
        for theirs in comm.all_gather_bytes(mine.concat())? {
            let (numbers, _) = theirs.as_chunks::<8>();
            if let [of_one, of_step, owed] = numbers {
                cost = f64::max(cost, f64::from_le_bytes(*of_one));
                step = f64::min(step, f64::from_le_bytes(*of_step));
                debt = f64::max(debt, f64::from_le_bytes(*owed));
            }
        }
        let every = repaying(cost, debt, step);
        if self.agreed != Some(every) && comm.rank() == 0 {
            tracing::debug!(every, cost, debt, step, "steps between snapshots");
        }
        self.agreed = Some(every);
        (self.steps, self.spent) = (0, Duration::ZERO);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_comm::{Listener, PeerAddr, Rendezvous, host_id};

    fn seats(workers: &[&str]) -> Vec<Seat> {
        let seat = |(rank, worker): (u32, &&str)| Seat {
            rank: Rank(rank),
            worker: (*worker).into(),
            device: 0,
        };
        (0..).zip(workers).map(seat).collect()
    }

    // Promise: workers that leave together take no part of a snapshot with them that nobody else holds.
    #[test]
    fn a_snapshot_outlives_those_that_leave_apart() {
        let ranks = seats(&["a", "b", "c"]);
        assert!(outlives(&ranks, &[false, true, true]));
        // b mirrors a.
        assert!(!outlives(&ranks, &[false, false, true]));
        assert!(!outlives(&ranks, &[false, true, false]), "a mirrors c");
        let ranks = seats(&["a", "a", "b", "b"]);
        assert!(outlives(&ranks, &[false, true, true, true]));
        assert!(!outlives(&ranks, &[true, false, true, false]));
        assert!(!outlives(&seats(&["a"]), &[false]));
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

    // Promise: what the first snapshots took above their share is paid back, and none comes more than twice as
    // late for it; who owes nothing waits no longer.
    #[test]
    fn what_was_spent_too_early_is_paid_back() {
        assert_eq!(repaying(0.02, 0.0, 0.1), 10);
        assert_eq!(repaying(0.02, -5.0, 0.1), 10);
        assert_eq!(repaying(0.02, 0.01, 0.1), 15);
        assert_eq!(repaying(0.02, 9.0, 0.1), 20);
        assert_eq!(repaying(2.0, 9.0, 0.1), MOST);
        assert_eq!(repaying(0.02, f64::NAN, 0.1), 10);
        // Two at once, then as the rule says: 100 steps of 0.774 s, 0.174 s each.
        let (cost, step) = (0.174, 0.774);
        let (mut spent, mut next) = (cost, 3);
        for done in 1..=100u64 {
            if done == next {
                spent += cost;
                next += repaying(cost, spent - SHARE * done as f64 * step, step);
            }
        }
        assert!(spent <= SHARE * 100.0 * step, "{spent}");
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

    // Promise: bytes arrive as they were sent, each rank's where it is said to begin, and a length that
    // nobody has memory for is an error that may be tried again.
    #[test]
    fn parts_travel_unchanged() {
        let any = ([127, 0, 0, 1], 0).into();
        let listeners: Vec<Listener> = (0..3).map(|_| Listener::bind(any).unwrap()).collect();
        let peer = |(rank, listener): (usize, &Listener)| PeerAddr {
            rank,
            addr: listener.address(),
            host_id: host_id(),
        };
        let peers: Vec<PeerAddr> = listeners.iter().enumerate().map(peer).collect();
        std::thread::scope(|scope| {
            for (rank, listener) in listeners.iter().enumerate() {
                let peers = peers.clone();
                scope.spawn(move || {
                    let rendezvous = Rendezvous::new("parts", 1, rank, peers);
                    let comm = espalier_comm::connect(listener, rendezvous).unwrap();
                    let send = [rank as u8 + 1; 3];
                    // Rank 0 gets 2 bytes of each other one, rank 2 all of rank 1's.
                    let (to, from) = match rank {
                        0 => ([0, 0, 0], [0, 2, 2]),
                        1 => ([2, 0, 3], [0, 0, 0]),
                        _ => ([2, 0, 0], [0, 3, 0]),
                    };
                    let (bytes, starts) = swap(&comm, &send, &to, &from).unwrap();
                    let expected = match rank {
                        0 => (vec![2, 2, 3, 3], vec![0, 0, 2]),
                        1 => (vec![], vec![0, 0, 0]),
                        _ => (vec![2, 2, 2], vec![0, 0, 3]),
                    };
                    assert_eq!((bytes.to_vec(), starts), expected);
                });
            }
        });
        let error = room(usize::MAX).unwrap_err();
        assert!(error.failure().retryable, "{error}");
    }
}
