//! How tasks' gradients relate, in running means over steps.

use espalier_spec::report::{AFFINITY_MEMORY, Affinity, TaskGradient, TaskPair};

/// Running means of a job's cosines, norms and weights: state that goes into checkpoints, so that a
/// job that is taken up again knows as much as one that never stopped.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct AffinityMeter {
    known: Affinity,
    /// Per pair of [`Affinity::pairs`] the running mean of squared cosines.
    squares: Vec<f64>,
}

/// The weight with which step number `n` (from 1) enters a running mean.
fn share(n: u64) -> f64 {
    1.0 / n.clamp(1, AFFINITY_MEMORY) as f64
}

impl AffinityMeter {
    /// Takes in a step of some tasks: their gradients' scalar products K x K row-major, none with a
    /// task that was not in the step, and their weights.
    pub fn step(&mut self, names: &[String], gram: &[Option<f64>], weights: &[f64]) {
        let tasks = names.len();
        let at = |a: usize, b: usize| gram.get(a * tasks + b).copied().flatten();
        if self.known.tasks.len() != tasks {
            let task = |name: &String| TaskGradient {
                task: name.clone(),
                ..TaskGradient::default()
            };
            self.known.tasks = names.iter().map(task).collect();
        }
        for (index, task) in self.known.tasks.iter_mut().enumerate() {
            if let Some(square) = at(index, index).filter(|square| square.is_finite()) {
                task.steps += 1;
                let share = share(task.steps);
                let weight = weights.get(index).copied().unwrap_or(0.0);
                task.norm += (square.max(0.0).sqrt() - task.norm) * share;
                task.weight += (weight - task.weight) * share;
            }
        }
        for a in 0..tasks {
            for b in a + 1..tasks {
                let (Some(both), Some(one), Some(two)) = (at(a, b), at(a, a), at(b, b)) else {
                    continue;
                };
                let norms = (one * two).sqrt();
                if norms > 0.0 && norms.is_finite() && both.is_finite() {
                    self.pair(names, (a, b), (both / norms).clamp(-1.0, 1.0));
                }
            }
        }
    }

    fn pair(&mut self, names: &[String], (a, b): (usize, usize), cosine: f64) {
        let place = |name: &str| names.iter().position(|own| own == name);
        let order = (Some(a), Some(b));
        let found = self.known.pairs.iter().position(|pair| {
            let known = (place(&pair.a), place(&pair.b));
            known >= order
        });
        let index = found.unwrap_or(self.known.pairs.len());
        let is_new = self
            .known
            .pairs
            .get(index)
            .is_none_or(|pair| (place(&pair.a), place(&pair.b)) != order);
        if is_new {
            let pair = TaskPair {
                a: names[a].clone(),
                b: names[b].clone(),
                ..TaskPair::default()
            };
            self.known.pairs.insert(index, pair);
            self.squares.insert(index, 0.0);
        }
        let (pair, square) = (&mut self.known.pairs[index], &mut self.squares[index]);
        pair.steps += 1;
        let share = share(pair.steps);
        pair.cosine += (cosine - pair.cosine) * share;
        *square += (cosine * cosine - *square) * share;
        pair.deviation = (*square - pair.cosine * pair.cosine).max(0.0).sqrt();
        pair.conflicts += (f64::from(u8::from(cosine < 0.0)) - pair.conflicts) * share;
    }

    /// What is known; none before the first step that saw tasks apart.
    #[must_use]
    pub fn known(&self) -> Option<Affinity> {
        (!self.known.tasks.is_empty()).then(|| self.known.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEIGHTS: [f64; 3] = [1.0, 2.0, 0.5];

    // Promise: means are plain at first, pairs stand in order of the job, absent tasks add nothing,
    // and what was saved goes on alike.
    #[test]
    fn means_of_cosines() {
        let names = ["x", "y", "z"].map(str::to_owned);
        let mut meter = AffinityMeter::default();
        let all = |c: f64| {
            let c = Some(c);
            [
                Some(4.0),
                c,
                Some(0.0),
                c,
                Some(1.0),
                c,
                Some(0.0),
                c,
                Some(1.0),
            ]
        };
        let (none, minus) = (None, Some(-2.0));
        let two = [
            Some(4.0),
            none,
            minus,
            none,
            none,
            none,
            minus,
            none,
            Some(1.0),
        ];
        meter.step(&names, &two, &WEIGHTS);
        meter.step(&names, &all(1.0), &WEIGHTS);
        let saved = serde_json::to_string(&meter).unwrap();
        let mut again: AffinityMeter = serde_json::from_str(&saved).unwrap();
        for meter in [&mut meter, &mut again] {
            meter.step(&names, &all(-1.0), &WEIGHTS);
        }
        assert_eq!(meter, again);
        let known = meter.known().unwrap();
        let order: Vec<_> = known
            .pairs
            .iter()
            .map(|p| format!("{}{}", p.a, p.b))
            .collect();
        assert_eq!(order, ["xy", "xz", "yz"]);
        let xy = known.pair("y", "x").unwrap();
        assert_eq!((xy.steps, xy.cosine, xy.conflicts), (2, 0.0, 0.5));
        assert!((xy.deviation - 0.5).abs() < 1e-12);
        let xz = known.pair("x", "z").unwrap();
        assert_eq!(xz.steps, 3);
        assert!((xz.cosine + 1.0 / 3.0).abs() < 1e-12);
        assert_eq!((known.tasks[0].norm, known.tasks[1].steps), (2.0, 2));
    }
}
