//! Going on from a snapshot in the memory of the generation's workers.

use super::Error;
use super::part::Part;
use super::snapshot::{held_by, length, swap};
use super::trainer::Trainer;
use crate::agent::held::Holding;
use crate::checkpoint::{Images, RunState};
use espalier_comm::CommunicatorExt;
use espalier_spec::exchange::Sharding;
use espalier_spec::plan::Seat;
use espalier_spec::recovery::Restore;
use espalier_spec::{Plan, Rank};
use std::collections::{BTreeMap, BTreeSet};

/// Parts that a worker holds, by rank: bytes of both images.
type Holder = BTreeMap<usize, [usize; 2]>;

/// Takes up a snapshot: what a worker lacks is sent to its lowest rank, by the rank that the order
/// names, and all its ranks take it from there. Afterwards every worker holds what it would hold had
/// the snapshot been taken by this generation. All ranks call it together.
///
/// # Errors
/// [`Error::NoSnapshot`], on all ranks alike, if a part is nowhere; or what the communicator says.
pub(super) fn restore(
    trainer: &mut Trainer,
    holding: &Holding,
    plan: &Plan,
    order: &Restore,
) -> Result<RunState, Error> {
    let size = trainer.exchange.comm().size();
    let rank = trainer.exchange.comm().rank();
    if plan.seats.len() != size || order.providers.len() != size {
        return Err(Error::Plan(format!(
            "{size} ranks, {} seats, {} providers of a snapshot",
            plan.seats.len(),
            order.providers.len()
        )));
    }
    let holders = holders(trainer, holding, order)?;
    let sources = sources(order, &holders)?;
    for keeps in [true, false] {
        let lacks = lacks(&plan.seats, &holders, keeps);
        let rounds = rounds(&sources, &lacks);
        for round in &rounds {
            let what = (order, holders.as_slice(), round, keeps);
            exchange(trainer, holding, plan, what)?;
        }
    }
    // A worker's ranks find what its lowest one was sent.
    trainer.exchange.comm().barrier()?;
    let found = holding.at(order.step);
    if let Some(lacking) = (0..size as u32).find(|rank| !found.contains_key(&Rank(*rank))) {
        let message = format!("it did not reach the worker of rank {rank}");
        return Err(none(order, lacking, message));
    }
    let parts: Vec<Part> = found.into_values().collect();
    let state = trainer.load_parts(&parts)?;
    // From here on all ranks have their state, and nobody needs the others' parts.
    trainer.exchange.comm().barrier()?;
    holding.keep_only(&held_by(&plan.seats, rank), order.step);
    holding.confirmed(order.step);
    Ok(state)
}

/// For each rank what its worker holds. What was passing when a generation ended is not counted: it may
/// lack something.
fn holders(trainer: &Trainer, holding: &Holding, order: &Restore) -> Result<Vec<Holder>, Error> {
    let mut mine: Vec<u8> = Vec::new();
    for (rank, part) in holding.whole(order.step) {
        let [shared, own] = part.images.lengths();
        for number in [u64::from(rank.0), shared as u64, own as u64] {
            mine.extend(number.to_le_bytes());
        }
    }
    let lists = trainer.exchange.comm().all_gather_bytes(mine)?;
    let read = |bytes: &Vec<u8>| -> Holder {
        let (words, _) = bytes.as_chunks::<8>();
        let (entries, _) = words.as_chunks::<3>();
        let entry = |[rank, shared, own]: &[[u8; 8]; 3]| {
            let lengths = [length(shared), length(own)];
            (length(rank), lengths)
        };
        entries.iter().map(entry).collect()
    };
    Ok(lists.iter().map(read).collect())
}

/// For each rank who sends its part: whom the order names, or else the lowest whose worker has it.
fn sources(order: &Restore, holders: &[Holder]) -> Result<Vec<usize>, Error> {
    let has =
        |holder: usize, rank: usize| holders.get(holder).is_some_and(|h| h.contains_key(&rank));
    let source = |(rank, provider): (usize, &Rank)| {
        let mut from = std::iter::once(provider.0 as usize).chain(0..holders.len());
        from.find(|holder| has(*holder, rank)).ok_or_else(|| {
            let message = format!("{provider} was to provide it, but its worker does not hold it");
            none(order, rank as u32, format!("{message}, nor does any other"))
        })
    };
    order.providers.iter().enumerate().map(source).collect()
}

/// For each rank's part the ranks that it is sent to: the lowest of each worker that lacks it, and keeps
/// it or else only needs it now.
fn lacks(seats: &[Seat], holders: &[Holder], keeps: bool) -> Vec<BTreeSet<usize>> {
    let mut lacks = vec![BTreeSet::new(); holders.len()];
    for (to, held) in holders.iter().enumerate() {
        let worker = &seats[to].worker;
        let lowest = seats.iter().position(|seat| seat.worker == *worker);
        if lowest != Some(to) {
            continue;
        }
        let kept = held_by(seats, to);
        for (of, lacks) in lacks.iter_mut().enumerate() {
            if !held.contains_key(&of) && kept.contains(&Rank(of as u32)) == keeps {
                lacks.insert(to);
            }
        }
    }
    lacks
}

/// One exchange: what each rank sends, if it does, and to whom.
type Round = BTreeMap<usize, (usize, BTreeSet<usize>)>;

/// As many exchanges as a rank has parts to send: in each, every one that has any left sends one.
fn rounds(sources: &[usize], lacks: &[BTreeSet<usize>]) -> Vec<Round> {
    let mut rounds: Vec<Round> = Vec::new();
    for (of, (source, lacks)) in sources.iter().zip(lacks).enumerate() {
        if lacks.is_empty() {
            continue;
        }
        let sent = (of, lacks.clone());
        match rounds.iter_mut().find(|round| !round.contains_key(source)) {
            Some(round) => {
                round.insert(*source, sent);
            }
            None => rounds.push(BTreeMap::from([(*source, sent)])),
        }
    }
    rounds
}

/// Sends workers what they lack, and keeps what this rank's worker was sent, for good or to pass: never
/// both in one piece of memory, which would be kept as a whole.
fn exchange(
    trainer: &Trainer,
    holding: &Holding,
    plan: &Plan,
    (order, holders, round, keeps): (&Restore, &[Holder], &Round, bool),
) -> Result<(), Error> {
    let comm = trainer.exchange.comm();
    let (rank, size) = (comm.rank(), comm.size());
    let with_own = keeps || plan.exchange.sharding == Sharding::None;
    // What a rank sends of which part.
    let lengths = |source: usize, of: usize| {
        let lengths = holders[source].get(&of).copied().unwrap_or_default();
        if with_own { lengths } else { [lengths[0], 0] }
    };
    let (mut to, mut from) = (vec![0; size], vec![0; size]);
    for (source, (of, receivers)) in round {
        let [shared, own] = lengths(*source, *of);
        let length = shared.saturating_add(own);
        for receiver in receivers {
            if *source == rank {
                to[*receiver] = length;
            }
            if *receiver == rank {
                from[*source] = length;
            }
        }
    }
    let held = holding.whole(order.step);
    let mine = round.get(&rank).map(|(of, _)| Rank(*of as u32));
    let mine = mine.and_then(|of| held.get(&of));
    let send = mine.map(|part| part.images.whole()).unwrap_or_default();
    let (bytes, starts) = swap(comm, send, &to, &from)?;
    for (source, (of, receivers)) in round {
        if !receivers.contains(&rank) {
            continue;
        }
        let part = Part {
            rank: Rank(*of as u32),
            step: order.step,
            images: Images::within(&bytes, starts[*source], lengths(*source, *of)),
        };
        match keeps {
            true => holding.insert(part),
            false => holding.pass(part),
        }
    }
    Ok(())
}

fn none(order: &Restore, rank: u32, message: String) -> Error {
    Error::NoSnapshot {
        rank: Rank(rank),
        step: order.step.0,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_spec::Step;

    fn order(providers: &[u32]) -> Restore {
        Restore {
            step: Step(6),
            providers: providers.iter().copied().map(Rank).collect(),
        }
    }

    // Promise: the rank that the order names sends a part; if its worker has lost it, another one that
    // holds it does; if nobody does, the error names rank, step and provider and may be tried again.
    #[test]
    fn a_part_comes_from_who_holds_it() {
        let holder =
            |ranks: &[usize]| -> Holder { ranks.iter().map(|rank| (*rank, [1, 1])).collect() };
        let holders = [holder(&[0, 1]), holder(&[1]), holder(&[])];
        assert_eq!(sources(&order(&[0, 1]), &holders).unwrap(), [0, 1]);
        assert_eq!(sources(&order(&[0, 2]), &holders).unwrap(), [0, 0]);
        let error = sources(&order(&[0, 1, 2]), &holders).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("step 6") && text.contains("rank 2"), "{text}");
        assert!(error.failure().retryable);
    }
    // Promise: every part comes once to each worker that lacks it, to its lowest rank, and no rank sends two
    // parts in one exchange nor more exchanges than it has parts to send.
    #[test]
    fn what_a_worker_lacks_comes_once() {
        let sources = [0, 0, 1, 3];
        let to = |ranks: &[usize]| -> BTreeSet<usize> { ranks.iter().copied().collect() };
        let lacks = [to(&[1, 3]), to(&[3]), to(&[]), to(&[0])];
        let rounds = rounds(&sources, &lacks);
        let first: Round = BTreeMap::from([(0, (0, to(&[1, 3]))), (3, (3, to(&[0])))]);
        let second: Round = BTreeMap::from([(0, (1, to(&[3])))]);
        assert_eq!(rounds, [first, second]);

        let seat = |(rank, worker): (u32, &str)| Seat {
            rank: Rank(rank),
            worker: worker.into(),
            device: 0,
        };
        let mut seats: Vec<Seat> = (0..).zip(["a", "a", "b"]).map(seat).collect();
        let all: Holder = (0..3).map(|rank| (rank, [1, 1])).collect();
        let holders = [all.clone(), all, Holder::new()];
        // `b` hosts rank 2 and mirrors both others: it keeps all that it lacks.
        assert_eq!(super::lacks(&seats, &holders, true), vec![to(&[2]); 3]);
        assert_eq!(super::lacks(&seats, &holders, false), vec![to(&[]); 3]);
        seats[1].worker = "c".into();
        // Now only its own and that of rank 1, which is on a worker of its own.
        let kept = super::lacks(&seats, &holders, true);
        assert_eq!(kept, [to(&[]), to(&[2]), to(&[2])]);
        let passing = super::lacks(&seats, &holders, false);
        assert_eq!(passing, [to(&[2]), to(&[]), to(&[])]);
    }
}
