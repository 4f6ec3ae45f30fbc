//! Going on from a snapshot in the memory of the generation's workers.

use super::Error;
use super::part::Part;
use super::snapshot::{held_by, pack, unpack};
use super::trainer::Trainer;
use crate::agent::held::Holding;
use crate::checkpoint::RunState;
use espalier_comm::CommunicatorExt;
use espalier_spec::exchange::Sharding;
use espalier_spec::recovery::Restore;
use espalier_spec::{Plan, Rank};
use std::collections::BTreeSet;

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
    let who = (order, holders.as_slice(), sources.as_slice());
    exchange(trainer, holding, plan, who)?;
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
    Ok(state)
}

/// For each rank the ranks whose parts its worker holds.
fn holders(
    trainer: &Trainer,
    holding: &Holding,
    order: &Restore,
) -> Result<Vec<BTreeSet<usize>>, Error> {
    let mine = holding.at(order.step);
    let mine: Vec<u8> = mine.keys().flat_map(|rank| rank.0.to_le_bytes()).collect();
    let lists = trainer.exchange.comm().all_gather_bytes(mine)?;
    let read = |bytes: &Vec<u8>| -> BTreeSet<usize> {
        let (words, _) = bytes.as_chunks::<4>();
        let ranks = words.iter().map(|word| u32::from_le_bytes(*word) as usize);
        ranks.collect()
    };
    Ok(lists.iter().map(read).collect())
}

/// For each rank who sends its part: whom the order names, or else the lowest whose worker has it.
fn sources(order: &Restore, holders: &[BTreeSet<usize>]) -> Result<Vec<usize>, Error> {
    let has = |holder: usize, rank: usize| holders.get(holder).is_some_and(|h| h.contains(&rank));
    let source = |(rank, provider): (usize, &Rank)| {
        let mut from = std::iter::once(provider.0 as usize).chain(0..holders.len());
        from.find(|holder| has(*holder, rank)).ok_or_else(|| {
            let message = format!("{provider} was to provide it, but its worker does not hold it");
            none(order, rank as u32, format!("{message}, nor does any other"))
        })
    };
    order.providers.iter().enumerate().map(source).collect()
}

/// Sends workers what they lack, and keeps what this rank's worker was sent.
fn exchange(
    trainer: &Trainer,
    holding: &Holding,
    plan: &Plan,
    (order, holders, sources): (&Restore, &[BTreeSet<usize>], &[usize]),
) -> Result<(), Error> {
    let comm = trainer.exchange.comm();
    let (rank, size) = (comm.rank(), comm.size());
    let found = holding.at(order.step);
    let everything = plan.exchange.sharding == Sharding::None;
    let mut out = vec![Vec::new(); size];
    for (to, out) in out.iter_mut().enumerate() {
        let worker = &plan.seats[to].worker;
        let lowest = plan.seats.iter().position(|seat| seat.worker == *worker);
        if lowest != Some(to) {
            continue;
        }
        let keeps = held_by(&plan.seats, to);
        for (of, part) in &found {
            let index = of.0 as usize;
            if sources.get(index) == Some(&rank) && !holders[to].contains(&index) {
                pack(part, everything || keeps.contains(of), out);
            }
        }
    }
    drop(found);
    let keeps = held_by(&plan.seats, rank);
    for bytes in comm.all_to_all_bytes(out)? {
        for part in unpack(&bytes, order.step)? {
            match keeps.contains(&part.rank) {
                true => holding.insert(part),
                false => holding.pass(part),
            }
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
        let holders = [BTreeSet::from([0, 1]), BTreeSet::from([1]), BTreeSet::new()];
        assert_eq!(sources(&order(&[0, 1]), &holders).unwrap(), [0, 1]);
        assert_eq!(sources(&order(&[0, 2]), &holders).unwrap(), [0, 0]);
        let error = sources(&order(&[0, 1, 2]), &holders).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("step 6") && text.contains("rank 2"), "{text}");
        assert!(error.failure().retryable);
    }
}
