use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Steps of a run.
const STEPS: u64 = 60;

fn order(seed: u64, batch: u32, sizes: &[u64], sampler: Sampler) -> Order {
    let names: Vec<String> = (0..sizes.len()).map(|i| format!("task-{i}")).collect();
    let tasks: Vec<OrderTask<'_>> = names
        .iter()
        .zip(sizes)
        .map(|(name, samples)| OrderTask {
            name,
            samples: *samples,
            target: None,
        })
        .collect();
    Order::new(seed, (batch, STEPS), &tasks, &sampler)
}

fn sizes() -> impl Strategy<Value = Vec<u64>> {
    proptest::collection::vec(prop_oneof![1_u64..20, 1_u64..500], 1..9)
}

fn samplers() -> impl Strategy<Value = Sampler> {
    prop_oneof![
        Just(Sampler::Proportional),
        Just(Sampler::Uniform),
        (1.0_f64..8.0).prop_map(Sampler::Temperature),
        (1_u64..100, 1.0_f64..8.0)
            .prop_map(|(cap, temperature)| Sampler::Capped { cap, temperature }),
        Just(Sampler::Probabilities(
            (0..9)
                .map(|i| (format!("task-{i}"), f64::from(i + 1)))
                .collect()
        )),
    ]
}

fn changing() -> impl Strategy<Value = Sampler> {
    let annealed = (0.0_f64..2.0, 0.0_f64..2.0);
    prop_oneof![
        samplers(),
        annealed.prop_map(|(from, to)| Sampler::Annealed { from, to })
    ]
}

proptest! {
    /// Probabilities that are whole numbers and add up to the batch size are batch sizes of tasks: every step has
    /// exactly so many samples of each.
    #[test]
    fn probabilities_are_batch_sizes(
        counts in proptest::collection::vec(1_u32..40, 1..9), start in 0_u64..10_000_000,
    ) {
        let named = counts.iter().enumerate();
        let given = named.map(|(i, count)| (format!("task-{i}"), f64::from(*count))).collect();
        let batch = counts.iter().sum();
        let order = order(1, batch, &vec![100; counts.len()], Sampler::Probabilities(given));
        for step in start..start + 5 {
            let (from, to) = (order.cursors(step), order.cursors(step + 1));
            let drawn: Vec<u64> = to.iter().zip(&from).map(|(to, from)| to - from).collect();
            let expected: Vec<u64> = counts.iter().map(|count| u64::from(*count)).collect();
            prop_assert_eq!(drawn, expected);
        }
    }

    /// Every step has exactly the batch size, and counts stay within 2 samples of the shares.
    #[test]
    fn counts_follow_the_shares(
        sizes in sizes(), sampler in samplers(), batch in 1_u32..70, start in 0_u64..1_000_000,
    ) {
        let order = order(1, batch, &sizes, sampler);
        let mut before = order.cursors(start);
        for step in start..start + 20 {
            let after = order.cursors(step + 1);
            let drawn: u64 = before.iter().zip(&after).map(|(a, b)| b.checked_sub(*a).unwrap()).sum();
            prop_assert_eq!(drawn, u64::from(batch));
            let all = (step + 1) as f64 * f64::from(batch);
            for (task, count) in after.iter().enumerate() {
                let off = (*count as f64 - all * order.share(task)).abs();
                prop_assert!(off < if sizes.len() <= 2 { 0.5 + 1e-6 } else { 2.0 }, "task {}: {}", task, off);
            }
            before = after;
        }
    }

    /// Every epoch of every task holds each of its samples exactly once, in an order of its own.
    #[test]
    fn epochs_are_exact(sizes in sizes(), sampler in changing(), seed: u64) {
        let order = order(seed, 37, &sizes, sampler);
        let mut seen: BTreeMap<(u16, u32), Vec<u32>> = BTreeMap::new();
        for step in 0..60 {
            let batch = order.batch(step);
            prop_assert_eq!(batch.samples.len(), 37);
            for sample in batch.samples {
                seen.entry((sample.task, sample.epoch)).or_default().push(sample.sample);
            }
        }
        let drawn = order.cursors(60);
        for ((task, epoch), mut samples) in seen {
            let n = sizes[usize::from(task)];
            let left = drawn[usize::from(task)] - u64::from(epoch) * n;
            prop_assert_eq!(samples.len() as u64, left.min(n));
            samples.sort_unstable();
            samples.dedup();
            prop_assert_eq!(samples.len() as u64, left.min(n));
            prop_assert!(samples.iter().all(|s| u64::from(*s) < n));
        }
    }
}

/// Shares are those that the sampler's formula gives, and annealed ones go from the first to the last
/// over the run, whose mean is what the planner sees.
#[test]
fn shares_are_those_of_the_formula() {
    let sizes = [1000, 100, 10];
    let of = |sampler| {
        let order = order(1, 64, &sizes, sampler);
        let cursors = order.cursors(1000);
        let shares: Vec<f64> = cursors.iter().map(|c| *c as f64 / 64_000.0).collect();
        for (task, share) in shares.iter().enumerate() {
            assert!((order.share(task) - share).abs() < 1e-4);
        }
        shares
    };
    let close = |found: Vec<f64>, expected: [f64; 3]| {
        let pairs = found.iter().zip(&expected);
        assert!(
            pairs.clone().all(|(a, b)| (a - b).abs() < 1e-4),
            "{found:?}, not {expected:?}"
        );
    };
    let capped = Sampler::Capped {
        cap: 100,
        temperature: 2.0,
    };
    close(of(capped), [0.43171, 0.43171, 0.13652]);
    let given = [("task-0", 3.0), ("task-1", 1.0), ("task-2", 4.0)];
    let given = given.map(|(name, p)| (name.to_owned(), p)).into();
    close(of(Sampler::Probabilities(given)), [0.375, 0.125, 0.5]);

    let annealed = order(1, 64, &sizes, Sampler::Annealed { from: 1.0, to: 0.0 });
    let share = |step| {
        let (before, after) = (annealed.cursors(step), annealed.cursors(step + 1));
        (after[2] - before[2]) as f64 / 64.0
    };
    assert!(share(0) < 0.03 && (share(STEPS - 1) - 1.0 / 3.0).abs() < 0.03);
    let last = annealed.cursors(STEPS);
    assert_eq!(last.iter().sum::<u64>(), 64 * STEPS);
    assert!((annealed.share(2) - last[2] as f64 / (64 * STEPS) as f64).abs() < 0.01);
    // Beyond the planned end it goes on as at the end.
    assert!((share(10 * STEPS) - 1.0 / 3.0).abs() < 0.03);
}

/// With the proportional sampler, one pass over all samples together is one epoch of each task.
#[test]
fn proportional_epochs_end_together() {
    let sizes = [1000, 3, 317, 80];
    let order = order(9, 28, &sizes, Sampler::Proportional);
    assert_eq!(order.cursors(1400 / 28), sizes);
    assert_eq!(order.cursors(14_000 / 28), sizes.map(|n| 10 * n));
}

/// A task's order depends on the seed and its own name only: not on batch size or other tasks.
#[test]
fn order_of_a_task_is_its_own() {
    let draws = |order: &Order, task: u16| -> Vec<u32> {
        let all = (0..200).flat_map(|step| order.batch(step).samples);
        all.filter(|s| s.task == task)
            .map(|s| s.sample)
            .take(250)
            .collect()
    };
    let alone = order(5, 8, &[100], Sampler::Uniform);
    let among = order(5, 31, &[100, 40, 900], Sampler::Proportional);
    assert_eq!(draws(&alone, 0), draws(&among, 0));
    assert_ne!(
        draws(&alone, 0),
        draws(&order(6, 8, &[100], Sampler::Uniform), 0)
    );
    let (first, second) = (
        draws(&alone, 0)[..100].to_vec(),
        draws(&alone, 0)[100..200].to_vec(),
    );
    assert_ne!(first, second, "each epoch has an order of its own");
}

/// The order is part of the promise that old checkpoints resume: it may not change unnoticed.
#[test]
fn order_is_frozen() {
    let order = order(42, 6, &[10, 5], Sampler::Temperature(2.0));
    let batch: Vec<(u16, u32, u32)> = order
        .batch(2)
        .samples
        .iter()
        .map(|s| (s.task, s.sample, s.epoch))
        .collect();
    assert_eq!(order.cursors(2), [7, 5]);
    assert_eq!(batch, FROZEN);
}

const FROZEN: [(u16, u32, u32); 6] = [
    (0, 2, 0),
    (0, 8, 0),
    (0, 1, 0),
    (0, 1, 1),
    (1, 3, 1),
    (1, 0, 1),
];

/// The number of steps: given, or a pass over all samples, rounded up.
#[test]
fn steps_of_a_job() {
    let spec = |steps, epochs| TrainingSpec {
        steps,
        epochs,
        batch_size: 32,
        ..TrainingSpec::default()
    };
    assert_eq!(total_steps(&spec(Some(7), Some(3.0)), 1000), 7);
    assert_eq!(total_steps(&spec(None, None), 1000), 32);
    assert_eq!(total_steps(&spec(None, Some(3.0)), 1000), 94);
    assert_eq!(total_steps(&spec(None, Some(0.5)), 1000), 16);
    assert_eq!(total_steps(&spec(None, None), 1), 1);
}

/// Tasks that share inputs are one to the sampler: samples are drawn for the one that leads, and
/// count for all of them.
#[test]
fn a_group_is_drawn_as_one() {
    let names = ["a", "b", "c"];
    let tasks = names.map(|name| OrderTask {
        name,
        samples: 40,
        target: None,
    });
    let spec = |name: &str, group: Option<&str>| {
        let task = serde_json::json!({
            "name": name, "head": "regression", "data": {"train": "x.csv"}, "input_group": group,
        });
        serde_json::from_value::<espalier_spec::job::TaskSpec>(task).unwrap()
    };
    let group = Some("x");
    let groups = InputGroups::of(&[spec("a", group), spec("b", None), spec("c", group)]);
    let order = Order::of_groups(1, (10, STEPS), &tasks, groups, &Sampler::Proportional);
    assert_eq!(order.samples(), 80);
    assert_eq!([0, 1, 2].map(|task| order.share(task)), [0.5; 3]);
    let batch = order.batch(3);
    assert_eq!(batch.counts(3), [5, 5, 0]);
    assert_eq!(order.counts(&batch), [5, 5, 5]);
    // What a task draws does not depend on who else labels it.
    let alone = Order::new(1, (10, STEPS), &tasks[..2], &Sampler::Proportional);
    assert_eq!(alone.batch(3).samples, batch.samples);
}

/// With every sample of a task that has a target goes one of the target, each as often as the others,
/// in an order that is a function of the step alone; other tasks' draws do not change.
#[test]
fn a_target_is_drawn_beside_its_samples() {
    let task = |name, samples, target| OrderTask {
        name,
        samples,
        target,
    };
    let tasks = [task("a", 40, Some(12)), task("b", 20, None)];
    let order = Order::new(5, (9, STEPS), &tasks, &Sampler::Proportional);
    let plain = tasks.map(|task| OrderTask {
        target: None,
        ..task
    });
    let plain = Order::new(5, (9, STEPS), &plain, &Sampler::Proportional);
    let mut seen = BTreeMap::new();
    for step in 0..10 {
        let batch = order.batch(step);
        assert_eq!(batch, order.batch(step));
        assert_eq!(batch.samples, plain.batch(step).samples);
        assert!(plain.batch(step).targets.is_empty());
        assert_eq!(batch.samples.len(), batch.targets.len());
        for (at, target) in batch.samples.iter().zip(&batch.targets) {
            assert_eq!(target.is_some(), at.task == 0);
            if let Some(target) = target {
                assert!(target.target && target.task == 0 && !at.target);
                *seen.entry(target.sample).or_insert(0) += 1;
            }
        }
    }
    // 60 draws of 12.
    assert_eq!(seen.into_values().collect::<Vec<_>>(), [5; 12]);
    let target = order.batch(0).targets[0].unwrap();
    let source = SampleRef {
        target: false,
        ..target
    };
    assert_ne!(order.draw_key(target), order.draw_key(source));
}

// Promise: a target that is read as a whole is read once, in an order of the seed and the task's name.
#[test]
fn a_whole_is_shuffled() {
    let order = shuffled(300, 5, "a");
    assert_eq!(order, shuffled(300, 5, "a"));
    assert_ne!(order, shuffled(300, 6, "a"));
    assert_ne!(order, shuffled(300, 5, "b"));
    let mut all = order.clone();
    all.sort_unstable();
    assert_eq!(all, (0..300).collect::<Vec<_>>());
    let early = order[..150].iter().filter(|place| **place < 150).count();
    assert!((50..100).contains(&early), "{early}");
    assert!(shuffled(0, 5, "a").is_empty());
}
