//! Stochastic gradient descent with momentum on plain numbers, as `torch.optim.SGD` has it with a
//! dampening of 0 (the form of Sutskever et al. 2013, with the learning rate outside the momentum).

/// Hyper-parameters that stay the same over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Share of the momentum that a step keeps.
    pub momentum: f64,
    /// A step looks ahead along the momentum.
    pub nesterov: bool,
}

/// What one step multiplies by.
#[derive(Clone, Copy, Debug)]
pub struct Coefficients {
    rate: f32,
    momentum: f32,
    weight_decay: f32,
    nesterov: bool,
}

impl Sgd {
    /// The coefficients of a step at learning rate `rate`, with a weight decay that is added to the
    /// gradient.
    #[must_use]
    pub fn coefficients(&self, rate: f64, weight_decay: f64) -> Coefficients {
        Coefficients {
            rate: rate as f32,
            momentum: self.momentum as f32,
            weight_decay: weight_decay as f32,
            nesterov: self.nesterov,
        }
    }
}

impl Coefficients {
    /// Steps `parameters` in place; all slices have one length. `scale` multiplies the gradient. With
    /// g = scale x gradient + weight decay x parameter the momentum becomes momentum x share + g, and
    /// the parameter moves by -rate times it, or times g + share x momentum with Nesterov's. A momentum
    /// that begins at 0 makes the first step's g, as PyTorch's first step does.
    pub fn apply(
        &self,
        parameters: &mut [f32],
        gradient: &[f32],
        momentum: &mut [f32],
        scale: f32,
    ) {
        let numbers = parameters.iter_mut().zip(gradient).zip(momentum);
        // Two loops, so that each has no branch and is computed many numbers at a time.
        if self.nesterov {
            for ((parameter, &gradient), kept) in numbers {
                let gradient = gradient * scale + self.weight_decay * *parameter;
                *kept = self.momentum * *kept + gradient;
                *parameter -= self.rate * (gradient + self.momentum * *kept);
            }
        } else {
            for ((parameter, &gradient), kept) in numbers {
                let gradient = gradient * scale + self.weight_decay * *parameter;
                *kept = self.momentum * *kept + gradient;
                *parameter -= self.rate * *kept;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A parameter that begins at 1 with gradients 1, -2 and 0.5, after each of three steps at rate 0.1.
    fn three_steps(sgd: Sgd, weight_decay: f64, scale: f32) -> [f32; 3] {
        let coefficients = sgd.coefficients(0.1, weight_decay);
        let (mut parameter, mut momentum) = ([1.0f32], [0.0f32]);
        [1.0f32, -2.0, 0.5].map(|gradient| {
            coefficients.apply(&mut parameter, &[gradient], &mut momentum, scale);
            parameter[0]
        })
    }

    #[track_caller]
    fn assert_near(found: [f32; 3], expected: [f64; 3]) {
        for (found, expected) in found.iter().zip(expected) {
            let distance = (f64::from(*found) - expected).abs();
            assert!(distance < 1e-6, "{found}, expected {expected}");
        }
    }

    fn sgd(momentum: f64, nesterov: bool) -> Sgd {
        Sgd { momentum, nesterov }
    }

    // Promise: the momentum is 1, then 0.9 - 2 = -1.1, then -0.99 + 0.5 = -0.49, and the parameter
    // follows it; without momentum it follows the gradient alone.
    #[test]
    fn momentum_has_its_closed_form() {
        assert_near(three_steps(sgd(0.9, false), 0.0, 1.0), [0.9, 1.01, 1.059]);
        assert_near(three_steps(sgd(0.0, false), 0.0, 1.0), [0.9, 1.1, 1.05]);
    }

    // Promise: Nesterov's step goes by g + 0.9 x the same momentum: 1.9, then -2.99, then 0.059.
    #[test]
    fn nesterov_looks_ahead() {
        assert_near(three_steps(sgd(0.9, true), 0.0, 1.0), [0.81, 1.109, 1.1031]);
    }

    // Promise: weight decay is part of the gradient and of the momentum, and clipping is not applied to
    // it. By hand, with a decay of 0.5: g 1.5, -1.575, 0.93625, momenta 1.5, -0.225, 0.73375;
    // with gradients halved: g 1, -0.55, 0.6825, momenta 1, 0.35, 0.9975.
    #[test]
    fn weight_decay_goes_into_the_momentum() {
        let how = sgd(0.9, false);
        assert_near(three_steps(how, 0.5, 1.0), [0.85, 0.8725, 0.799_125]);
        assert_near(three_steps(how, 0.5, 0.5), [0.9, 0.865, 0.765_25]);
    }
}
