//! The learning rate over time.

use espalier_spec::job::{ScheduleKind, ScheduleSpec};

/// Learning-rate factor, 0 to 1, of every step of a run of known length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    kind: ScheduleKind,
    warmup: u64,
    total: u64,
    last: f64,
    gamma: f64,
    power: f64,
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
            gamma: spec.gamma(),
            power: spec.power(),
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
            ScheduleKind::Inverse => {
                return (1.0 + self.gamma * (1.0 - remaining)).powf(-self.power);
            }
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
                ..ScheduleSpec::default()
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
                ..ScheduleSpec::default()
            };
            let schedule = Schedule::new(&spec, 10);
            assert!((schedule.factor(0) - 1.0).abs() < 1e-12);
            assert!((schedule.factor(5) - 0.55).abs() < 1e-12);
            assert!((schedule.factor(10) - 0.1).abs() < 1e-12);
        }
    }

    // Promise: the inverse decay has the values of its formula over the steps after the warm-up, with the
    // paper's numbers (11^-0.75 = 0.16556 at the end) and with others.
    #[test]
    fn factors_fall_by_the_inverse_of_a_power() {
        let paper = schedule(ScheduleKind::Inverse, 2, 12);
        assert_eq!(paper.factor(0), 0.5);
        for (done, expected) in [(2, 1.0), (7, 0.260_847), (12, 0.165_560)] {
            let found = paper.factor(done);
            assert!((found - expected).abs() < 1e-6, "{done}: {found}");
        }
        let spec = ScheduleSpec {
            kind: ScheduleKind::Inverse,
            gamma: Some(3.0),
            power: Some(0.5),
            warmup_steps: Some(0),
            ..ScheduleSpec::default()
        };
        let other = Schedule::new(&spec, 8);
        assert!((other.factor(8) - 0.5).abs() < 1e-12);
        assert!((other.factor(1) - 1.375_f64.powf(-0.5)).abs() < 1e-12);
    }

    #[test]
    fn a_run_shorter_than_its_warmup_is_fine() {
        let short = schedule(ScheduleKind::Linear, 100, 3);
        assert!((0..3).all(|s| (0.0..=1.0).contains(&short.factor(s))));
    }
}
