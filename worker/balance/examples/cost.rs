//! What each method costs: microseconds a step, for 4, 16 and 64 tasks.
//!
//!     cargo run -p espalier-balance --example cost
#![allow(clippy::print_stdout, clippy::unwrap_used)] // prints what it measures

use espalier_balance::{Facts, Gram, SliceAt, build};
use espalier_spec::balancer::{BalancerSpec, Class, METHODS};
use std::time::Instant;

/// Numbers between -1 and 1.
fn noise(count: usize, mut state: u64) -> Vec<f64> {
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1_u32 << 30) - 1.0
        })
        .collect()
}

/// Median microseconds of a call.
fn median(mut call: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..41)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn cost(spec: &BalancerSpec, k: usize) -> f64 {
    let mut balancer = build(spec, &vec![1.0; k]).unwrap();
    let tasks: Vec<usize> = (0..k).collect();
    let rows: Vec<Vec<f64>> = (0..k as u64).map(|i| noise(4 * k, i + 1)).collect();
    let gram = Gram::of_gradients(&rows).unwrap();
    let losses: Vec<f64> = noise(k, 99).iter().map(|v| v + 1.1).collect();
    if let Some(elementwise) = balancer.elementwise() {
        // A thousand coordinates.
        let rows: Vec<Vec<f32>> = (0..k as u64)
            .map(|i| noise(1000, i + 1).iter().map(|&g| g as f32).collect())
            .collect();
        let slices: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let (mut out, mut step) = (vec![0.0; 1000], 0);
        return median(|| {
            step += 1;
            let at = SliceAt {
                seed: 0,
                step,
                block: 0,
                offset: 0,
            };
            elementwise.combine(&at, &slices, &mut out);
        });
    }
    let mut step = 0;
    median(|| {
        let facts = Facts {
            step,
            tasks: &tasks,
            losses: &losses,
            gram: Some(&gram),
            cross: Some(gram.values()),
            excess: Some(&losses),
            ..Facts::default()
        };
        balancer.weights(&facts).unwrap();
        step += 1;
    })
}

fn main() {
    println!("{:14} {:>9} {:>9} {:>9}", "method", "K=4", "K=16", "K=64");
    for info in &METHODS {
        let spec = BalancerSpec::of(info.method);
        let costs = [4, 16, 64].map(|k| cost(&spec, k));
        let unit = if info.class == Class::Elementwise {
            "  per 1000 coordinates"
        } else {
            ""
        };
        let [small, middle, large] = costs;
        println!(
            "{:14} {small:9.1} {middle:9.1} {large:9.1}{unit}",
            info.name
        );
    }
}
