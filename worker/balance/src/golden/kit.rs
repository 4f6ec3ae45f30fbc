//! One-line calls of balancers.

use crate::{Balancer, Facts, Gram, Weights, build};
use espalier_spec::balancer::{BalancerSpec, Method};

/// A balancer of a method with parameters, for `tasks` tasks.
pub(crate) fn balancer(method: Method, params: &[(&str, f64)], tasks: usize) -> Box<dyn Balancer> {
    let mut spec = BalancerSpec::of(method);
    for (name, value) in params {
        spec.params.insert((*name).to_owned(), *value);
    }
    build(&spec, &vec![1.0; tasks]).unwrap()
}

/// Facts with ones for losses.
pub(crate) fn answer(of: &mut dyn Balancer, gram: &Gram) -> Weights {
    with_losses(of, gram, &vec![1.0; gram.k()])
}

/// The answer to losses and a Gram matrix of all tasks.
pub(crate) fn with_losses(of: &mut dyn Balancer, gram: &Gram, losses: &[f64]) -> Weights {
    let tasks: Vec<usize> = (0..gram.k()).collect();
    of.weights(&Facts {
        tasks: &tasks,
        losses,
        gram: Some(gram),
        ..Facts::default()
    })
    .unwrap()
}

/// The weights of a method with parameters.
pub(crate) fn weights(method: Method, params: &[(&str, f64)], gram: &Gram) -> Vec<f64> {
    let answer = answer(balancer(method, params, gram.k()).as_mut(), gram);
    assert_eq!(answer.fallback, None, "{method}");
    answer.values
}

/// Asserts that numbers agree to a tolerance, relative to the largest.
pub(crate) fn near(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    let size = expected.iter().map(|v| v.abs()).fold(1e-300, f64::max);
    assert_eq!(found.len(), expected.len(), "{what}");
    for (a, b) in found.iter().zip(expected) {
        assert!(
            (a - b).abs() <= tolerance * size,
            "{what}: found {found:?}, expected {expected:?}"
        );
    }
}

/// `list` times a number.
pub(crate) fn times(list: &[f64], factor: f64) -> Vec<f64> {
    list.iter().map(|v| v * factor).collect()
}

/// J = [[-4, 1, 1], [6, 1, 1]].
pub(crate) fn two() -> Gram {
    Gram::new(vec![18.0, -22.0, -22.0, 38.0]).unwrap()
}

/// J = [[1, 2, 0, -1], [-2, 1, 1, 0], [.5, -3, 2, 1]].
pub(crate) fn three() -> Gram {
    Gram::new(vec![6.0, 0.0, -6.5, 0.0, 6.0, -2.0, -6.5, -2.0, 14.25]).unwrap()
}
