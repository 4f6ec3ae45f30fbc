//! Known answers: J = [[-4, 1, 1], [6, 1, 1]] from TorchJD's own tests (to 1e-4), the others from
//! the formulas by another program.

use super::kit::{balancer, near, three, times, two, weights, with_losses};
use crate::Facts;
use crate::methods::surgery::projected_all;
use espalier_spec::balancer::Method;

/// Methods whose papers' weights are 1/K of ours.
const MEAN_LIKE: [Method; 6] = [
    Method::Mgda,
    Method::ImtlG,
    Method::Cagrad,
    Method::AlignedMtl,
    Method::Upgrad,
    Method::DualProj,
];

fn check(method: Method, params: &[(&str, f64)], gram: &crate::Gram, paper: &[f64], to: f64) {
    let factor = if MEAN_LIKE.contains(&method) {
        gram.k() as f64
    } else {
        1.0
    };
    let found = weights(method, params, gram);
    near(&times(&found, 1.0 / factor), paper, to, method.as_str());
}

#[test]
fn two_opposed_gradients() {
    // The published weights of every method on two gradients that conflict.
    let gram = two();
    let rescale = |mode: f64| [("c", 0.5), ("rescale", mode)];
    check(Method::Mgda, &[], &gram, &[0.6, 0.4], 1e-4);
    check(Method::Pcgrad, &[], &gram, &[2.2222, 1.5789], 1e-4);
    check(Method::Gradvac, &[], &gram, &[2.2222, 1.5789], 1e-4);
    check(Method::ImtlG, &[], &gram, &[0.5923, 0.4077], 1e-4);
    check(Method::Cagrad, &rescale(0.0), &gram, &[0.7041, 0.5], 1e-4);
    check(Method::Cagrad, &rescale(1.0), &gram, &[0.5633, 0.4], 1e-4);
    check(Method::AlignedMtl, &[], &gram, &[0.5591, 0.4083], 1e-4);
    check(Method::Upgrad, &[], &gram, &[1.1109, 0.7894], 1e-4);
    check(Method::DualProj, &[], &gram, &[0.6109, 0.5], 1e-4);
    check(
        Method::Fairgrad,
        &[("alpha", 1.0)],
        &gram,
        &[0.5915, 0.4071],
        1e-3,
    );
    // Nash clipped to norm 1, and ConFIG, as updates.
    let update = |w: &[f64]| [-4.0 * w[0] + 6.0 * w[1], w[0] + w[1], w[0] + w[1]];
    let nash = weights(Method::NashMtl, &[], &gram);
    let clipped = times(&nash, 1.0 / gram.quadratic(&nash).sqrt());
    near(&update(&clipped), &[0.0542, 0.7061, 0.7061], 2e-3, "nash");
    near(
        &clipped,
        &times(
            &weights(Method::Fairgrad, &[("alpha", 1.0)], &gram),
            0.5_f64.sqrt(),
        ),
        1e-12,
        "nash",
    );
    near(
        &update(&weights(Method::Config, &[], &gram)),
        &[0.1588, 2.0706, 2.0706],
        1e-4,
        "config",
    );
}

#[test]
fn three_gradients() {
    // Weights of every method on three gradients, to 1e-6.
    let gram = three();
    check(
        Method::Mgda,
        &[],
        &gram,
        &[0.462338, 0.236364, 0.301299],
        2e-6,
    );
    check(
        Method::ImtlG,
        &[],
        &gram,
        &[0.460366, 0.222565, 0.317068],
        2e-6,
    );
    let plain = [("rescale", 0.0)];
    check(
        Method::Cagrad,
        &plain,
        &gram,
        &[0.590535, 0.333333, 0.387872],
        2e-6,
    );
    check(
        Method::AlignedMtl,
        &[],
        &gram,
        &[0.385551, 0.257446, 0.284328],
        2e-6,
    );
    check(
        Method::Upgrad,
        &[],
        &gram,
        &[0.794356, 0.497531, 0.585221],
        2e-6,
    );
    check(
        Method::Upgrad,
        &[("reg", 0.0)],
        &gram,
        &[0.794637, 0.497614, 0.585328],
        2e-6,
    );
    check(
        Method::NashMtl,
        &[],
        &gram,
        &[0.820150, 0.514049, 0.569478],
        2e-6,
    );
    check(
        Method::Fairgrad,
        &[("alpha", 1.0)],
        &gram,
        &[0.820150, 0.514049, 0.569478],
        2e-6,
    );
    check(
        Method::Fairgrad,
        &[],
        &gram,
        &[0.727274, 0.420625, 0.490930],
        2e-6,
    );
    check(
        Method::Config,
        &[],
        &gram,
        &[1.391475, 0.672712, 0.958350],
        2e-6,
    );
}

#[test]
fn pcgrad_depends_on_the_order() {
    // In order of tasks a known answer; in any order one of few.
    let gram = three();
    let sum = projected_all(&gram, &vec![vec![0, 1, 2]; 3]);
    near(&sum, &[2.083333, 1.333333, 1.596491], 1e-6, "in order");
    for step in 0..20 {
        let mut pcgrad = balancer(Method::Pcgrad, &[], 3);
        let facts = Facts {
            step,
            tasks: &[0, 1, 2],
            losses: &[1.0; 3],
            gram: Some(&gram),
            ..Facts::default()
        };
        let found = pcgrad.weights(&facts).unwrap().values;
        let one_of = |value: f64, known: [f64; 2]| known.iter().any(|k| (value - k).abs() < 1e-4);
        assert!(one_of(found[0], [2.0833, 2.2354]), "{found:?}");
        assert!(one_of(found[1], [1.3333, 1.4854]), "{found:?}");
        assert!(one_of(found[2], [1.5965, 1.5965]), "{found:?}");
    }
}

#[test]
fn losses_alone() {
    // Losses (.5, 2, 1): geometric mean, FAMO's first step and log losses.
    let gram = three();
    let losses = [0.5, 2.0, 1.0];
    let of = |method| {
        let mut balancer = balancer(method, &[], 3);
        with_losses(balancer.as_mut(), &gram, &losses).values
    };
    near(
        &of(Method::Gls),
        &times(&[0.666667, 0.166667, 0.333333], 3.0),
        1e-6,
        "gls",
    );
    near(
        &of(Method::Famo),
        &times(&[0.571429, 0.142857, 0.285714], 3.0),
        1e-6,
        "famo",
    );
    near(&of(Method::Si), &[2.0, 0.5, 1.0], 1e-15, "si");
}

#[test]
fn dual_balancing_without_momentum() {
    // Factors 1, 4, 1.297771 on the gradients of log losses (.5, 2, 1).
    let gram = three();
    let mut db_mtl = balancer(Method::DbMtl, &[("beta", 0.0)], 3);
    let mut facts = Facts {
        tasks: &[0, 1, 2],
        losses: &[0.5, 2.0, 1.0],
        gram: Some(&gram),
        ..Facts::default()
    };
    let mixes = db_mtl.buffers().unwrap().mix(&facts).unwrap();
    let add: Vec<f64> = mixes.iter().map(|mix| mix.unwrap().add).collect();
    assert_eq!(add, [2.0, 0.5, 1.0]);
    assert!(mixes.iter().all(|mix| mix.unwrap().keep == 0.0));
    let buffers = gram.scaled(&add);
    facts.gram = Some(&buffers);
    near(
        &db_mtl.weights(&facts).unwrap().values,
        &[1.0, 4.0, 1.297771],
        1e-6,
        "db_mtl",
    );
}

#[test]
fn excess_begins_with_the_sum_of_sizes() {
    // The first excess of a gradient is the sum of its absolute values: 4, 4 and 6.5.
    let rows = [
        [1.0_f32, 2.0, 0.0, -1.0],
        [-2.0, 1.0, 1.0, 0.0],
        [0.5, -3.0, 2.0, 1.0],
    ];
    for (row, expected) in rows.iter().zip([4.0, 4.0, 6.5]) {
        let mut sum = [0.0; 4];
        let excess = crate::accumulate(&mut sum, row);
        assert!((excess - expected).abs() < 1e-5, "{excess}");
        assert_eq!(sum, row.map(|g| g * g));
    }
}
