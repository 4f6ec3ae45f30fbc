use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn order(seed: u64, batch: u32, sizes: &[u64], sampler: Sampler) -> Order {
    let names: Vec<String> = (0..sizes.len()).map(|i| format!("task-{i}")).collect();
    let tasks: Vec<OrderTask<'_>> = names
        .iter()
        .zip(sizes)
        .map(|(name, samples)| OrderTask {
            name,
            samples: *samples,
        })
        .collect();
    Order::new(seed, batch, &tasks, sampler)
}

fn sizes() -> impl Strategy<Value = Vec<u64>> {
    proptest::collection::vec(prop_oneof![1_u64..20, 1_u64..500], 1..9)
}

fn samplers() -> impl Strategy<Value = Sampler> {
    prop_oneof![
        Just(Sampler::Proportional),
        Just(Sampler::Uniform),
        (1.0_f64..8.0).prop_map(Sampler::Temperature),
    ]
}

proptest! {
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
    fn epochs_are_exact(sizes in sizes(), sampler in samplers(), seed: u64) {
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
    let tasks = names.map(|name| OrderTask { name, samples: 40 });
    let spec = |name: &str, group: Option<&str>| {
        let task = serde_json::json!({
            "name": name, "head": "regression", "data": {"train": "x.csv"}, "input_group": group,
        });
        serde_json::from_value::<espalier_spec::job::TaskSpec>(task).unwrap()
    };
    let group = Some("x");
    let groups = InputGroups::of(&[spec("a", group), spec("b", None), spec("c", group)]);
    let order = Order::of_groups(1, 10, &tasks, groups, Sampler::Proportional);
    assert_eq!(order.samples(), 80);
    assert_eq!([0, 1, 2].map(|task| order.share(task)), [0.5; 3]);
    let batch = order.batch(3);
    assert_eq!(batch.counts(3), [5, 5, 0]);
    assert_eq!(order.counts(&batch), [5, 5, 5]);
    // What a task draws does not depend on who else labels it.
    let alone = Order::new(1, 10, &tasks[..2], Sampler::Proportional);
    assert_eq!(alone.batch(3).samples, batch.samples);
}
