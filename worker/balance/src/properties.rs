//! What holds for any gradients.

use crate::golden::kit::{balancer, near, weights};
use crate::gram::dot;
use crate::math::{normal, shuffled};
use crate::methods::surgery::projected_all;
use crate::{Facts, Fallback, Gram, SliceAt, build};
use espalier_spec::balancer::{BalancerSpec, Class, METHODS, Method};
use proptest::prelude::*;

/// K gradients of some length, from a seed; `spread` makes their sizes differ.
pub(crate) fn gradients(k: usize, length: usize, seed: u64, spread: f64) -> Vec<Vec<f64>> {
    (0..k as u64)
        .map(|i| {
            let size = libm::exp(spread * normal(seed, i, 1 << 40));
            (0..length as u64)
                .map(|j| size * normal(seed, i, j))
                .collect()
        })
        .collect()
}

fn combined(rows: &[Vec<f64>], w: &[f64]) -> Vec<f64> {
    (0..rows[0].len())
        .map(|j| rows.iter().zip(w).map(|(row, w)| row[j] * w).sum())
        .collect()
}

proptest! {
    // UPGrad without regularisation: no task's loss rises.
    #[test]
    fn upgrad_hurts_nobody(k in 2..7_usize, seed: u64, spread in 0.0..1.5_f64) {
        let gram = Gram::of_gradients(&gradients(k, k + 3, seed, spread)).unwrap();
        let w = weights(Method::Upgrad, &[("reg", 0.0)], &gram);
        let size = gram.quadratic(&w).sqrt();
        for (i, rate) in gram.times(&w).iter().enumerate() {
            prop_assert!(*rate >= -1e-7 * size * gram.norm(i), "{rate} {w:?}");
        }
    }

    // IMTL-G and ConFIG: equal projections on every gradient's direction; ConFIG's update is that
    // of the pseudo-inverse of the unit gradients.
    #[test]
    fn projections_are_equal(k in 2..7_usize, seed: u64, spread in 0.0..1.5_f64) {
        let rows = gradients(k, k + 3, seed, spread);
        let gram = Gram::of_gradients(&rows).unwrap();
        for method in [Method::ImtlG, Method::Config] {
            let found = crate::golden::kit::answer(balancer(method, &[], k).as_mut(), &gram);
            prop_assume!(found.fallback.is_none());
            let w = found.values;
            let projections: Vec<f64> =
                gram.times(&w).iter().zip(gram.norms()).map(|(rate, n)| rate / n).collect();
            let size: f64 = w.iter().zip(gram.norms()).map(|(w, n)| (w * n).abs()).sum();
            for p in &projections {
                prop_assert!((p - projections[0]).abs() < 1e-8 * size, "{projections:?}");
            }
            if method == Method::Config {
                let u = combined(&rows, &w);
                let length: f64 = dot(&u, &u).sqrt();
                let along: f64 = rows.iter().map(|row| dot(row, &u) / length).sum();
                prop_assert!((along - length).abs() < 1e-8 * size * k as f64);
            }
        }
    }

    // Nash: w_k (G w)_k = 1, and the update's norm is the root of K whatever the sizes.
    #[test]
    fn bargains_are_even(k in 1..13_usize, seed: u64, spread in 0.0..2.0_f64) {
        let gram = Gram::of_gradients(&gradients(k, k + 3, seed, spread)).unwrap();
        let w = weights(Method::NashMtl, &[], &gram);
        for (rate, w) in gram.times(&w).iter().zip(&w) {
            prop_assert!((rate * w - 1.0).abs() < 1e-10, "{rate} {w}");
        }
        prop_assert!((gram.quadratic(&w) / k as f64 - 1.0).abs() < 1e-10);
    }

    // PCGrad on coefficients is PCGrad on the gradients themselves.
    #[test]
    fn surgery_needs_no_vectors(k in 1..7_usize, seed: u64, spread in 0.0..1.0_f64) {
        let rows = gradients(k, k + 3, seed, spread);
        let gram = Gram::of_gradients(&rows).unwrap();
        let orders: Vec<Vec<usize>> = (0..k as u64).map(|i| shuffled(k, seed, 0, i)).collect();
        let mut sum = vec![0.0; k + 3];
        for (i, order) in orders.iter().enumerate() {
            let mut changed = rows[i].clone();
            for &j in order {
                let product = dot(&changed, &rows[j]);
                if j != i && product < 0.0 {
                    let share = product / gram.get(j, j);
                    changed.iter_mut().zip(&rows[j]).for_each(|(c, g)| *c -= share * g);
                }
            }
            sum.iter_mut().zip(&changed).for_each(|(s, c)| *s += c);
        }
        near(&combined(&rows, &projected_all(&gram, &orders)), &sum, 1e-10, "pcgrad");
    }

    // CAGrad's weights are the best: no other point of the simplex is lower.
    #[test]
    fn cagrad_is_the_minimum(k in 2..7_usize, seed: u64, c in 0.05..0.95_f64, other: u64) {
        let gram = Gram::of_gradients(&gradients(k, k + 3, seed, 0.7)).unwrap();
        let w = weights(Method::Cagrad, &[("c", c), ("rescale", 0.0)], &gram);
        let mean = vec![1.0 / k as f64; k];
        let radius = c * gram.quadratic(&mean).sqrt();
        let height = |a: &[f64]| dot(&gram.times(&mean), a) + radius * gram.quadratic(a).sqrt();
        let rest: Vec<f64> = w.iter().map(|w| (w - 1.0).max(0.0)).collect();
        let sum: f64 = rest.iter().sum();
        let best: Vec<f64> = rest.iter().map(|v| v / sum).collect();
        let drawn: Vec<f64> = (0..k as u64).map(|i| normal(other, i, 0)).collect();
        let a = crate::math::softmax(&drawn);
        prop_assert!(height(&best) <= height(&a) + 1e-9 * gram.trace());
    }

    // Methods without random orders do not care how tasks are numbered.
    #[test]
    fn tasks_have_no_order(k in 2..7_usize, seed: u64, step: u64) {
        let rows = gradients(k, k + 3, seed, 0.7);
        let losses: Vec<f64> = (0..k as u64).map(|i| 0.1 + normal(seed, i, 9).abs()).collect();
        let order = shuffled(k, seed, step, 0);
        let tasks: Vec<usize> = (0..k).collect();
        for info in &METHODS {
            let fits = matches!(info.class, Class::Losses | Class::Gram | Class::Representation);
            if !fits || matches!(info.method, Method::Rlw | Method::Pcgrad | Method::Gradvac) {
                continue;
            }
            let ask = |order: &[usize]| {
                let rows: Vec<Vec<f64>> = order.iter().map(|&i| rows[i].clone()).collect();
                let losses: Vec<f64> = order.iter().map(|&i| losses[i]).collect();
                let gram = Gram::of_gradients(&rows).unwrap();
                let mut balancer = balancer(info.method, &[], k);
                let facts = Facts { tasks: &tasks, losses: &losses, gram: Some(&gram), step, ..Facts::default() };
                balancer.weights(&facts).unwrap().values
            };
            let (plain, turned) = (ask(&tasks), ask(&order));
            let expected: Vec<f64> = order.iter().map(|&i| plain[i]).collect();
            near(&turned, &expected, 1e-6, info.name);
        }
    }

    // However a block is cut into slices, its update has the same bits.
    #[test]
    fn cuts_do_not_show(k in 1..6_usize, seed: u64, step: u64, cuts in prop::collection::vec(0..65_usize, 0..5)) {
        let rows: Vec<Vec<f32>> = gradients(k, 64, seed, 0.0)
            .into_iter()
            .map(|row| row.into_iter().map(|g| g as f32).collect())
            .collect();
        let mut ends = cuts;
        ends.push(64);
        ends.sort_unstable();
        for method in [Method::GradDrop, Method::TrimmedMean] {
            let balancer = balancer(method, &[], k);
            let combine = balancer.elementwise().unwrap();
            let at = |offset: usize| SliceAt { seed, step, block: 3, offset: offset as u64 };
            let whole: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
            let mut expected = vec![0.0_f32; 64];
            combine.combine(&at(0), &whole, &mut expected);
            let mut found = vec![f32::NAN; 64];
            let mut start = 0;
            for &end in &ends {
                let part: Vec<&[f32]> = rows.iter().map(|row| &row[start..end]).collect();
                combine.combine(&at(start), &part, &mut found[start..end]);
                start = end;
            }
            let bits = |list: &[f32]| list.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&found), bits(&expected));
        }
    }

    // A balancer that goes on from a saved state, through JSON, gives the same bits as one that
    // was never stopped; tasks come and go meanwhile.
    #[test]
    fn a_state_goes_on(seed: u64, smoothing in prop_oneof![Just(0.0), Just(0.9)], every in 1..3_u64, stop in 1..5_u64) {
        for info in &METHODS {
            let mut spec = BalancerSpec::of(info.method);
            let weighs = info.class != Class::Elementwise && info.method != Method::Mean;
            spec.smoothing = if weighs { smoothing } else { 0.0 };
            spec.update_every = if weighs && info.class != Class::Buffers { every } else { 1 };
            let mut whole = build(&spec, &[1.0; 4]).unwrap();
            let mut parts = build(&spec, &[1.0; 4]).unwrap();
            for step in 0..6 {
                if step == stop {
                    let saved = serde_json::to_string(&parts.state()).unwrap();
                    parts = build(&spec, &[1.0; 4]).unwrap();
                    parts.restore(&serde_json::from_str(&saved).unwrap()).unwrap();
                }
                let present: Vec<usize> = (0..4).filter(|i| (seed >> (4 * step + i)) & 3 != 0).map(|i| i as usize).collect();
                if present.is_empty() {
                    continue;
                }
                let rows = gradients(present.len(), 6, seed ^ step, 0.5);
                let gram = Gram::of_gradients(&rows).unwrap();
                let losses: Vec<f64> = rows.iter().map(|row| row[0].abs() + 0.01).collect();
                let facts = Facts {
                    step, seed, epoch: step, tasks: &present, losses: &losses, samples: None,
                    gram: Some(&gram), cross: Some(gram.values()), excess: Some(&losses),
                };
                let (a, b) = (whole.weights(&facts).unwrap(), parts.weights(&facts).unwrap());
                prop_assert_eq!(a.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), b.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), "{}", info.name);
                prop_assert_eq!(a, b);
                let after: Vec<f64> = losses.iter().map(|loss| loss * 0.9).collect();
                whole.observe(&present, &after);
                parts.observe(&present, &after);
            }
            prop_assert_eq!(whole.state(), parts.state());
            prop_assert_eq!(whole.fallbacks(), parts.fallbacks());
        }
    }

    // Whatever gradients there are, every answer is finite, or the fallback says why not.
    #[test]
    fn any_gradients_are_answered(k in 1..9_usize, length in 1..6_usize, seed: u64, zeros: u8, twins: bool) {
        let mut rows = gradients(k, length, seed, 3.0);
        for (i, row) in rows.iter_mut().enumerate() {
            if (zeros >> i) & 1 == 1 && seed & 1 == 1 {
                row.fill(0.0);
            }
        }
        if twins {
            rows[k - 1] = rows[0].clone();
        }
        let gram = Gram::of_gradients(&rows).unwrap();
        let tasks: Vec<usize> = (0..k).collect();
        for info in &METHODS {
            let mut balancer = balancer(info.method, &[], k);
            let facts = Facts {
                tasks: &tasks, losses: &vec![0.0; k], gram: Some(&gram),
                cross: Some(gram.values()), excess: Some(&vec![0.0; k]), seed, ..Facts::default()
            };
            let found = balancer.weights(&facts).unwrap();
            prop_assert!(found.values.iter().all(|w| w.is_finite()), "{}: {found:?}", info.name);
            prop_assert!(found.fallback != Some(Fallback::NotFinite), "{}", info.name);
            prop_assert_eq!(balancer.fallbacks(), u64::from(found.fallback.is_some()));
            if found.fallback.is_some() {
                prop_assert_eq!(found.values, vec![1.0; k]);
            }
        }
    }
}
