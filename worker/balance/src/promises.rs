//! What the documentation promises, on examples.

use crate::golden::kit::{balancer, near, weights};
use crate::properties::gradients;
use crate::{Error, Facts, Gradients, Gram, SliceAt, build};
use espalier_spec::balancer::{BalancerSpec, Class, METHODS, Method, Normalize, OnNonFinite};

#[test]
fn orthonormal_gradients_are_added() {
    // The convention: with orthogonal gradients of length 1 and losses of 1 every weight is 1.
    let k = 4;
    let rows: Vec<Vec<f64>> = (0..k)
        .map(|i| (0..k).map(|j| f64::from(u8::from(i == j))).collect())
        .collect();
    let gram = Gram::of_gradients(&rows).unwrap();
    let tasks: Vec<usize> = (0..k).collect();
    for info in &METHODS {
        let mut balancer = balancer(info.method, &[], k);
        let facts = Facts {
            tasks: &tasks,
            losses: &[1.0; 4],
            gram: Some(&gram),
            cross: Some(gram.values()),
            excess: Some(&[1.0; 4]),
            ..Facts::default()
        };
        let expected = match info.method {
            Method::Mean => 0.25,
            Method::Uw => 0.5,
            Method::Cagrad => 1.5 / 1.25,
            // Random.
            Method::Rlw => continue,
            _ => 1.0,
        };
        let found = balancer.weights(&facts).unwrap();
        assert_eq!(found.fallback, None, "{}", info.name);
        near(&found.values, &[expected; 4], 1e-9, info.name);
    }
}

#[test]
fn twins_weigh_the_same() {
    // Two tasks with the same gradient get the same finite weight.
    for seed in 0..20 {
        let mut rows = gradients(4, 6, seed, 0.5);
        rows[2] = rows[0].clone();
        let gram = Gram::of_gradients(&rows).unwrap();
        for method in [
            Method::ImtlG,
            Method::AlignedMtl,
            Method::Upgrad,
            Method::NashMtl,
            Method::Fairgrad,
            Method::Mgda,
            Method::Cagrad,
            Method::Config,
        ] {
            let w = weights(method, &[], &gram);
            assert!(
                (w[0] - w[2]).abs() < 1e-3 * w[0].abs().max(1.0),
                "{method}: {w:?}"
            );
        }
    }
}

#[test]
fn what_is_not_finite_is_refused_or_dropped() {
    // Policy `fail` names the tasks; `skip_task_step` goes on without them, as if they were absent.
    let nan = f64::NAN;
    let gram = Gram::new(vec![6.0, nan, -6.5, nan, nan, nan, -6.5, nan, 14.25]).unwrap();
    let facts = Facts {
        step: 7,
        tasks: &[1, 4, 5],
        losses: &[1.0; 3],
        gram: Some(&gram),
        ..Facts::default()
    };
    let mut spec = BalancerSpec::of(Method::Upgrad);
    let error = build(&spec, &[1.0; 6])
        .unwrap()
        .weights(&facts)
        .unwrap_err();
    assert_eq!(
        error,
        Error::GradientNotFinite {
            tasks: vec![4],
            step: 7
        }
    );
    assert!(error.to_string().contains("tasks [4]") && error.to_string().contains("step 7"));
    let bad_loss = Facts {
        losses: &[1.0, 1.0, f64::INFINITY],
        gram: None,
        ..facts
    };
    let mut equal = build(&BalancerSpec::of(Method::Equal), &[1.0; 6]).unwrap();
    assert!(matches!(
        equal.weights(&bad_loss),
        Err(Error::LossNotFinite { tasks, .. }) if tasks == [5]
    ));
    spec.on_non_finite = OnNonFinite::SkipTaskStep;
    let skipped = build(&spec, &[1.0; 6]).unwrap().weights(&facts).unwrap();
    assert_eq!(skipped.dropped, [1]);
    assert_eq!(skipped.values[1], 0.0);
    let rest = gram.part(&[0, 2]);
    let without = Facts {
        tasks: &[1, 5],
        losses: &[1.0; 2],
        gram: Some(&rest),
        ..facts
    };
    let expected = build(&spec, &[1.0; 6])
        .unwrap()
        .weights(&without)
        .unwrap()
        .values;
    assert_eq!([skipped.values[0], skipped.values[2]], expected[..]);
    let nothing = Facts {
        losses: &[nan; 3],
        ..facts
    };
    let error = build(&spec, &[1.0; 6])
        .unwrap()
        .weights(&nothing)
        .unwrap_err();
    assert_eq!(error, Error::NothingLeft { step: 7 });
}

#[test]
fn options_compose() {
    // Log losses make weights follow the losses' units; normalising by the norm undoes sizes;
    // scale is a factor; kept weights stay until they are due.
    let rows = gradients(3, 6, 5, 0.5);
    let gram = Gram::of_gradients(&rows).unwrap();
    let ask = |spec: &BalancerSpec, gram: &Gram, losses: &[f64]| {
        let mut balancer = build(spec, &[1.0; 3]).unwrap();
        crate::golden::kit::with_losses(balancer.as_mut(), gram, losses).values
    };
    let units = [10.0, 1.0, 0.1];
    let losses = [0.5, 2.0, 1.0];
    let scaled: Vec<f64> = losses.iter().zip(units).map(|(l, u)| l * u).collect();
    for method in [
        Method::Mgda,
        Method::Upgrad,
        Method::Cagrad,
        Method::AlignedMtl,
    ] {
        let mut spec = BalancerSpec::of(method);
        spec.log_losses = true;
        let plain = ask(&spec, &gram, &losses);
        let found = ask(&spec, &gram.scaled(&units), &scaled);
        let expected: Vec<f64> = plain.iter().zip(units).map(|(w, u)| w / u).collect();
        near(&found, &expected, 1e-9, method.as_str());
        spec.log_losses = false;
        spec.normalize = Normalize::L2;
        let plain = ask(&spec, &gram, &losses);
        let found = ask(&spec, &gram.scaled(&units), &losses);
        let expected: Vec<f64> = plain.iter().zip(units).map(|(w, u)| w / u).collect();
        near(&found, &expected, 1e-9, method.as_str());
        spec.scale = 0.25;
        let quarter: Vec<f64> = plain.iter().map(|w| w * 0.25).collect();
        near(&ask(&spec, &gram, &losses), &quarter, 1e-15, "scale");
    }
    let mut spec = BalancerSpec::of(Method::Rlw);
    spec.update_every = 3;
    let mut balancer = build(&spec, &[1.0; 3]).unwrap();
    let mut seen = Vec::new();
    for step in 0..6 {
        let facts = Facts {
            step,
            tasks: &[0, 1, 2],
            losses: &[1.0; 3],
            ..Facts::default()
        };
        seen.push(balancer.weights(&facts).unwrap().values);
    }
    assert_eq!(seen[0], seen[2]);
    assert_eq!(seen[3], seen[5]);
    assert_ne!(seen[2], seen[3]);
}

#[test]
fn misuse_is_told() {
    // Missing facts, wrong shapes, foreign states and negative losses say what was expected.
    let told = |method: Method, facts: &Facts<'_>| {
        let mut balancer = balancer(method, &[], 3);
        balancer.weights(facts).unwrap_err().to_string()
    };
    let facts = Facts {
        tasks: &[0, 2],
        losses: &[1.0, -1.0],
        ..Facts::default()
    };
    assert_eq!(
        told(Method::Upgrad, &facts),
        "balancer upgrad needs the gradients' Gram matrix, which the step did not bring"
    );
    assert!(told(Method::Si, &facts).starts_with("the loss of task 2 is -1, but"));
    let unordered = Facts {
        tasks: &[2, 0],
        ..facts
    };
    assert!(told(Method::Equal, &unordered).contains("expected ascending numbers below 3"));
    let short = Facts {
        losses: &[1.0],
        ..facts
    };
    assert_eq!(
        told(Method::Equal, &short),
        "losses: expected 2 for 2 tasks, found 1"
    );
    let state = balancer(Method::Uw, &[], 3).state();
    let mut other = balancer(Method::Famo, &[], 3);
    let message = other.restore(&state).unwrap_err().to_string();
    assert!(
        message.contains("it is one of `uw`, this job's balancer is `famo`"),
        "{message}"
    );
    let mut other = balancer(Method::Uw, &[], 4);
    let message = other.restore(&state).unwrap_err().to_string();
    assert!(
        message.contains("has 3 numbers, this job needs 4"),
        "{message}"
    );
    let mut spec = BalancerSpec::of(Method::Cagrad);
    spec.params.insert("c".to_owned(), f64::NAN);
    let message = build(&spec, &[1.0]).unwrap_err().to_string();
    assert!(
        message.starts_with("balancer.params.c: is NaN; expected"),
        "{message}"
    );
}

#[test]
fn needs_follow_the_table() {
    // What the engine has to bring is what the method's class says, and buffers and slices are
    // handled by those that say so.
    for info in &METHODS {
        let balancer = balancer(info.method, &[], 3);
        let needs = balancer.needs();
        assert_eq!(needs.losses_after, info.method == Method::Famo);
        assert_eq!(
            balancer.buffers().is_some(),
            needs.gradients == Gradients::Buffers,
            "{}",
            info.name
        );
        assert_eq!(
            balancer.elementwise().is_some(),
            info.class == Class::Elementwise
        );
        assert_eq!(
            needs.gradients == Gradients::Losses,
            info.class == Class::Losses
        );
    }
}

#[test]
fn gradient_sign_dropout_keeps_pure_coordinates() {
    // Coordinates where all agree stay whole; elsewhere one sign stays, as often as its share.
    let drop = balancer(Method::GradDrop, &[], 2);
    let at = |step| SliceAt {
        seed: 1,
        step,
        block: 0,
        offset: 0,
    };
    let (a, b) = ([-4.0_f32, 1.0, 0.0], [6.0_f32, 1.0, 0.0]);
    let mut up = 0;
    for step in 0..2000 {
        let mut out = [f32::NAN; 3];
        drop.elementwise()
            .unwrap()
            .combine(&at(step), &[&a, &b], &mut out);
        assert!(out[0] == 6.0 || out[0] == -4.0, "{out:?}");
        assert_eq!(out[1..], [2.0, 0.0]);
        up += u32::from(out[0] == 6.0);
    }
    // P = (1 + 2/10)/2 = .6.
    assert!((1120..1280).contains(&up), "{up}");
}
