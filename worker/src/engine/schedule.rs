//! The learning rate over time.

use espalier_spec::job::{ScheduleKind, ScheduleSpec};

/// Learning-rate factor, 0 to 1, of every step of a run of known length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    kind: ScheduleKind,
    warmup: u64,
    total: u64,
    last: f64,
}

impl Schedule {
    /// The schedule of a run of `total` steps.
    #[must_use]
    pub fn new(spec: &ScheduleSpec, total: u64) -> Self {
        let share = (spec.warmup_ratio * total as f64).round() as u64;
        let warmup = spec.warmup_steps.unwrap_or(share).min(total);
        Self {
            kind: spec.kind,
            warmup,
            total,
            last: spec.final_ratio,
        }
    }

    /// The factor for the step that follows `done` steps. It rises in a straight line to 1 over the
    /// warm-up (its first step already learns), then follows the shape.
    #[must_use]
    pub fn factor(&self, done: u64) -> f64 {
        if done < self.warmup {
            return (done + 1) as f64 / self.warmup as f64;
        }
        let left = self.total.saturating_sub(done) as f64;
        let span = self.total.saturating_sub(self.warmup).max(1) as f64;
        let remaining = (left / span).clamp(0.0, 1.0);
        let shape = match self.kind {
            ScheduleKind::Linear => remaining,
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * (1.0 - remaining)).cos()),
            ScheduleKind::Constant => return 1.0,
        };
        self.last + (1.0 - self.last) * shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind, warmup: u64, total: u64) -> Schedule {
        Schedule::new(
            &ScheduleSpec {
                kind,
                final_ratio: 0.0,
                warmup_ratio: 0.5,
                warmup_steps: Some(warmup),
            },
            total,
        )
    }

    // Promise: every shape rises to exactly 1 and never leaves 0..=1.
    #[test]
    fn factors_rise_to_one_and_fall_by_shape() {
        let linear = schedule(ScheduleKind::Linear, 4, 12);
        let factors: Vec<f64> = (0..12).map(|s| linear.factor(s)).collect();
        assert_eq!(&factors[..5], &[0.25, 0.5, 0.75, 1.0, 1.0]);
        assert_eq!(factors[11], 0.125);
        let cosine = schedule(ScheduleKind::Cosine, 0, 10);
        assert_eq!(cosine.factor(0), 1.0);
        assert!((cosine.factor(5) - 0.5).abs() < 1e-12);
        let constant = schedule(ScheduleKind::Constant, 0, 10);
        assert!((0..20).all(|s| constant.factor(s) == 1.0));
    }

    // Promise: what falls ends at the share that was asked for, as nanoGPT's minimum rate does.
    #[test]
    fn factors_fall_to_the_final_ratio() {
        for kind in [ScheduleKind::Linear, ScheduleKind::Cosine] {
            let spec = ScheduleSpec {
                kind,
                final_ratio: 0.1,
                warmup_ratio: 0.0,
                warmup_steps: Some(0),
            };
            let schedule = Schedule::new(&spec, 10);
            assert!((schedule.factor(0) - 1.0).abs() < 1e-12);
            assert!((schedule.factor(5) - 0.55).abs() < 1e-12);
            assert!((schedule.factor(10) - 0.1).abs() < 1e-12);
        }
    }

    #[test]
    fn a_run_shorter_than_its_warmup_is_fine() {
        let short = schedule(ScheduleKind::Linear, 100, 3);
        assert!((0..3).all(|s| (0.0..=1.0).contains(&short.factor(s))));
    }
}
