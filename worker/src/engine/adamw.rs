//! AdamW (Loshchilov and Hutter 2019, algorithm 2) on plain numbers.

/// Hyper-parameters that stay the same over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
}

/// What one step multiplies and divides by.
#[derive(Clone, Copy, Debug)]
pub struct Coefficients {
    keep: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    step_size: f32,
    inverse_root_correction: f32,
    eps: f32,
}

impl AdamW {
    /// The coefficients of step number `step` (from 1) at learning rate `rate`, with a decoupled weight
    /// decay.
    #[must_use]
    pub fn coefficients(&self, rate: f64, step: u64, weight_decay: f64) -> Coefficients {
        let [beta1, beta2] = self.betas;
        let power = i32::try_from(step).unwrap_or(i32::MAX);
        let correction1 = 1.0 - beta1.powi(power);
        let correction2 = 1.0 - beta2.powi(power);
        Coefficients {
            keep: (1.0 - rate * weight_decay) as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            step_size: (rate / correction1) as f32,
            inverse_root_correction: (1.0 / correction2.sqrt()) as f32,
            eps: self.eps as f32,
        }
    }
}

impl Coefficients {
    /// Steps `parameters` in place; all slices have one length. `scale` multiplies the gradient.
    pub fn apply(
        &self,
        parameters: &mut [f32],
        gradient: &[f32],
        first: &mut [f32],
        second: &mut [f32],
        scale: f32,
    ) {
        let moments = first.iter_mut().zip(second.iter_mut());
        for ((parameter, &gradient), (first, second)) in
            parameters.iter_mut().zip(gradient).zip(moments)
        {
            let gradient = gradient * scale;
            *first += (gradient - *first) * self.one_minus_beta1;
            *second = *second * self.beta2 + gradient * gradient * self.one_minus_beta2;
            let denominator = second.sqrt() * self.inverse_root_correction + self.eps;
            *parameter = *parameter * self.keep - self.step_size * (*first / denominator);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: the first step moves every weight by the learning rate against its gradient's sign,
    // after decay (the known closed form of Adam's first step).
    #[test]
    fn first_step_has_its_closed_form() {
        let adamw = AdamW {
            betas: [0.9, 0.999],
            eps: 0.0,
        };
        let (mut p, g) = ([1.0f32, -2.0, 3.0], [0.3f32, -4.0, 1e-3]);
        let (mut m, mut v) = ([0f32; 3], [0f32; 3]);
        adamw
            .coefficients(0.01, 1, 0.1)
            .apply(&mut p, &g, &mut m, &mut v, 1.0);
        let expected = [1.0 * 0.999 - 0.01, -2.0 * 0.999 + 0.01, 3.0 * 0.999 - 0.01];
        for (found, expected) in p.iter().zip(expected) {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-6,
                "{found} {expected}"
            );
        }
    }
}
