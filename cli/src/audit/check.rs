//! From accounts to an audit: a pure function.

use super::{Audit, Fault, Stretch, Tally};
use espalier_spec::account::{Account, Draw, Entry, TaskSamples};
use espalier_spec::{Generation, Step};
use std::collections::BTreeMap;
use std::ops::Range;

/// What the coordinator knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// Generations and where they went on.
    pub(crate) lineage: Vec<(Generation, Step)>,
    /// Steps that are known to be done, of a job that has done all it had to do.
    pub(crate) finished: Option<Step>,
}

/// A rank's note of a step.
struct Record<'a> {
    rank: u32,
    drawn: u64,
    draws: &'a [Draw],
}

/// What the ranks of one generation noted.
#[derive(Default)]
struct Life<'a> {
    ranks: u32,
    /// By steps done before.
    steps: BTreeMap<u64, Vec<Record<'a>>>,
    /// Steps done when it stopped at a boundary.
    end: Option<u64>,
    /// Steps each rank has done.
    reached: BTreeMap<u32, u64>,
}

/// A pass over a task's samples.
#[derive(Default)]
struct Pass {
    /// A bit for each sample; none once all were used.
    used: Vec<u64>,
    count: u64,
    first: u64,
    last: u64,
}

/// By index of the task, and whether it is the task's target.
type Passes = BTreeMap<(u16, bool), BTreeMap<u32, Pass>>;

/// Looks at the accounts of all ranks in all generations.
pub(crate) fn audit(accounts: &[Account], told: &Told) -> Audit {
    let mut audit = Audit::default();
    let tasks = accounts
        .first()
        .map_or(&[][..], |account| account.header.tasks.as_slice());
    let (lives, lineage) = lives(accounts, told, &mut audit);
    let end = end(&lives, &lineage, told, &mut audit);
    let mut passes = Passes::new();
    // Only the newest generation has steps that are open.
    let open = lineage.last_key_value().map(|(newest, _)| *newest);
    let open = open.filter(|_| !audit.stopped);
    let mut until = end;
    let mut stretches = Vec::new();
    for (generation, from) in lineage.iter().rev() {
        let counted = (*from).min(until)..until;
        until = counted.start;
        stretches.push((*generation, *from, counted));
    }
    if until > 0 {
        audit.fault(Fault::SkippedSteps {
            generation: None,
            first_step: 0,
            last_step: until - 1,
        });
    }
    for (generation, from, counted) in stretches.into_iter().rev() {
        let life = lives.get(&generation);
        if let Some(life) = life {
            let counted = (counted.clone(), open == Some(generation));
            follow(generation, life, counted, (tasks, &mut passes), &mut audit);
        } else if !counted.is_empty() {
            audit.fault(Fault::SkippedSteps {
                generation: Some(generation),
                first_step: counted.start,
                last_step: counted.end - 1,
            });
        }
        let reached = life.and_then(|life| life.reached.values().max().copied());
        audit.generations.push(Stretch {
            generation,
            ranks: life.map_or(0, |life| life.ranks),
            from_step: from,
            reached_step: reached.unwrap_or(from),
            counted_steps: counted.end - counted.start,
        });
    }
    tally(tasks, &passes, &mut audit);
    audit.steps = end;
    audit.clean = audit.faults.is_empty();
    audit
}

/// Sorts accounts by generation, and says where each generation went on.
fn lives<'a>(
    accounts: &'a [Account],
    told: &Told,
    audit: &mut Audit,
) -> (BTreeMap<u64, Life<'a>>, BTreeMap<u64, u64>) {
    let mut lives: BTreeMap<u64, Life<'_>> = BTreeMap::new();
    let told = told.lineage.iter().map(|(g, from)| (g.0, from.0));
    let mut lineage: BTreeMap<u64, u64> = told.collect();
    for account in accounts {
        let header = &account.header;
        let (generation, rank) = (header.generation.0, header.rank.0);
        audit.torn_bytes += account.torn;
        let from = *lineage.entry(generation).or_insert(header.from.0);
        if from != header.from.0 {
            audit.fault(Fault::Lineage {
                generation,
                from_step: from,
                other_step: header.from.0,
            });
        }
        let life = lives.entry(generation).or_default();
        life.ranks = life.ranks.max(header.ranks);
        if accounts
            .first()
            .is_some_and(|a| a.header.tasks != header.tasks)
        {
            audit.fault(Fault::Tasks { generation, rank });
        }
        let reached = life.reached.entry(rank).or_insert(header.from.0);
        for entry in &account.entries {
            match entry {
                Entry::Step { step, drawn, draws } => {
                    *reached = (*reached).max(step.0.saturating_add(1));
                    life.steps.entry(step.0).or_default().push(Record {
                        rank,
                        drawn: *drawn,
                        draws,
                    });
                }
                Entry::End { step } => life.end = life.end.max(Some(step.0)),
            }
        }
    }
    (lives, lineage)
}

/// Steps done by what is to be looked at: of a generation that still runs, or was killed, only what all of
/// its ranks have noted.
fn end(
    lives: &BTreeMap<u64, Life<'_>>,
    lineage: &BTreeMap<u64, u64>,
    told: &Told,
    audit: &mut Audit,
) -> u64 {
    let Some((generation, from)) = lineage.last_key_value() else {
        return told.finished.map_or(0, |step| step.0);
    };
    let life = lives.get(generation);
    let most = |life: &Life<'_>| life.reached.values().max().copied().unwrap_or(*from);
    if let Some(finished) = told.finished {
        audit.stopped = true;
        let found = life.map_or(*from, |life| life.end.unwrap_or_else(|| most(life)));
        return found.max(finished.0);
    }
    let Some(life) = life else {
        return *from;
    };
    if let Some(end) = life.end {
        audit.stopped = true;
        return end;
    }
    // Ranks do steps together: none does its second one before all have begun their accounts.
    let begun = life.reached.len() >= life.ranks as usize || most(life) >= from.saturating_add(2);
    let least = life.reached.values().min().copied().filter(|_| begun);
    let end = least.unwrap_or(*from);
    audit.open_steps = life.steps.range(end..).count() as u64;
    end
}

/// Takes in what a generation did: `counted` are the steps of it that count, `open` says whether those
/// after them are not thrown away but not looked at yet.
fn follow(
    generation: u64,
    life: &Life<'_>,
    (counted, open): (Range<u64>, bool),
    (tasks, passes): (&[TaskSamples], &mut Passes),
    audit: &mut Audit,
) {
    for (step, records) in &life.steps {
        let is_late = open && *step >= counted.end;
        if !counted.contains(step) && !is_late {
            let draws = records.iter().flat_map(|record| record.draws);
            audit.repeated_steps += 1;
            audit.repeated_samples += draws.filter(|draw| !draw.target).count() as u64;
        }
    }
    let mut gaps = Gaps::default();
    let mut noted = vec![0u32; life.ranks as usize];
    for step in counted {
        let Some(records) = life.steps.get(&step) else {
            gaps.note(None, step, generation, audit);
            continue;
        };
        noted.fill(0);
        for record in records {
            if let Some(count) = noted.get_mut(record.rank as usize) {
                *count += 1;
            }
        }
        for (rank, count) in (0..).zip(&noted) {
            match count {
                0 => gaps.note(Some(rank), step, generation, audit),
                1 => {}
                _ => audit.fault(Fault::DoubledStep {
                    generation,
                    rank,
                    step,
                }),
            }
        }
        let mut used = 0;
        for draw in records.iter().flat_map(|record| record.draws) {
            used += u64::from(!draw.target);
            take(*draw, step, (tasks, &mut *passes), audit);
        }
        audit.samples += used;
        // Where ranks disagree on what was drawn, one of their numbers is not the sum.
        let other = records.iter().find(|record| record.drawn != used);
        if let Some(Record { drawn, .. }) = other {
            let drawn = *drawn;
            audit.fault(Fault::Drawn { step, drawn, used });
        }
    }
    gaps.tell(generation, audit);
}

/// Steps that a rank, or all ranks, have not noted, one after another.
#[derive(Default)]
struct Gaps(BTreeMap<Option<u32>, (u64, u64)>);

impl Gaps {
    fn note(&mut self, rank: Option<u32>, step: u64, generation: u64, audit: &mut Audit) {
        if let Some((_, last)) = self.0.get_mut(&rank)
            && *last + 1 == step
        {
            *last = step;
            return;
        }
        if let Some(gap) = self.0.insert(rank, (step, step)) {
            audit.fault(missing(rank, gap, generation));
        }
    }

    fn tell(self, generation: u64, audit: &mut Audit) {
        for (rank, gap) in self.0 {
            audit.fault(missing(rank, gap, generation));
        }
    }
}

fn missing(rank: Option<u32>, (first_step, last_step): (u64, u64), generation: u64) -> Fault {
    match rank {
        Some(rank) => Fault::MissingRank {
            generation,
            rank,
            first_step,
            last_step,
        },
        None => Fault::SkippedSteps {
            generation: Some(generation),
            first_step,
            last_step,
        },
    }
}

/// Samples of a pass; none if the task has none such.
fn size(tasks: &[TaskSamples], task: u16, target: bool) -> Option<u64> {
    let task = tasks.get(usize::from(task))?;
    if target {
        task.target
    } else {
        Some(task.samples)
    }
}

fn name(tasks: &[TaskSamples], task: u16) -> String {
    tasks
        .get(usize::from(task))
        .map_or_else(|| task.to_string(), |task| task.name.clone())
}

/// Takes in one sample that counts.
fn take(draw: Draw, step: u64, (tasks, passes): (&[TaskSamples], &mut Passes), audit: &mut Audit) {
    let Draw {
        task,
        target,
        pass: number,
        sample,
    } = draw;
    let size = size(tasks, task, target).filter(|size| u64::from(sample) < *size);
    let Some(size) = size else {
        audit.fault(Fault::UnknownSample { step, task, sample });
        return;
    };
    let of = passes.entry((task, target)).or_default();
    let pass = of.entry(number).or_insert_with(|| Pass {
        // The size is above the sample, whose index has 32 bits.
        used: vec![0; size.div_ceil(64) as usize],
        first: step,
        ..Pass::default()
    });
    pass.last = step;
    let (place, bit) = (sample as usize / 64, 1u64 << (sample % 64));
    // A pass whose samples were all used has let go of its bits.
    let twice = pass.used.get(place).is_none_or(|bits| bits & bit != 0);
    if twice {
        audit.fault(Fault::DoubledSample {
            task: name(tasks, task),
            target,
            pass: number,
            sample,
            step,
        });
        return;
    }
    pass.used[place] |= bit;
    pass.count += 1;
    if pass.count == size {
        pass.used = Vec::new();
    }
}

/// Looks at whole passes.
fn tally(tasks: &[TaskSamples], passes: &Passes, audit: &mut Audit) {
    for (&(task, target), passes) in passes {
        let Some(size) = size(tasks, task, target) else {
            continue;
        };
        let last = passes.keys().next_back().copied().unwrap_or(0);
        let mut tally = Tally {
            task: name(tasks, task),
            target,
            samples: size,
            draws: 0,
            complete_passes: 0,
            open_pass: 0,
        };
        // Passes that are not there at all: one fault for all of them between two that are.
        let mut next = 0;
        let mut before = 0;
        for (&number, pass) in passes {
            if number > next {
                audit.fault(Fault::SkippedSamples {
                    task: tally.task.clone(),
                    target,
                    pass: next,
                    first_sample: 0,
                    samples: size,
                });
            }
            next = number.saturating_add(1);
            tally.draws += pass.count;
            if pass.count == size {
                tally.complete_passes += 1;
            } else if number == last {
                tally.open_pass = pass.count;
            } else {
                audit.fault(Fault::SkippedSamples {
                    task: tally.task.clone(),
                    target,
                    pass: number,
                    first_sample: first_unused(pass),
                    samples: size - pass.count,
                });
            }
            if pass.first < before {
                audit.fault(Fault::EarlyPass {
                    task: tally.task.clone(),
                    target,
                    pass: number,
                    step: pass.first,
                });
            }
            before = pass.last;
        }
        audit.tasks.push(tally);
    }
}

fn first_unused(pass: &Pass) -> u64 {
    let words = (0u64..).zip(&pass.used);
    let mut open = words.filter(|(_, bits)| **bits != u64::MAX);
    open.next().map_or(0, |(place, bits)| {
        place * 64 + u64::from(bits.trailing_ones())
    })
}

#[cfg(test)]
mod tests;
