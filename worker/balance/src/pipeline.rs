//! What is around every method: checks, log losses, normalising, keeping, smoothing, scale.

use crate::error::Error;
use crate::face::{
    Balancer, Buffers, Elementwise, Facts, Fallback, Gradients, Mix, Needs, Weights,
};
use crate::gram::Gram;
use crate::math::SMALLEST_LOSS;
use crate::methods::{self, Rule, Trouble};
use crate::state::State;
use espalier_spec::balancer::{BalancerSpec, Method, Normalize, OnNonFinite};

/// A method and what is around it.
#[derive(Debug)]
pub(crate) struct Pipeline {
    spec: BalancerSpec,
    tasks: usize,
    rule: Box<dyn Rule>,
    fallbacks: u64,
    /// Weights by task that `update_every` keeps, and smoothed ones; whether there are any.
    held: Vec<f64>,
    holds: Vec<f64>,
    smooth: Vec<f64>,
    smooths: Vec<f64>,
}

/// Facts of the tasks that are finite, with room of their own.
struct Part {
    positions: Vec<usize>,
    dropped: Vec<usize>,
    tasks: Vec<usize>,
    losses: Vec<f64>,
    samples: Option<Vec<u64>>,
    gram: Option<Gram>,
    cross: Option<Vec<f64>>,
    excess: Option<Vec<f64>>,
}

impl Part {
    fn facts<'a>(&'a self, of: &Facts<'_>) -> Facts<'a> {
        Facts {
            step: of.step,
            seed: of.seed,
            epoch: of.epoch,
            tasks: &self.tasks,
            losses: &self.losses,
            samples: self.samples.as_deref(),
            gram: self.gram.as_ref(),
            cross: self.cross.as_deref(),
            excess: self.excess.as_deref(),
        }
    }
}

impl Pipeline {
    pub(crate) fn new(spec: &BalancerSpec, task_weights: &[f64]) -> Self {
        let zeros = || vec![0.0; task_weights.len()];
        Self {
            spec: spec.clone(),
            tasks: task_weights.len(),
            rule: methods::rule(spec, task_weights),
            fallbacks: 0,
            held: zeros(),
            holds: zeros(),
            smooth: zeros(),
            smooths: zeros(),
        }
    }

    /// Checks the shapes, and leaves out or refuses tasks that are not finite.
    fn finite(&self, facts: &Facts<'_>) -> Result<Part, Error> {
        check_shapes(facts, self.tasks)?;
        self.check_needs(facts)?;
        let k = facts.tasks.len();
        let bad_loss: Vec<bool> = facts.losses.iter().map(|loss| !loss.is_finite()).collect();
        let bad_gradient = bad_gradients(facts, k);
        let named = |bad: &[bool]| -> Vec<usize> {
            (0..k).filter(|&i| bad[i]).map(|i| facts.tasks[i]).collect()
        };
        let step = facts.step;
        if self.spec.on_non_finite == OnNonFinite::Fail {
            if bad_loss.contains(&true) {
                return Err(Error::LossNotFinite {
                    tasks: named(&bad_loss),
                    step,
                });
            }
            if bad_gradient.contains(&true) {
                return Err(Error::GradientNotFinite {
                    tasks: named(&bad_gradient),
                    step,
                });
            }
        }
        let (dropped, positions): (Vec<usize>, Vec<usize>) =
            (0..k).partition(|&i| bad_loss[i] || bad_gradient[i]);
        if positions.is_empty() {
            return Err(Error::NothingLeft { step });
        }
        let at = |list: &[f64]| -> Vec<f64> { positions.iter().map(|&i| list[i]).collect() };
        Ok(Part {
            tasks: positions.iter().map(|&i| facts.tasks[i]).collect(),
            losses: at(facts.losses),
            samples: facts
                .samples
                .map(|list| positions.iter().map(|&i| list[i]).collect()),
            gram: facts.gram.map(|gram| gram.part(&positions)),
            cross: facts.cross.map(|cross| {
                let pairs = positions.iter().flat_map(|&i| {
                    let row = &cross[i * k..(i + 1) * k];
                    positions.iter().map(move |&j| row[j])
                });
                pairs.collect()
            }),
            excess: facts.excess.map(at),
            positions,
            dropped,
        })
    }

    fn check_needs(&self, facts: &Facts<'_>) -> Result<(), Error> {
        let (there, what) = match self.needs().gradients {
            Gradients::Losses | Gradients::Elementwise => return Ok(()),
            Gradients::Gram => (facts.gram.is_some(), "the gradients' Gram matrix"),
            Gradients::Buffers => (facts.gram.is_some(), "the buffers' Gram matrix"),
            Gradients::Representation => (
                facts.gram.is_some(),
                "the Gram matrix of the representation's gradients",
            ),
            Gradients::Excess => (facts.excess.is_some(), "each task's excess"),
            Gradients::TwoBatches => (facts.cross.is_some(), "products between two batches"),
        };
        if there {
            Ok(())
        } else {
            Err(Error::Missing {
                method: self.spec.method,
                what,
            })
        }
    }

    /// The method's weights, of gradients divided as the options say and brought back.
    fn solved(&mut self, part: &Part, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble> {
        let whole = part.facts(facts);
        let divisor = self.divisor(part)?;
        let mut weights = match &divisor {
            None => self.rule.weights(&whole)?,
            Some(d) => {
                let gram = part.gram.as_ref().map(|gram| gram.scaled(d));
                let k = d.len();
                let cross: Option<Vec<f64>> = part.cross.as_ref().map(|cross| {
                    let pairs = cross.iter().enumerate();
                    pairs.map(|(at, v)| v * (d[at / k] * d[at % k])).collect()
                });
                let inner = Facts {
                    gram: gram.as_ref(),
                    cross: cross.as_deref(),
                    ..whole
                };
                self.rule.weights(&inner)?
            }
        };
        if let Some(d) = divisor {
            weights.iter_mut().zip(&d).for_each(|(w, d)| *w *= d);
        }
        if weights.iter().all(|weight| weight.is_finite()) {
            Ok(weights)
        } else {
            Err(Fallback::NotFinite.into())
        }
    }

    /// What each gradient is multiplied by before the method sees it.
    fn divisor(&self, part: &Part) -> Result<Option<Vec<f64>>, Error> {
        let normalize = self.spec.normalize;
        let by_loss =
            self.spec.log_losses || matches!(normalize, Normalize::Loss | Normalize::LossL2);
        let by_norm = matches!(normalize, Normalize::L2 | Normalize::LossL2);
        if !by_loss && !by_norm {
            return Ok(None);
        }
        let mut d = vec![1.0; part.tasks.len()];
        // The norm of a logged loss's gradient is logged with it: dividing by both is dividing by
        // the norm alone.
        let logged_twice = self.spec.log_losses && normalize == Normalize::L2;
        if by_loss && !logged_twice {
            let losses = positive(&part.tasks, &part.losses)?;
            d.iter_mut().zip(&losses).for_each(|(d, loss)| *d /= loss);
        }
        if let (true, Some(gram)) = (by_norm, &part.gram) {
            for (d, norm) in d.iter_mut().zip(gram.norms()) {
                // A gradient of 0 stays one.
                *d /= if norm > 0.0 { norm } else { 1.0 };
            }
        }
        Ok(Some(d))
    }

    /// The weights to use: kept, found or equal; and why equal.
    fn chosen(
        &mut self,
        part: &Part,
        facts: &Facts<'_>,
    ) -> Result<(Vec<f64>, Option<Fallback>), Error> {
        let held = part.tasks.iter().all(|&task| self.holds[task] == 1.0);
        if !facts.step.is_multiple_of(self.spec.update_every) && held {
            let kept = part.tasks.iter().map(|&task| self.held[task]).collect();
            return Ok((kept, None));
        }
        match self.solved(part, facts) {
            Ok(weights) => {
                for (&task, weight) in part.tasks.iter().zip(&weights) {
                    self.held[task] = *weight;
                    self.holds[task] = 1.0;
                }
                Ok((weights, None))
            }
            Err(Trouble::Fallback(fallback)) => {
                self.fallbacks += 1;
                Ok((vec![1.0; part.tasks.len()], Some(fallback)))
            }
            Err(Trouble::Error(error)) => Err(error),
        }
    }

    fn smoothed(&mut self, tasks: &[usize], weights: &mut [f64]) {
        let share = self.spec.smoothing;
        for (&task, weight) in tasks.iter().zip(weights) {
            if self.smooths[task] == 1.0 {
                *weight = share * self.smooth[task] + (1.0 - share) * *weight;
            }
            self.smooth[task] = *weight;
            self.smooths[task] = 1.0;
        }
    }

    fn lists(&self) -> [(&'static str, &Vec<f64>); 4] {
        [
            ("held", &self.held),
            ("holds", &self.holds),
            ("smooth", &self.smooth),
            ("smooths", &self.smooths),
        ]
    }
}

impl Balancer for Pipeline {
    fn needs(&self) -> Needs {
        Needs {
            gradients: methods::needed(self.spec.method),
            losses_after: self.spec.method == Method::Famo,
        }
    }

    fn weights(&mut self, facts: &Facts<'_>) -> Result<Weights, Error> {
        let part = self.finite(facts)?;
        let (mut weights, fallback) = self.chosen(&part, facts)?;
        if fallback.is_none() && self.spec.smoothing > 0.0 {
            self.smoothed(&part.tasks, &mut weights);
        }
        let mut values = vec![0.0; facts.tasks.len()];
        for (&at, weight) in part.positions.iter().zip(weights) {
            values[at] = weight * self.spec.scale;
        }
        Ok(Weights {
            values,
            fallback,
            dropped: part.dropped,
        })
    }

    fn observe(&mut self, tasks: &[usize], losses_after: &[f64]) {
        self.rule.observe(tasks, losses_after);
    }

    fn buffers(&self) -> Option<&dyn Buffers> {
        self.rule.buffers().is_some().then_some(self)
    }

    fn elementwise(&self) -> Option<&dyn Elementwise> {
        self.rule.elementwise()
    }

    fn fallbacks(&self) -> u64 {
        self.fallbacks
    }

    fn state(&self) -> State {
        let mut values = std::collections::BTreeMap::new();
        for (name, list) in self.lists() {
            values.insert(name.to_owned(), list.clone());
        }
        for (name, list) in self.rule.kept() {
            values.insert(format!("method.{name}"), list.clone());
        }
        State {
            method: self.spec.method,
            fallbacks: self.fallbacks,
            values,
        }
    }

    fn restore(&mut self, state: &State) -> Result<(), Error> {
        if state.method != self.spec.method {
            return Err(Error::State {
                what: format!(
                    "it is one of `{}`, this job's balancer is `{}`",
                    state.method, self.spec.method
                ),
            });
        }
        state.read("held", &mut self.held)?;
        state.read("holds", &mut self.holds)?;
        state.read("smooth", &mut self.smooth)?;
        state.read("smooths", &mut self.smooths)?;
        for (name, list) in self.rule.kept_mut() {
            state.read(&format!("method.{name}"), list)?;
        }
        self.fallbacks = state.fallbacks;
        Ok(())
    }
}

impl Buffers for Pipeline {
    fn mix(&self, facts: &Facts<'_>) -> Result<Vec<Option<Mix>>, Error> {
        let mut mixes = vec![None; facts.tasks.len()];
        let part = self.finite(facts)?;
        // A pipeline gives its face away as buffers only if its rule has some.
        if let Some(buffers) = self.rule.buffers() {
            for (&at, mix) in part.positions.iter().zip(buffers.mix(&part.facts(facts))?) {
                mixes[at] = mix;
            }
        }
        Ok(mixes)
    }
}

/// The losses, each at least [`SMALLEST_LOSS`]. Errors: one is below 0.
pub(crate) fn positive(tasks: &[usize], losses: &[f64]) -> Result<Vec<f64>, Error> {
    if let Some((&task, &loss)) = tasks.iter().zip(losses).find(|(_, loss)| **loss < 0.0) {
        return Err(Error::NegativeLoss { task, loss });
    }
    Ok(losses.iter().map(|loss| loss.max(SMALLEST_LOSS)).collect())
}

/// Which gradients have products that are not finite.
fn bad_gradients(facts: &Facts<'_>, k: usize) -> Vec<bool> {
    let mut bad = vec![false; k];
    let square = |i: usize, j: usize, bad: &mut Vec<bool>, get: &dyn Fn(usize, usize) -> f64| {
        let alone = get(i, i).is_finite() && get(j, j).is_finite();
        // A product with a gradient that is bad itself says nothing of the other.
        if !get(i, j).is_finite() && (i == j || alone) {
            bad[i] = true;
            bad[j] = true;
        }
    };
    for i in 0..k {
        for j in 0..k {
            if let Some(gram) = facts.gram {
                square(i, j, &mut bad, &|i, j| gram.get(i, j));
            }
            if let Some(cross) = facts.cross {
                square(i, j, &mut bad, &|i, j| cross[i * k + j]);
            }
        }
        if facts.excess.is_some_and(|excess| !excess[i].is_finite()) {
            bad[i] = true;
        }
    }
    bad
}

fn check_shapes(facts: &Facts<'_>, tasks: usize) -> Result<(), Error> {
    let k = facts.tasks.len();
    let ascending = facts.tasks.windows(2).all(|pair| pair[0] < pair[1]);
    let known = facts.tasks.last().is_some_and(|&last| last < tasks);
    if !ascending || !known {
        return Err(Error::Shape {
            what: "the tasks of a step",
            expected: format!("ascending numbers below {tasks}, at least one"),
            found: format!("{:?}", facts.tasks),
        });
    }
    let lists = [
        ("losses", Some(facts.losses.len()), k),
        ("samples", facts.samples.map(<[u64]>::len), k),
        ("the Gram matrix", facts.gram.map(Gram::k), k),
        (
            "products between two batches",
            facts.cross.map(<[f64]>::len),
            k * k,
        ),
        ("excesses", facts.excess.map(<[f64]>::len), k),
    ];
    for (what, found, expected) in lists {
        if let Some(found) = found.filter(|&found| found != expected) {
            return Err(Error::Shape {
                what,
                expected: format!("{expected} for {k} tasks"),
                found: found.to_string(),
            });
        }
    }
    Ok(())
}
