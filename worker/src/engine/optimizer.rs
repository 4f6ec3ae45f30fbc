//! How owners step their numbers: the job's method, and what goes with any of them.

use super::adamw::{self, AdamW};
use super::sgd::{self, Sgd};
use espalier_spec::job::{OptimizerMethod, OptimizerSpec};

/// What stays the same over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Optimizer {
    /// The rule of a step.
    pub method: Method,
    /// Weight decay: decoupled with AdamW, added to the gradient with SGD.
    pub weight_decay: f64,
    /// Decoupled pull of the backbone's weights towards where they started, in place of their decay
    /// (L2-SP; Li et al. 2018, arXiv 1802.01483).
    pub l2_sp: f64,
}

/// The rule of a step. Its state are one or two numbers for each that it steps, 0 before the first step:
/// AdamW's moments, or SGD's momentum, which takes the place of the first moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// AdamW.
    AdamW(AdamW),
    /// SGD with momentum.
    Sgd(Sgd),
}

/// What one step multiplies and divides by.
#[derive(Clone, Copy, Debug)]
pub enum Coefficients {
    /// Of AdamW.
    AdamW(adamw::Coefficients),
    /// Of SGD.
    Sgd(sgd::Coefficients),
}

impl Optimizer {
    /// From the job's optimizer.
    #[must_use]
    pub fn new(spec: &OptimizerSpec) -> Self {
        let method = match spec.method {
            OptimizerMethod::Adamw => Method::AdamW(AdamW {
                betas: spec.betas,
                eps: spec.eps,
            }),
            OptimizerMethod::Sgd => Method::Sgd(Sgd {
                momentum: spec.momentum(),
                nesterov: spec.nesterov,
            }),
        };
        Self {
            method,
            weight_decay: spec.weight_decay,
            l2_sp: spec.l2_sp,
        }
    }

    /// Whether there is a second number of state for each that is stepped.
    #[must_use]
    pub fn has_second(&self) -> bool {
        matches!(self.method, Method::AdamW(_))
    }

    /// Whether weights of the backbone are pulled to where they started.
    #[must_use]
    pub fn pulls(&self) -> bool {
        self.l2_sp > 0.0
    }

    /// Takes `parameters` the step's part of the way back to `start`, of the same length:
    /// p - rate * l2_sp * (p - start).
    pub fn pull(&self, parameters: &mut [f32], start: &[f32], rate: f64) {
        let part = (rate * self.l2_sp) as f32;
        for (parameter, start) in parameters.iter_mut().zip(start) {
            *parameter -= part * (*parameter - start);
        }
    }

    /// The coefficients of step number `step` (from 1) at learning rate `rate`.
    #[must_use]
    pub fn coefficients(&self, rate: f64, step: u64, decay: bool) -> Coefficients {
        let weight_decay = if decay { self.weight_decay } else { 0.0 };
        match &self.method {
            Method::AdamW(adamw) => {
                Coefficients::AdamW(adamw.coefficients(rate, step, weight_decay))
            }
            Method::Sgd(sgd) => Coefficients::Sgd(sgd.coefficients(rate, weight_decay)),
        }
    }
}

impl Coefficients {
    /// Steps `parameters` in place with their gradient and their state; all slices have one length, but
    /// for a second one of state where the method has none. `scale` multiplies the gradient.
    pub fn apply(
        &self,
        parameters: &mut [f32],
        gradient: &[f32],
        (first, second): (&mut [f32], &mut [f32]),
        scale: f32,
    ) {
        match self {
            Self::AdamW(adamw) => adamw.apply(parameters, gradient, first, second, scale),
            Self::Sgd(sgd) => sgd.apply(parameters, gradient, first, scale),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: without a gradient the distance to the start shrinks by 1 - rate * l2_sp in every step,
    // and what is at its start stays there.
    #[test]
    fn weights_are_pulled_to_their_start() {
        let optimizer = Optimizer::new(&OptimizerSpec {
            l2_sp: 2.0,
            ..OptimizerSpec::default()
        });
        let start = [1.0f32, -2.0, 3.0];
        let mut p = [3.0f32, -2.0, 2.0];
        for _ in 0..3 {
            optimizer.pull(&mut p, &start, 0.1);
        }
        let left = 0.8f32.powi(3);
        for (found, expected) in p.iter().zip([1.0 + 2.0 * left, -2.0, 3.0 - left]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        assert!(optimizer.pulls());
    }
}
