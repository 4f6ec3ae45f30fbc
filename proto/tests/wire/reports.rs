//! Promise: what ranks report survives the wire unchanged, bytes included.

use espalier_proto::{Wire, v1};
use espalier_spec::job::Metric;
use espalier_spec::report::{
    Affinity, Checkpoint, Evaluation, ExchangeStats, Failure, MemoryStats, Progress, TaskGradient,
    TaskPair, TaskScores,
};
use espalier_spec::{Rank, Step};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

// Absent text means none, so text is never empty here.
fn word() -> impl Strategy<Value = String> {
    "[a-zé/._-]{1,12}"
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        -1e9..1e9f64,
        select(vec![0.0, -0.0, 5e-5, f64::INFINITY, f64::MIN_POSITIVE])
    ]
}

fn affinity() -> impl Strategy<Value = Affinity> {
    let task =
        (word(), number(), number(), any::<u64>()).prop_map(|(task, norm, weight, steps)| {
            TaskGradient {
                task,
                norm,
                weight,
                steps,
            }
        });
    let pair = (
        word(),
        word(),
        number(),
        number(),
        0.0..1.0f64,
        any::<u64>(),
    )
        .prop_map(|(a, b, cosine, deviation, conflicts, steps)| TaskPair {
            a: format!("a{a}"),
            b: format!("b{b}"),
            cosine,
            deviation,
            conflicts,
            steps,
        });
    (vec(task, 0..4), vec(pair, 0..4)).prop_map(|(tasks, pairs)| Affinity { tasks, pairs })
}

fn exchange() -> impl Strategy<Value = ExchangeStats> {
    (
        any::<u64>(),
        [number(), number(), number()],
        [any::<u64>(), any::<u64>()],
        option::of(word()),
    )
        .prop_map(|(bytes, seconds, counts, last_fallback)| ExchangeStats {
            bytes_sent_per_step: bytes,
            seconds_per_step: seconds[0],
            exposed_seconds_per_step: seconds[1],
            balance_seconds_per_step: seconds[2],
            fallbacks: counts[0],
            skipped_tasks: counts[1],
            last_fallback,
        })
}

fn memory() -> impl Strategy<Value = MemoryStats> {
    any::<[u64; 6]>().prop_map(|bytes| MemoryStats {
        parameter_bytes: bytes[0],
        gradient_bytes: bytes[1],
        optimizer_bytes: bytes[2],
        buffer_bytes: bytes[3],
        peak_parameter_bytes: bytes[4],
        peak_resident_bytes: bytes[5],
    })
}

fn progress() -> impl Strategy<Value = Progress> {
    // Quarters of a second are exact both as nanoseconds and as f64.
    let eta = option::of((0u32..1_000_000).prop_map(|quarters| f64::from(quarters) / 4.0));
    let per_task = || btree_map(word(), number(), 0..3);
    (
        (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()),
        (number(), number(), eta, number(), number()),
        (per_task(), per_task()),
        (
            option::of(affinity()),
            option::of(exchange()),
            option::of(memory()),
        ),
    )
        .prop_map(
            |((step, total_steps, samples, tokens), rates, tasks, parts)| Progress {
                step: Step(step),
                total_steps,
                samples,
                tokens,
                samples_per_second: rates.0,
                tokens_per_second: rates.1,
                eta_seconds: rates.2,
                learning_rate: rates.3,
                gradient_norm: rates.4,
                losses: tasks.0,
                task_milliseconds: tasks.1,
                affinity: parts.0,
                exchange: parts.1,
                memory: parts.2,
            },
        )
}

fn evaluation() -> impl Strategy<Value = Evaluation> {
    let metric = || {
        select(vec![
            Metric::Accuracy,
            Metric::MacroF1,
            Metric::Mse,
            Metric::Pearson,
            Metric::Spearman,
        ])
    };
    let figures = || btree_map(metric(), number(), 0..3);
    let scores = (any::<u64>(), number(), figures(), figures()).prop_map(
        |(samples, loss, metrics, baseline)| TaskScores {
            samples,
            loss,
            class_iou: [(metrics.len().to_string(), loss)].into(),
            metrics,
            baseline,
        },
    );
    (
        any::<u64>(),
        word(),
        btree_map(word(), scores, 0..3),
        number(),
        any::<bool>(),
    )
        .prop_map(|(step, split, tasks, selection, best)| Evaluation {
            step: Step(step),
            split,
            tasks,
            selection,
            best,
        })
}

fn returns<T>(value: T) -> Result<(), TestCaseError>
where
    T: Wire + PartialEq + std::fmt::Debug,
{
    prop_assert_eq!(T::from_wire(value.to_wire()), Ok(value));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn progress_returns(progress in progress()) { returns(progress)?; }

    #[test]
    fn evaluations_return(evaluation in evaluation()) { returns(evaluation)?; }

    #[test]
    fn checkpoints_and_failures_return(step: u64, path in word(), flag: bool) {
        returns(Checkpoint { step: Step(step), path: path.clone(), best: flag })?;
        let lost = flag.then_some(Rank(step as u32));
        returns(Failure { code: path.clone(), message: path, retryable: flag, lost })?;
    }
}

// Promise: a report of before there were affinities and costs of the exchange is read as one
// without them.
#[test]
fn older_reports_are_read() {
    let message = v1::Progress {
        step: 7,
        total_steps: 10,
        ..v1::Progress::default()
    };
    let expected = Progress {
        step: Step(7),
        total_steps: 10,
        ..Progress::default()
    };
    assert_eq!(Progress::from_wire(message), Ok(expected));
}

// Promise: a task can't be paired with itself; the answer names the place.
#[test]
fn a_pair_is_of_two_tasks() {
    let pair = v1::affinity::TaskPair {
        a: "x".into(),
        b: "x".into(),
        ..Default::default()
    };
    let message = v1::Progress {
        affinity: Some(v1::Affinity {
            tasks: vec![],
            pairs: vec![pair],
        }),
        ..v1::Progress::default()
    };
    let bad = Progress::from_wire(message).unwrap_err();
    assert_eq!(
        bad.to_string(),
        "affinity.pairs[0].b: is \"x\" like a, expected another task"
    );
}
