use super::*;
use serde_json::Value;

/// The numbers of scikit-learn and SciPy; `tests/golden/metrics.py` made them.
fn golden(kind: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("golden.json")).unwrap();
    all[kind].as_array().unwrap().clone()
}

fn list<T>(value: &Value, as_item: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().unwrap().iter().map(as_item).collect()
}

fn close(case: &Value, found: &BTreeMap<Metric, f64>, count: usize) {
    assert_eq!(found.len(), count);
    for (metric, value) in found {
        let expected = case[metric.as_str()].as_f64().unwrap();
        assert!(
            (value - expected).abs() <= 1e-12 * expected.abs().max(1.0),
            "{metric:?}: {value}, not {expected}"
        );
    }
}

/// Accuracy and macro F1 of single labels agree with scikit-learn, absent classes included.
#[test]
fn single_labels_agree_with_scikit_learn() {
    for case in golden("single") {
        let classes = case["classes"].as_u64().unwrap() as usize;
        let side = |name: &str| Values::Single {
            classes,
            values: list(&case[name], |v| v.as_u64().unwrap() as u32),
        };
        close(
            &case,
            &scores(&side("truth"), &side("predicted")).unwrap(),
            2,
        );
    }
}

/// Accuracy, mean distance and quadratic kappa of ordered classes agree with scikit-learn; where all is
/// one class there is no relation.
#[test]
fn ordered_classes_agree_with_scikit_learn() {
    for case in golden("ordered") {
        let classes = case["classes"].as_u64().unwrap() as usize;
        let side = |name: &str| Values::Ordered {
            classes,
            values: list(&case[name], |v| v.as_u64().unwrap() as u32),
        };
        let found = scores(&side("truth"), &side("predicted")).unwrap();
        close(&case, &found, 3);
        let Baseline::Ordered { class, .. } = Baseline::fit(&side("truth")) else {
            panic!("another baseline");
        };
        assert!((class as usize) < classes);
    }
    assert_eq!(quadratic_kappa(3, &[1, 1], &[1, 1]), 0.0);
}

/// Subset accuracy and macro F1 of indicator matrices agree with scikit-learn.
#[test]
fn multi_labels_agree_with_scikit_learn() {
    for case in golden("multi") {
        let classes = case["classes"].as_u64().unwrap() as usize;
        let side = |name: &str| Values::Multi {
            classes,
            values: list(&case[name], |v| v.as_u64() == Some(1)),
        };
        close(
            &case,
            &scores(&side("truth"), &side("predicted")).unwrap(),
            2,
        );
    }
}

/// Squared error and correlations agree with SciPy, ties and large offsets included.
#[test]
fn numbers_agree_with_scipy() {
    for case in golden("numbers") {
        let side = |name: &str| Values::Numbers(list(&case[name], |v| v.as_f64().unwrap()));
        close(
            &case,
            &scores(&side("truth"), &side("predicted")).unwrap(),
            3,
        );
    }
}

/// A constant prediction has no correlation: 0 and not NaN, which would poison the selection.
#[test]
fn constant_predictions_correlate_with_nothing() {
    let truth = [0.1, 0.2, 0.3, 0.1 + 0.2];
    for constant in [0.1, 0.0, -7e12] {
        assert_eq!(pearson(&truth, &[constant; 4]), 0.0);
        assert_eq!(spearman(&[constant; 4], &truth), 0.0);
    }
}

/// Baselines: majority class, most frequent set, mean; ties go to the lowest.
#[test]
fn baselines_are_the_best_constants() {
    let train = Values::Single {
        classes: 4,
        values: vec![3, 1, 3, 1, 0],
    };
    let baseline = Baseline::fit(&train);
    assert_eq!(
        baseline,
        Baseline::Class {
            classes: 4,
            class: 1
        }
    );
    let truth = Values::Single {
        classes: 4,
        values: vec![1, 1, 2, 0],
    };
    assert_eq!(baseline.scores(&truth).unwrap()[&Metric::Accuracy], 0.5);

    let values = vec![true, false, false, true, true, false];
    let baseline = Baseline::fit(&Values::Multi { classes: 2, values });
    assert_eq!(baseline, Baseline::Set(vec![true, false]));
    let truth = Values::Multi {
        classes: 2,
        values: vec![true, false, true, true],
    };
    let found = baseline.scores(&truth).unwrap();
    assert_eq!(
        (found[&Metric::Accuracy], found[&Metric::MacroF1]),
        (0.5, 0.5)
    );

    let baseline = Baseline::fit(&Values::Numbers(vec![1.0, 2.0, 6.0]));
    assert_eq!(baseline, Baseline::Mean(3.0));
    let found = baseline.scores(&Values::Numbers(vec![2.0, 5.0])).unwrap();
    assert_eq!((found[&Metric::Mse], found[&Metric::Pearson]), (2.5, 0.0));
}

/// Sides that can't be compared are refused with what they are.
#[test]
fn mismatches_are_refused() {
    let truth = Values::Numbers(vec![1.0]);
    let found = scores(
        &truth,
        &Values::Single {
            classes: 2,
            values: vec![1],
        },
    )
    .unwrap_err();
    assert_eq!(
        found.to_string(),
        "predictions don't fit the targets: expected 1 numbers, found 1 of one in 2 classes"
    );
    assert!(scores(&truth, &Values::Numbers(vec![])).is_err());
    assert_eq!(
        scores(&Values::Numbers(vec![]), &Values::Numbers(vec![])),
        Err(Error::NoSamples)
    );
}
