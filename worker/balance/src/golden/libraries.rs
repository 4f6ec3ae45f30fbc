//! Against TorchJD and LibMTL.

use super::kit::{answer, balancer, near, times, with_losses};
use crate::methods::surgery::{GradVac, projected_all};
use crate::{Facts, Fallback, Gram, SliceAt, accumulate, build};
use espalier_spec::balancer::{BalancerSpec, Method, Normalize};
use serde::Deserialize;
use std::collections::BTreeMap;

type Row = Vec<f64>;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
    three: Three,
    uw: Vec<Step>,
    famo: Vec<Step>,
    imtl_l: Vec<Step>,
    sequence: Vec<Sequence>,
    trimmed_mean: Trimmed,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    gradients: Vec<Row>,
    weights: BTreeMap<String, Option<Row>>,
}

#[derive(Deserialize)]
struct Three {
    gradients: Vec<Row>,
    libmtl: BTreeMap<String, Row>,
    gradnorm: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    losses: Row,
    #[serde(default)]
    after: Row,
    weights: Row,
}

#[derive(Deserialize)]
struct Sequence {
    gradients: Vec<Row>,
    #[serde(flatten)]
    weights: BTreeMap<String, Row>,
}

#[derive(Deserialize)]
struct Trimmed {
    gradients: Vec<Row>,
    update: Row,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden.json")).unwrap()
}

/// Method, parameters, and the tolerance: that of the library's solver where ours is exact.
fn ours(name: &str) -> (Method, Vec<(&'static str, f64)>, f64) {
    match name {
        // 40,000 steps of Frank-Wolfe.
        "mgda" => (Method::Mgda, vec![], 2e-3),
        "upgrad" => (Method::Upgrad, vec![], 1e-9),
        "dual_proj" => (Method::DualProj, vec![], 1e-9),
        // CLARABEL stops at 1e-8 of the objective, about its root in weights.
        "cagrad 0.5" => (Method::Cagrad, vec![("c", 0.5), ("rescale", 0.0)], 2e-4),
        "cagrad 2" => (Method::Cagrad, vec![("c", 2.0), ("rescale", 0.0)], 2e-4),
        "imtl_g" => (Method::ImtlG, vec![], 1e-9),
        "aligned 0" => (Method::AlignedMtl, vec![("scale_mode", 0.0)], 1e-9),
        "aligned 1" => (Method::AlignedMtl, vec![("scale_mode", 1.0)], 1e-9),
        "aligned 2" => (Method::AlignedMtl, vec![("scale_mode", 2.0)], 1e-9),
        // least_squares stops at 1e-8 of the cost.
        "fairgrad 1" => (Method::Fairgrad, vec![("alpha", 1.0)], 2e-3),
        "fairgrad 2" => (Method::Fairgrad, vec![("alpha", 2.0)], 2e-3),
        // ECOS, iterated to 1e-3 of the equation.
        "nash" => (Method::NashMtl, vec![], 5e-3),
        "config" => (Method::Config, vec![], 1e-9),
        other => panic!("no method {other}"),
    }
}

#[test]
fn torchjd_finds_the_same_weights() {
    // Random, conflicting, dependent, duplicate, zero, very uneven and 64 gradients: the same
    // weights up to the accuracy of TorchJD's solvers.
    let (mut compared, mut skipped) = (0, 0);
    for case in golden().cases {
        let gram = Gram::of_gradients(&case.gradients).unwrap();
        let k = gram.k() as f64;
        for (name, expected) in &case.weights {
            let what = format!("{name} on {}", case.name);
            let Some(expected) = expected else { continue };
            if name == "pcgrad" || name == "gradvac" {
                let tasks: Vec<usize> = (0..gram.k()).collect();
                let orders = vec![tasks.clone(); gram.k()];
                let found = if name == "pcgrad" {
                    projected_all(&gram, &orders)
                } else {
                    GradVac::new(gram.k(), 0.5).vaccinated(&gram, &tasks, &orders)
                };
                near(&found, expected, 1e-9, &what);
                compared += 1;
                continue;
            }
            let (method, params, tolerance) = ours(name);
            let found = answer(balancer(method, &params, gram.k()).as_mut(), &gram);
            if differs(&gram, name, expected, found.fallback) {
                skipped += 1;
                continue;
            }
            compared += 1;
            assert_eq!(found.fallback, None, "{what}");
            match name.as_str() {
                "config" => near(&gram.times(&found.values), expected, tolerance, &what),
                "nash" | "fairgrad 1" | "fairgrad 2" => {
                    near(&found.values, expected, tolerance, &what);
                }
                // Several answers: the update is the same, its products too.
                "mgda" | "cagrad 0.5" | "cagrad 2" => {
                    let found = gram.times(&times(&found.values, 1.0 / k));
                    let size = gram.trace() / k;
                    let expected = gram.times(expected);
                    for (a, b) in found.iter().zip(&expected) {
                        assert!((a - b).abs() < tolerance * size, "{what}: {a} {b}");
                    }
                }
                _ => near(&times(&found.values, 1.0 / k), expected, tolerance, &what),
            }
        }
    }
    assert!(compared > 150 && skipped < 20, "{compared} {skipped}");
}

/// Whether a case is none to compare: the library did not solve it, or answers what has no answer.
fn differs(gram: &Gram, method: &str, theirs: &Row, fallback: Option<Fallback>) -> bool {
    let beta = match method {
        "nash" | "fairgrad 1" => 1.0,
        "fairgrad 2" => 0.5,
        // No update, where we fall back.
        _ if method.starts_with("cagrad") && theirs.iter().all(|w| *w == 0.0) => {
            assert_eq!(fallback, Some(Fallback::Stationary), "{method} {gram:?}");
            return true;
        }
        _ => return false,
    };
    // Huge weights where gradients cancel or are 0, ones where ECOS failed: by its own equation.
    let rates = gram.times(theirs);
    let solved = rates
        .iter()
        .zip(theirs)
        .all(|(rate, w)| (rate * libm::pow(*w, beta) - 1.0).abs() < 0.02 && *w < 100.0);
    !solved
}

#[test]
fn libmtl_finds_the_same_weights() {
    // LibMTL's CAGrad, IMTL and MGDA with its normalisations (losses .5, 2, 1), in f32.
    let three = golden().three;
    let gram = Gram::of_gradients(&three.gradients).unwrap();
    let of = |name: &str| three.libmtl[name].clone();
    let third = |spec: &BalancerSpec, losses: &[f64]| {
        let mut balancer = build(spec, &[1.0; 3]).unwrap();
        times(
            &with_losses(balancer.as_mut(), &gram, losses).values,
            1.0 / 3.0,
        )
    };
    let mut spec = BalancerSpec::of(Method::Cagrad);
    let products = gram.times(&third(&spec, &[1.0; 3]));
    // SLSQP stops early.
    near(&products, &of("cagrad rescale 1, products"), 2e-3, "cagrad");
    spec.method = Method::ImtlG;
    near(&third(&spec, &[1.0; 3]), &of("imtl_g"), 1e-6, "imtl_g");
    spec.method = Method::Mgda;
    near(&third(&spec, &[1.0; 3]), &of("mgda"), 1e-4, "mgda");
    for (normalize, name) in [
        (Normalize::L2, "mgda l2, products"),
        (Normalize::Loss, "mgda loss, products"),
        (Normalize::LossL2, "mgda loss_l2, products"),
    ] {
        spec.normalize = normalize;
        let products = gram.times(&third(&spec, &[0.5, 2.0, 1.0]));
        near(&products, &of(name), 1e-3, name);
    }
}

#[test]
fn learned_weights_go_the_same_way() {
    // Step by step: GradNorm and UW as LibMTL with PyTorch's Adam, FAMO and IMTL-L as TorchJD.
    let golden = golden();
    let gram = Gram::of_gradients(&golden.three.gradients).unwrap();
    let follow = |method, params: &[(&str, f64)], steps: &[Step], factor, tolerance| {
        let mut balancer = balancer(method, params, 3);
        for step in steps {
            let found = with_losses(balancer.as_mut(), &gram, &step.losses).values;
            near(
                &times(&found, factor),
                &step.weights,
                tolerance,
                method.as_str(),
            );
            balancer.observe(&[0, 1, 2], &step.after);
        }
    };
    follow(Method::Gradnorm, &[], &golden.three.gradnorm, 1.0, 1e-6);
    follow(Method::Uw, &[("init", -0.5)], &golden.uw, 1.0, 1e-6);
    follow(Method::ImtlL, &[], &golden.imtl_l, 1.0, 1e-12);
    // TorchJD adds 1e-8 to losses, and begins with logits in f32.
    follow(Method::Famo, &[], &golden.famo, 1.0 / 3.0, 1e-6);
}

#[test]
fn methods_that_remember_go_the_same_way() {
    // Four steps of GradVac, smoothed UPGrad, ExcessMTL, SDMGrad and MoDo, as TorchJD.
    let steps = golden().sequence;
    let grams: Vec<Gram> = steps
        .iter()
        .map(|step| Gram::of_gradients(&step.gradients).unwrap())
        .collect();
    let mut spec = BalancerSpec::of(Method::Upgrad);
    spec.smoothing = 0.9;
    let mut smooth = build(&spec, &[1.0; 3]).unwrap();
    let mut excess: Vec<_> = [1.0, 2.0]
        .map(|warmup| balancer(Method::ExcessMtl, &[("eta", 0.1), ("warmup", warmup)], 3))
        .into();
    let mut sdmgrad = balancer(Method::Sdmgrad, &[], 3);
    let mut modo = balancer(Method::Modo, &[("gamma", 0.001)], 3);
    let mut sums = vec![vec![0.0_f32; 5]; 3];
    for (index, step) in steps.iter().enumerate() {
        let gram = &grams[index];
        let other = &steps[(index + 1) % steps.len()].gradients;
        let cross: Row = step
            .gradients
            .iter()
            .flat_map(|a| other.iter().map(|b| crate::gram::dot(a, b)))
            .collect();
        let excesses: Row = step
            .gradients
            .iter()
            .zip(&mut sums)
            .map(|(row, sum)| {
                let row: Vec<f32> = row.iter().map(|&g| g as f32).collect();
                accumulate(sum, &row)
            })
            .collect();
        let facts = Facts {
            step: index as u64,
            tasks: &[0, 1, 2],
            losses: &[1.0; 3],
            gram: Some(gram),
            cross: Some(&cross),
            excess: Some(&excesses),
            ..Facts::default()
        };
        let third =
            |of: &mut dyn crate::Balancer| times(&of.weights(&facts).unwrap().values, 1.0 / 3.0);
        let expected = |name: &str| &step.weights[name];
        near(
            &third(smooth.as_mut()),
            expected("upgrad smoothed"),
            1e-9,
            "smoothed",
        );
        near(
            &third(excess[0].as_mut()),
            expected("excess_mtl"),
            1e-6,
            "excess",
        );
        near(
            &third(excess[1].as_mut()),
            expected("excess_mtl 2"),
            1e-6,
            "excess 2",
        );
        near(
            &third(sdmgrad.as_mut()),
            expected("sdmgrad"),
            1e-9,
            "sdmgrad",
        );
        near(&third(modo.as_mut()), expected("modo"), 1e-9, "modo");
    }
}

#[test]
fn gradvac_remembers_like_torchjd() {
    // Four steps with targets that follow, tasks in order.
    let steps = golden().sequence;
    let mut gradvac = GradVac::new(3, 0.5);
    let orders = vec![vec![0, 1, 2]; 3];
    for step in &steps {
        let gram = Gram::of_gradients(&step.gradients).unwrap();
        let found = gradvac.vaccinated(&gram, &[0, 1, 2], &orders);
        near(&found, &step.weights["gradvac"], 1e-9, "gradvac");
    }
}

#[test]
fn the_trimmed_mean_is_the_same() {
    // Five gradients without the two extremes of each coordinate.
    let golden = golden().trimmed_mean;
    let rows: Vec<Vec<f32>> = golden
        .gradients
        .iter()
        .map(|row| row.iter().map(|&g| g as f32).collect())
        .collect();
    let slices: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
    let balancer = balancer(Method::TrimmedMean, &[], 5);
    let mut out = vec![0.0; rows[0].len()];
    let at = SliceAt {
        seed: 0,
        step: 0,
        block: 0,
        offset: 0,
    };
    balancer
        .elementwise()
        .unwrap()
        .combine(&at, &slices, &mut out);
    let found: Row = out.iter().map(|&v| f64::from(v) / 5.0).collect();
    near(&found, &golden.update, 1e-6, "trimmed mean");
}
