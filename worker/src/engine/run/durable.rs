//! Checkpoints of a run: written beside training where they are not waited for, and told once they are durable.

use super::Run;
use crate::agent::control::Told;
use crate::agent::report::Content;
use crate::agent::watched::Phase;
use crate::checkpoint::Saved;
use crate::engine::Error;
use espalier_spec::report::Checkpoint;
use std::time::{Duration, Instant};

/// How long a write that is waited for may take before the watchdog thinks of it what it does of any other silence.
const WRITING: Duration = Duration::from_secs(600);
/// How often such a wait gives a sign of life.
const LOOK: Duration = Duration::from_secs(1);

impl Run<'_> {
    /// Writes a checkpoint: one that is needed before this returns, any other while training goes on. If the latter
    /// cannot be, training goes on with a warning: the older ones are intact.
    pub(super) fn checkpoint(&mut self, needed: bool) -> Result<(), Error> {
        let begun = Instant::now();
        let bytes = self.start_checkpoint(needed)?;
        let telemetry = self.context.control.telemetry();
        telemetry.metrics.checkpoint(begun.elapsed(), bytes);
        Ok(())
    }

    /// The same; answers the bytes of this rank's part that are written beside training.
    fn start_checkpoint(&mut self, needed: bool) -> Result<u64, Error> {
        let step = self.state.step;
        self.watched.enter(Phase::Checkpointing);
        self.saved();
        if let Some(before) = self.saving.writing() {
            tracing::warn!(
                step = step.0,
                before = before.0,
                "waiting for the checkpoint before, which is still being written: set checkpoint.every_steps higher"
            );
            if needed {
                self.wait_for_saving();
            } else if let Some(saved) = self.saving.wait_for(self.patience()) {
                self.tell_saved(saved);
            } else {
                let why = "the one before is still being written";
                self.saving.excuse(step, why);
                self.context.control.telemetry().metrics.saved(false);
                tracing::error!(step = step.0, "no checkpoint: {why}; training goes on");
                return Ok(0);
            }
        }
        if needed {
            let path = self.trainer.save_run(&self.store, &mut self.state)?;
            self.tell_saved(Saved {
                step,
                result: Ok(Some(path)),
            });
            self.wait_for_upload();
            return Ok(0);
        }
        let part = self.trainer.take_part(&mut self.state);
        let started = part.and_then(|part| {
            let bytes = part.images.whole().len() as u64;
            let started = self.saving.start(&self.state, part.images);
            started.map(|()| bytes).map_err(Error::from)
        });
        started.or_else(|error| {
            self.saving.excuse(step, &error.to_string());
            self.context.control.telemetry().metrics.saved(false);
            tracing::error!(step = step.0, %error, "checkpoint failed; training goes on");
            Ok(0)
        })
    }

    /// How long training may stand still for a slow disk: not so long that peers give this rank up.
    fn patience(&self) -> Duration {
        self.context.control.limits().peer_timeout / 4
    }

    /// Tells of a checkpoint whose writing has ended, and of a copy.
    pub(super) fn saved(&mut self) {
        if let Some(uploading) = &mut self.uploading {
            uploading.look();
        }
        if let Some(saved) = self.saving.ended() {
            self.tell_saved(saved);
        }
    }

    /// The same, and waits for it.
    pub(super) fn wait_for_saving(&mut self) {
        let begun = Instant::now();
        while self.saving.writing().is_some() && begun.elapsed() < WRITING {
            // A sign of life: this wait has a limit of its own.
            self.watched.enter(Phase::Checkpointing);
            if let Some(saved) = self.saving.wait_for(LOOK) {
                self.tell_saved(saved);
            }
        }
        if let Some(saved) = self.saving.wait() {
            self.tell_saved(saved);
        }
    }

    /// Waits until the newest checkpoint is durable and, within limits, copied to where the job wants it.
    pub(super) fn wait_for_upload(&mut self) {
        self.wait_for_saving();
        let (watched, control) = (&self.watched, &self.context.control);
        if let Some(uploading) = &mut self.uploading {
            uploading.wait(&|| {
                // A sign of life: this wait has a limit of its own.
                watched.enter(Phase::Checkpointing);
                control.told() != Told::Abort
            });
        }
    }

    fn tell_saved(&mut self, saved: Saved) {
        let step = saved.step;
        let good = saved.result.is_ok();
        self.context.control.telemetry().metrics.saved(good);
        match saved.result {
            Ok(Some(path)) => {
                if let Some(uploading) = &mut self.uploading {
                    uploading.add(step, &path);
                }
                let path = path.display().to_string();
                tracing::info!(step = step.0, path, "checkpoint written");
                (self.tell)(Content::Checkpoint(Checkpoint {
                    step,
                    path,
                    best: false,
                }));
            }
            // Rank 0 tells of the whole.
            Ok(None) => {}
            Err(error) => {
                tracing::error!(step = step.0, %error, "checkpoint failed; training goes on");
            }
        }
    }
}
