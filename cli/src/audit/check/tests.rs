//! Lineages made up here, whole and with one thing wrong.

use super::{Told, audit};
use crate::audit::Fault;
use espalier_spec::account::{Account, Draw, Entry, Header, TaskSamples};
use espalier_spec::{Generation, Rank, Step};
use proptest::collection::vec;
use proptest::prelude::*;

/// A job that was done in several generations.
#[derive(Clone, Debug)]
struct Made {
    ranks: u32,
    batch: u64,
    /// Samples of each task.
    sizes: Vec<u64>,
    /// Where each generation went on, and steps done when it ended.
    lineage: Vec<(u64, u64)>,
    /// Whether the last one stopped at a boundary.
    stopped: bool,
}

impl Made {
    /// Draws of a step, each with its rank: round robin over tasks, each pass backwards through the samples.
    fn draws(&self, step: u64) -> Vec<(u32, Draw)> {
        let tasks = self.sizes.len() as u64;
        (step * self.batch..(step + 1) * self.batch)
            .map(|draw| {
                let (task, own) = (draw % tasks, draw / tasks);
                let size = self.sizes[task as usize];
                let made = Draw {
                    task: task as u16,
                    target: false,
                    pass: (own / size) as u32,
                    sample: (size - 1 - own % size) as u32,
                };
                ((draw % u64::from(self.ranks)) as u32, made)
            })
            .collect()
    }

    fn accounts(&self) -> Vec<Account> {
        let mut accounts = Vec::new();
        for (index, (from, to)) in self.lineage.iter().enumerate() {
            let last = index + 1 == self.lineage.len();
            for rank in 0..self.ranks {
                let mut entries: Vec<Entry> = (*from..*to)
                    .map(|step| {
                        let draws = self.draws(step).into_iter();
                        let own = draws.filter(|(of, _)| *of == rank);
                        Entry::Step {
                            step: Step(step),
                            drawn: self.batch,
                            draws: own.map(|(_, draw)| draw).collect(),
                        }
                    })
                    .collect();
                if last && self.stopped {
                    entries.push(Entry::End { step: Step(*to) });
                }
                let task = |(index, size): (usize, &u64)| TaskSamples {
                    name: format!("t{index}"),
                    samples: *size,
                    target: None,
                };
                accounts.push(Account {
                    header: Header {
                        generation: Generation(index as u64 + 1),
                        rank: Rank(rank),
                        ranks: self.ranks,
                        from: Step(*from),
                        tasks: self.sizes.iter().enumerate().map(task).collect(),
                    },
                    entries,
                    torn: 0,
                });
            }
        }
        accounts
    }

    fn end(&self) -> u64 {
        self.lineage.last().map_or(0, |(_, to)| *to)
    }

    /// The generation whose doing of a step counts.
    fn counts(&self, step: u64) -> u64 {
        let mut lineage = self.lineage.iter().enumerate().rev();
        lineage
            .find(|(_, (from, _))| *from <= step)
            .map_or(0, |(index, _)| index as u64 + 1)
    }
}

fn made() -> impl Strategy<Value = Made> {
    let lives = vec((0..=100u64, 1..8u64), 1..5);
    (1..4u32, 1..9u64, vec(1..12u64, 1..4), lives, any::<bool>()).prop_map(
        |(ranks, batch, sizes, lives, stopped)| {
            let mut lineage: Vec<(u64, u64)> = Vec::new();
            for (back, more) in lives {
                let reached = lineage.last().map_or(0, |(_, to)| *to);
                let from = reached * back / 100;
                lineage.push((from, from + more));
            }
            Made {
                ranks,
                batch,
                sizes,
                lineage,
                stopped,
            }
        },
    )
}

/// The draws of a rank at a step in a generation.
fn entry(accounts: &mut [Account], generation: u64, rank: u32, step: u64) -> &mut Vec<Draw> {
    let account = accounts
        .iter_mut()
        .find(|a| a.header.generation.0 == generation && a.header.rank.0 == rank);
    let mut entries = account.unwrap().entries.iter_mut();
    entries
        .find_map(|entry| match entry {
            Entry::Step {
                step: at, draws, ..
            } if at.0 == step => Some(draws),
            _ => None,
        })
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    // Promise: whatever generations a job was done in, and wherever each went on, honest accounts are clean,
    // and every figure is that of the steps that count.
    #[test]
    fn honest_accounts_are_clean(made in made()) {
        let found = audit(&made.accounts(), &Told::default());
        prop_assert!(found.clean, "{:?}", found.faults);
        prop_assert_eq!(found.steps, made.end());
        prop_assert_eq!(found.stopped, made.stopped);
        prop_assert_eq!(found.samples, made.end() * made.batch);
        let done: u64 = made.lineage.iter().map(|(from, to)| to - from).sum();
        prop_assert_eq!(found.repeated_steps, done - made.end());
        prop_assert_eq!(found.repeated_samples, found.repeated_steps * made.batch);
        prop_assert_eq!(found.tasks.iter().map(|t| t.draws).sum::<u64>(), found.samples);
        for task in &found.tasks {
            prop_assert_eq!(task.draws, task.complete_passes * task.samples + task.open_pass);
        }
    }

    // Promise: a step that counts and that nobody did is named; one that was thrown away is not missed.
    #[test]
    fn a_skipped_step_is_found(made in made(), at in any::<prop::sample::Index>(), which in any::<prop::sample::Index>()) {
        let made = Made { stopped: true, ..made };
        let generation = which.index(made.lineage.len());
        let (from, to) = made.lineage[generation];
        let generation = generation as u64 + 1;
        let step = from + at.index((to - from) as usize) as u64;
        let mut accounts = made.accounts();
        for account in accounts.iter_mut().filter(|a| a.header.generation.0 == generation) {
            account.entries.retain(|e| !matches!(e, Entry::Step { step: at, .. } if at.0 == step));
        }
        let found = audit(&accounts, &Told::default());
        let counts = step < made.end() && made.counts(step) == generation;
        prop_assert_eq!(found.clean, !counts, "{:?}", found.faults);
        let named = Fault::SkippedSteps {
            generation: Some(generation),
            first_step: step,
            last_step: step,
        };
        prop_assert_eq!(found.faults.contains(&named), counts);
    }

    // Promise: a sample in the place of another is named, in the pass and at the step where it came twice.
    #[test]
    fn a_doubled_sample_is_found(made in made(), at in any::<prop::sample::Index>()) {
        let made = Made { stopped: true, sizes: vec![made.batch + 3], ..made };
        let step = at.index(made.end() as usize) as u64;
        let draws = made.draws(step);
        // Of the first pass that the step is in.
        let (_, first) = draws[0];
        let (rank, second) = draws[1 % draws.len()];
        prop_assume!(draws.len() > 1 && second.pass == first.pass);
        let mut accounts = made.accounts();
        for draw in entry(&mut accounts, made.counts(step), rank, step) {
            if *draw == second {
                draw.sample = first.sample;
            }
        }
        let found = audit(&accounts, &Told::default());
        let named = Fault::DoubledSample {
            task: "t0".to_owned(),
            target: false,
            pass: first.pass,
            sample: first.sample,
            step,
        };
        prop_assert!(found.faults.contains(&named), "{:?}", found.faults);
    }

    // Promise: a rank without an account of a generation that counts is named, whether the generation
    // stopped or was killed.
    #[test]
    fn a_missing_rank_is_found(made in made(), which in any::<prop::sample::Index>()) {
        let made = Made { ranks: made.ranks.max(2), ..made };
        let mut accounts = made.accounts();
        let (from, to) = *made.lineage.last().unwrap();
        prop_assume!(made.stopped || to - from > 1);
        let generation = made.lineage.len() as u64;
        let rank = which.index(made.ranks as usize) as u32;
        accounts.retain(|a| a.header.generation.0 != generation || a.header.rank.0 != rank);
        let found = audit(&accounts, &Told::default());
        let named = Fault::MissingRank {
            generation,
            rank,
            first_step: from,
            last_step: to - 1,
        };
        prop_assert!(found.faults.contains(&named), "{:?}", found.faults);
    }

    // Promise: a sample that a rank left out is noticed at its step.
    #[test]
    fn a_sample_left_out_is_found(made in made(), at in any::<prop::sample::Index>()) {
        let step = at.index(made.end() as usize) as u64;
        let mut accounts = made.accounts();
        let (rank, _) = made.draws(step)[0];
        entry(&mut accounts, made.counts(step), rank, step).pop();
        let found = audit(&accounts, &Told::default());
        let named = Fault::Drawn {
            step,
            drawn: made.batch,
            used: made.batch - 1,
        };
        prop_assert!(found.faults.contains(&named), "{:?}", found.faults);
    }
}

fn plain() -> Made {
    Made {
        ranks: 2,
        batch: 4,
        sizes: vec![8],
        lineage: vec![(0, 6), (4, 9)],
        stopped: false,
    }
}

// Promise: of a generation that still runs, or was killed in a step, what not all ranks have noted is open,
// and no fault.
#[test]
fn what_is_not_noted_by_all_yet_is_open() {
    let mut accounts = plain().accounts();
    accounts[3].entries.pop();
    let found = audit(&accounts, &Told::default());
    assert!(found.clean, "{:?}", found.faults);
    assert_eq!((found.steps, found.open_steps), (8, 1));
    assert_eq!(found.repeated_steps, 2);
    assert!(!found.stopped);
}

// Promise: the same hole is a fault once the job is known to be done.
#[test]
fn nothing_is_open_in_a_finished_job() {
    let mut accounts = plain().accounts();
    accounts[3].entries.pop();
    let told = Told {
        finished: Some(Step(9)),
        ..Told::default()
    };
    let found = audit(&accounts, &told);
    let named = Fault::MissingRank {
        generation: 2,
        rank: 1,
        first_step: 8,
        last_step: 8,
    };
    assert!(found.faults.contains(&named), "{:?}", found.faults);
}

// Promise: what the coordinator says of where a generation went on is compared with what ranks say.
#[test]
fn another_lineage_is_a_fault() {
    let told = |from| Told {
        lineage: vec![(Generation(1), Step(0)), (Generation(2), Step(from))],
        finished: None,
    };
    assert!(audit(&plain().accounts(), &told(4)).clean);
    let found = audit(&plain().accounts(), &told(5));
    let named = Fault::Lineage {
        generation: 2,
        from_step: 5,
        other_step: 4,
    };
    assert!(found.faults.contains(&named), "{:?}", found.faults);
}

// Promise: a job whose ranks went on from an older checkpoint than they were told, since that one was damaged,
// is clean by what the coordinator learned from them, and by their accounts alone if it learned nothing.
#[test]
fn an_older_checkpoint_is_no_fault() {
    let made = Made {
        lineage: vec![(0, 5), (4, 7), (3, 9)],
        ..plain()
    };
    let lineage = [0, 4, 3].map(Step);
    let lineage: Vec<_> = (1..).map(Generation).zip(lineage).collect();
    for known in [3, 2] {
        let told = Told {
            lineage: lineage[..known].to_vec(),
            finished: None,
        };
        let found = audit(&made.accounts(), &told);
        assert!(found.clean, "{:?}", found.faults);
        // Steps 3 and 4 of the first, and 4 to 6 of the second, were done again.
        assert_eq!((found.steps, found.repeated_steps), (9, 5));
    }
}

// Promise: a generation that died before its first step changes nothing, known by its accounts or by the
// coordinator alone.
#[test]
fn a_generation_without_a_step_changes_nothing() {
    let mut made = plain();
    made.lineage.push((7, 7));
    let found = audit(&made.accounts(), &Told::default());
    assert!(found.clean, "{:?}", found.faults);
    assert_eq!((found.steps, found.repeated_steps), (7, 4));
    let told = Told {
        lineage: vec![(Generation(3), Step(7))],
        finished: None,
    };
    assert_eq!(audit(&plain().accounts(), &told).steps, 7);
}

// Promise: a pass that begins while samples of the one before are left is named, and so is what it left out.
#[test]
fn an_early_pass_is_found() {
    let mut accounts = plain().accounts();
    // In step 0, a sample of the second pass for one of the first.
    entry(&mut accounts, 1, 0, 0)[0].pass = 1;
    let found = audit(&accounts, &Told::default());
    let early = Fault::EarlyPass {
        task: "t0".to_owned(),
        target: false,
        pass: 1,
        step: 0,
    };
    assert!(found.faults.contains(&early), "{:?}", found.faults);
    let skipped = Fault::SkippedSamples {
        task: "t0".to_owned(),
        target: false,
        pass: 0,
        first_sample: 7,
        samples: 1,
    };
    assert!(found.faults.contains(&skipped), "{:?}", found.faults);
}
