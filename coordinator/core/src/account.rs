//! A job's accounts: what each incident cost, and how much of its time was useful.
//!
//! Whatever ends a generation early leaves an [`Incident`]. The next generation that trains turns
//! it into a [`Recovery`], which its milestones fill in; generations that were prepared in vain in
//! between belong to the same incident, so its times run from the first fault to the first new step.
//! The first generation that trains has none: it begins at step 0. So the recoveries also say which
//! steps counted: those of a generation from its `from` on, up to the `from` of the next one. It is
//! where the generation was told to go on until its ranks say where they did: a checkpoint may be
//! damaged.
//!
//! Goodput is useful time over the time since the job first ran (to its end, or to now). Useful is
//! of each generation the time from its first step to its end, or to the last sign of life of what
//! was lost, less the share of those of its steps that were done before:
//!
//! `useful = (end - first) * (steps - again) / steps`
//!
//! `steps`: steps known to be done after the first one; `again`: those of them that an earlier
//! generation had reached. Evaluations and checkpoints between the steps are counted as useful, a
//! pause is not.

use crate::event::Time;
use crate::state::Job;
use crate::view::Detail;
use espalier_spec::recovery::{Cause, Milestone, Recovery, Restore, Source};
use espalier_spec::report::Checkpoint;
use espalier_spec::{Step, WorkerId};
use serde::{Deserialize, Serialize};

/// Recoveries that are kept of a job, the newest ones.
pub(crate) const KEPT: usize = 1_000;

/// What ended a generation before its job's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Why.
    pub cause: Cause,
    /// The worker that was lost, left or came, if it was one.
    pub worker: Option<WorkerId>,
    /// What happened, in a sentence.
    pub reason: String,
    /// The last sign of life of what was lost; none if nothing was.
    pub fault: Option<Time>,
    /// When it was known.
    pub detected: Time,
}

/// The steps of the generation that trains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stretch {
    /// Most steps that earlier generations had done: up to it they are done again.
    before: Step,
    /// When its first step was done, and how many were done then.
    first: Option<(Time, Step)>,
}

impl Job {
    /// Whether its ranks take snapshots in memory.
    pub(crate) fn takes_snapshots(&self) -> bool {
        self.spec.recovery.snapshot_every != Some(0)
    }

    /// Where the next generation starts as far as is known before its workers have said what they
    /// hold, in words.
    pub(crate) fn way_on(&self) -> String {
        if self.start_time.is_some() && self.takes_snapshots() {
            format!(
                "from the newest snapshot in memory, or else {}",
                self.resume_point()
            )
        } else {
            self.resume_point()
        }
    }

    /// Opens the accounts of a generation that starts to train now.
    pub(crate) fn open_accounts(&mut self, time: Time, restore: Option<&Restore>) {
        let (from, source) = match (restore, &self.checkpoint) {
            (Some(restore), _) => (restore.step, Source::Snapshot),
            (None, Some(checkpoint)) => (checkpoint.step, Source::Checkpoint),
            (None, None) => (Step(0), Source::Beginning),
        };
        let incident = self.incident.take();
        // Reports come after the steps they tell of: a snapshot may know of more.
        let reached = self.reached.max(from);
        if self.start_time.is_some() {
            let incident = incident.unwrap_or_else(|| Incident {
                cause: Cause::Failure,
                worker: None,
                reason: self.reason.clone(),
                fault: None,
                detected: time,
            });
            let again = reached.0.saturating_sub(from.0);
            let samples = u64::from(self.spec.training.batch_size);
            self.recoveries.push(Recovery {
                generation: self.generation,
                cause: incident.cause,
                worker: incident.worker,
                reason: incident.reason,
                reached,
                from,
                source,
                replayed_samples: again.saturating_mul(samples),
                fault: incident.fault.map(|at| at.0),
                detected: incident.detected.0,
                agreed: Some(time.0),
                connected: None,
                restored: None,
                first_step: None,
            });
            let excess = self.recoveries.len().saturating_sub(KEPT);
            self.recoveries.drain(..excess);
        }
        // What it can go on from has grown: that is progress, whatever was seen of it. The restart
        // that led here counts.
        if from > self.began {
            self.restarts = self.restarts.min(1);
            self.began = from;
        }
        self.stretch = Some(Stretch {
            before: reached,
            first: None,
        });
    }

    /// The account of the newest generation; none if no other one trained before it.
    pub(crate) fn recovery(&self) -> Option<&Recovery> {
        let generation = self.generation;
        let last = self.recoveries.last();
        last.filter(|recovery| recovery.generation == generation)
    }

    /// Where the ranks of the generation that trains went on, if they say with this milestone that it
    /// was not where they were told to.
    pub(crate) fn elsewhere(&self, milestone: Milestone, step: Step) -> Option<Step> {
        let recovery = self.recovery()?;
        let from = match milestone {
            Milestone::Restored => step,
            // The word before it was lost.
            Milestone::FirstStep if recovery.restored.is_none() => Step(step.0.saturating_sub(1)),
            Milestone::Connected | Milestone::FirstStep => return None,
        };
        (from != recovery.from).then_some(from)
    }

    /// The checkpoint of a step as its ranks told of it, or where it must be if that word was lost.
    pub(crate) fn checkpoint_at(&self, step: Step) -> Option<Checkpoint> {
        let told = self.events.iter().rev().find_map(|event| {
            let Some(Detail::Checkpoint(told)) = &event.detail else {
                return None;
            };
            (told.step == step).then(|| told.clone())
        });
        told.or_else(|| {
            let known = self.checkpoint.as_ref()?;
            Some(Checkpoint {
                step,
                path: beside(&known.path, step),
                best: false,
            })
        })
    }

    /// Sets right where the generation that trains went on, and from which checkpoint if it was one:
    /// what is older than that one is not what the next one goes on from, and what is newer is.
    pub(crate) fn went_on(&mut self, from: Step, checkpoint: Option<&Checkpoint>) {
        if let Some(checkpoint) = checkpoint {
            self.checkpoint = Some(checkpoint.clone());
        }
        let (generation, samples) = (self.generation, self.spec.training.batch_size);
        let newest = self.recoveries.last_mut();
        let Some(recovery) = newest.filter(|recovery| recovery.generation == generation) else {
            return;
        };
        recovery.from = from;
        recovery.reached = recovery.reached.max(from);
        let again = recovery.replayed_steps();
        recovery.replayed_samples = again.saturating_mul(u64::from(samples));
        if let Some(stretch) = &mut self.stretch {
            stretch.before = stretch.before.max(from);
        }
        // The step that it was told to go on from counts no longer as one that it began with.
        let begins = self.recoveries.iter().map(|recovery| recovery.from);
        let began = begins.max().unwrap_or_default();
        if began > self.began {
            self.restarts = self.restarts.min(1);
        }
        self.began = began;
    }

    /// Whether this milestone of the generation that trains is still to come.
    pub(crate) fn awaits(&self, milestone: Milestone) -> bool {
        let Some(stretch) = &self.stretch else {
            return false;
        };
        let open = self.recovery().is_some_and(|recovery| {
            let at = match milestone {
                Milestone::Connected => recovery.connected,
                Milestone::Restored => recovery.restored,
                Milestone::FirstStep => recovery.first_step,
            };
            at.is_none()
        });
        open || milestone == Milestone::FirstStep && stretch.first.is_none()
    }

    /// Keeps a milestone of the generation that trains.
    pub(crate) fn note(&mut self, milestone: Milestone, step: Step, time: Time) {
        let generation = self.generation;
        let last = self.recoveries.last_mut();
        if let Some(recovery) = last.filter(|recovery| recovery.generation == generation) {
            let at = match milestone {
                Milestone::Connected => &mut recovery.connected,
                Milestone::Restored => &mut recovery.restored,
                Milestone::FirstStep => &mut recovery.first_step,
            };
            at.get_or_insert(time.0);
        }
        if milestone == Milestone::FirstStep
            && let Some(stretch) = &mut self.stretch
        {
            stretch.first.get_or_insert((time, step));
        }
    }

    /// Whether the generation that trains has done a step.
    pub(crate) fn steps(&self) -> bool {
        let stretch = self.stretch.as_ref();
        stretch.is_some_and(|stretch| stretch.first.is_some())
    }

    /// Milliseconds of the generation that trains in steps that count, if it has done `reached`
    /// steps and ends at `end`.
    pub(crate) fn useful(&self, reached: Step, end: Time) -> u64 {
        let Some(stretch) = &self.stretch else {
            return 0;
        };
        let Some((since, first)) = stretch.first else {
            return 0;
        };
        let steps = reached.0.saturating_sub(first.0);
        let again = reached.min(stretch.before).0.saturating_sub(first.0);
        let time = u128::from(end.since(since));
        let useful = (time * u128::from(steps - again))
            .checked_div(u128::from(steps))
            .unwrap_or(0);
        u64::try_from(useful).unwrap_or(u64::MAX)
    }
}

/// Where the checkpoint of a step is, by the path of another one of the job: names end with the step.
fn beside(path: &str, step: Step) -> String {
    let stem = path.trim_end_matches(|c: char| c.is_ascii_digit());
    let width = path.len() - stem.len();
    format!("{stem}{:0width$}", step.0)
}

/// How a recovery went, in a sentence: what was lost, how long each part took, what was done again.
pub(crate) fn sentence(recovery: &Recovery) -> String {
    let worker = match &recovery.worker {
        Some(worker) => format!("worker {worker}"),
        None => "its ranks".to_owned(),
    };
    let what = match recovery.cause {
        Cause::Failure => format!("the loss of {worker}"),
        Cause::Drain => format!("the departure of {worker}"),
        Cause::Scale => "a change of its workers".to_owned(),
        Cause::Preemption => format!("the preemption of {worker}"),
        Cause::Operator => "a pause".to_owned(),
    };
    let begin = recovery.fault.unwrap_or(recovery.detected);
    let moments = [
        ("detected", recovery.fault.map(|_| recovery.detected)),
        ("agreed", recovery.agreed),
        ("connected", recovery.connected),
        ("restored", recovery.restored),
        ("first step", recovery.first_step),
    ];
    let mut parts = Vec::new();
    let mut last = begin;
    for (name, at) in moments {
        if let Some(at) = at {
            parts.push(format!("{name} {}", hundredths(at.saturating_sub(last))));
            last = last.max(at);
        }
    }
    let again = match recovery.replayed_steps() {
        0 => "nothing done again".to_owned(),
        1 => "1 step done again".to_owned(),
        steps => format!("{steps} steps done again"),
    };
    format!(
        "recovered in {} from {what}: {}; {again}",
        hundredths(last.saturating_sub(begin)),
        parts.join(", ")
    )
}

/// Milliseconds as seconds with two decimals, "0.74 s".
fn hundredths(milliseconds: u64) -> String {
    let (whole, rest) = (milliseconds / 1_000, milliseconds % 1_000 / 10);
    format!("{whole}.{rest:02} s")
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_spec::Generation;

    // Promise: of a checkpoint that nobody told of, the path is found by that of another one.
    #[test]
    fn checkpoints_lie_beside_each_other() {
        let known = "/data/jobs/news-1/checkpoints/step-00000500";
        let other = "/data/jobs/news-1/checkpoints/step-00000400";
        assert_eq!(beside(known, Step(400)), other);
        assert_eq!(beside("step-9", Step(12)), "step-12");
    }

    // Promise: the sentence gives each part's own time, and they add up to the whole.
    #[test]
    fn a_recovery_in_a_sentence() {
        let recovery = Recovery {
            generation: Generation(2),
            cause: Cause::Failure,
            worker: Some("worker-2".into()),
            reason: String::new(),
            reached: Step(107),
            from: Step(100),
            source: Source::Snapshot,
            replayed_samples: 224,
            fault: Some(1_000),
            detected: 1_010,
            agreed: Some(1_220),
            connected: Some(1_270),
            restored: Some(1_370),
            first_step: Some(1_740),
        };
        assert_eq!(
            sentence(&recovery),
            "recovered in 0.74 s from the loss of worker worker-2: detected 0.01 s, agreed 0.21 s, \
             connected 0.05 s, restored 0.10 s, first step 0.37 s; 7 steps done again"
        );
        let moved = Recovery {
            cause: Cause::Drain,
            reached: Step(100),
            fault: None,
            ..recovery
        };
        assert_eq!(
            sentence(&moved),
            "recovered in 0.73 s from the departure of worker worker-2: agreed 0.21 s, connected 0.05 s, \
             restored 0.10 s, first step 0.37 s; nothing done again"
        );
    }
}
