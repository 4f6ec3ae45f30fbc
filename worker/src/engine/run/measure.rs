//! What of a run is counted and traced.

use super::Run;
use crate::engine::StepTimes;
use std::time::Duration;

impl Run<'_> {
    /// Counts a step that took so long with its samples' fetching, and what was kept since the one before.
    pub(super) fn measure(&mut self, step: u64, took: Duration, times: &StepTimes) {
        let all = self.trainer.exchange.sent();
        let sent = all.saturating_sub(self.sent);
        self.sent = all;
        let stages = self.watched.take_stages();
        let telemetry = self.context.control.telemetry();
        telemetry.metrics.step(took, stages, times, sent);
        let place = (self.context.plan.generation, self.context.rank, step);
        telemetry.trace_step(place, took, times, sent);
        self.measure_snapshots();
    }

    /// Counts snapshots that were taken.
    pub(super) fn measure_snapshots(&mut self) {
        for (took, bytes) in self.snapshots.take_costs() {
            let telemetry = self.context.control.telemetry();
            telemetry.metrics.snapshot(took, bytes);
        }
    }
}
