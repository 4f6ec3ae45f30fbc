//! What the accounts of samples prove about a job: which steps count, and that each pass over a task's
//! samples used every one of them once.
//!
//! A job's steps are done by generations, each of which goes on from a step that an earlier one had reached.
//! Of several that did a step the last one counts: what the others made of it was thrown away with their
//! state. Over the steps that count, [`audit`] checks that
//!
//! 1. each is there once, from every rank of its generation;
//! 2. the ranks' samples of a step are together as many as were drawn for it;
//! 3. of every task, and of its target, each sample was used at most once in a pass, and exactly once in a
//!    pass that was followed by another;
//! 4. a pass began only when the one before was used up.
//!
//! That the order within a pass is the one that the seed prescribes is not looked at here.

mod check;

pub(crate) use check::{Told, audit};

use serde::Serialize;
use std::fmt;

/// Faults that are told one by one.
const MOST_FAULTS: usize = 100;

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Audit {
    /// Whether nothing is wrong.
    pub(crate) clean: bool,
    /// Whether the newest generation has stopped, so that no more steps come from it.
    pub(crate) stopped: bool,
    /// Steps that count.
    pub(crate) steps: u64,
    /// Steps of the newest generation that not all ranks have noted yet; they are not looked at.
    pub(crate) open_steps: u64,
    /// Steps that were done and thrown away.
    pub(crate) repeated_steps: u64,
    /// Samples of the steps that count.
    pub(crate) samples: u64,
    /// Samples of the steps that were thrown away.
    pub(crate) repeated_samples: u64,
    /// Bytes at the ends of files that are no whole record.
    pub(crate) torn_bytes: u64,
    /// The lineage.
    pub(crate) generations: Vec<Stretch>,
    /// What was used of each task, and of its target.
    pub(crate) tasks: Vec<Tally>,
    /// What is wrong, at most the first 100.
    pub(crate) faults: Vec<Fault>,
    /// How many more faults there are.
    pub(crate) more_faults: u64,
}

/// What one generation did.
#[derive(Debug, Serialize)]
pub(crate) struct Stretch {
    pub(crate) generation: u64,
    /// Ranks; 0 if none has left an account.
    pub(crate) ranks: u32,
    /// Steps done when it went on.
    pub(crate) from_step: u64,
    /// Steps done at most when it ended.
    pub(crate) reached_step: u64,
    /// Steps of it that count.
    pub(crate) counted_steps: u64,
}

/// What was used of a task's samples, or of its target's.
#[derive(Debug, Serialize)]
pub(crate) struct Tally {
    pub(crate) task: String,
    /// Whether it is about the task's target.
    pub(crate) target: bool,
    /// Samples of a pass.
    pub(crate) samples: u64,
    /// Samples used in all passes.
    pub(crate) draws: u64,
    /// Passes in which every sample was used once.
    pub(crate) complete_passes: u64,
    /// Samples used in the pass that is not complete.
    pub(crate) open_pass: u64,
}

/// Something that is wrong. Steps count those done before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Fault {
    /// Ranks, or a rank and the coordinator, disagree on where a generation went on.
    Lineage {
        generation: u64,
        from_step: u64,
        other_step: u64,
    },
    /// Ranks disagree on what the tasks are.
    Tasks { generation: u64, rank: u32 },
    /// Nobody did these steps.
    SkippedSteps {
        generation: Option<u64>,
        first_step: u64,
        last_step: u64,
    },
    /// A rank has not noted these steps.
    MissingRank {
        generation: u64,
        rank: u32,
        first_step: u64,
        last_step: u64,
    },
    /// A rank has noted a step more than once.
    DoubledStep {
        generation: u64,
        rank: u32,
        step: u64,
    },
    /// The ranks did not use as many samples as were drawn.
    Drawn { step: u64, drawn: u64, used: u64 },
    /// No such sample.
    UnknownSample { step: u64, task: u16, sample: u32 },
    /// A sample was used twice in a pass.
    DoubledSample {
        task: String,
        target: bool,
        pass: u32,
        sample: u32,
        step: u64,
    },
    /// Samples were not used in a pass that others followed.
    SkippedSamples {
        task: String,
        target: bool,
        pass: u32,
        first_sample: u64,
        samples: u64,
    },
    /// A pass began before the one before was used up.
    EarlyPass {
        task: String,
        target: bool,
        pass: u32,
        step: u64,
    },
}

impl Audit {
    fn fault(&mut self, fault: Fault) {
        if self.faults.len() < MOST_FAULTS {
            self.faults.push(fault);
        } else {
            self.more_faults += 1;
        }
    }
}

/// "step 7", "steps 7 to 9".
fn steps(first: u64, last: u64) -> String {
    if first == last {
        format!("step {first}")
    } else {
        format!("steps {first} to {last}")
    }
}

/// "task digit", "the target of task digit".
fn whose(task: &str, target: bool) -> String {
    let of = if target { "the target of " } else { "" };
    format!("{of}task {task}")
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Lineage {
                generation,
                from_step,
                other_step,
            } => write!(
                f,
                "generation {generation} went on from step {from_step} by one account, from step {other_step} by \
                 another"
            ),
            Fault::Tasks { generation, rank } => write!(
                f,
                "rank {rank} of generation {generation} had other tasks or numbers of samples than the others"
            ),
            Fault::SkippedSteps {
                generation,
                first_step,
                last_step,
            } => {
                let steps = steps(*first_step, *last_step);
                match generation {
                    Some(generation) => {
                        write!(f, "{steps}: no rank of generation {generation} did it")
                    }
                    None => write!(f, "{steps}: no generation did it"),
                }
            }
            Fault::MissingRank {
                generation,
                rank,
                first_step,
                last_step,
            } => write!(
                f,
                "{}: nothing from rank {rank} of generation {generation}",
                steps(*first_step, *last_step)
            ),
            Fault::DoubledStep {
                generation,
                rank,
                step,
            } => write!(
                f,
                "step {step}: rank {rank} of generation {generation} did it more than once"
            ),
            Fault::Drawn { step, drawn, used } => write!(
                f,
                "step {step}: {drawn} samples were drawn, the ranks used {used}"
            ),
            Fault::UnknownSample { step, task, sample } => {
                write!(f, "step {step}: task number {task} has no sample {sample}")
            }
            Fault::DoubledSample {
                task,
                target,
                pass,
                sample,
                step,
            } => write!(
                f,
                "step {step}: sample {sample} of {} was used before in the same pass ({pass})",
                whose(task, *target)
            ),
            Fault::SkippedSamples {
                task,
                target,
                pass,
                first_sample,
                samples,
            } => write!(
                f,
                "pass {pass} over {} left out {samples} of its samples, first {first_sample}",
                whose(task, *target)
            ),
            Fault::EarlyPass {
                task,
                target,
                pass,
                step,
            } => write!(
                f,
                "step {step}: pass {pass} over {} began before the one before was used up",
                whose(task, *target)
            ),
        }
    }
}
