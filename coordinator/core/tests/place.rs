//! Properties of placement over random problems.

use espalier_core::invariants::slices_tile;
use espalier_core::place::{GRAIN, Problem, SNAP, TINY, owned, place, work};
use espalier_spec::plan::{BlockProfile, Profile, Seat, TaskProfile};
use espalier_spec::{Generation, Rank};
use proptest::prelude::*;

fn seats(world: u32) -> Vec<Seat> {
    (0..world)
        .map(|r| Seat {
            rank: Rank(r),
            worker: "w".into(),
            device: r,
        })
        .collect()
}

fn profile(costs: &[(f64, f64)], sizes: &[u64]) -> Profile {
    let task = |(k, (share, sample_cost)): (usize, &(f64, f64))| TaskProfile {
        name: format!("t{k}"),
        train_samples: 10,
        share: *share,
        sample_cost: *sample_cost,
    };
    let block = |(b, trainable): (usize, &u64)| BlockProfile {
        name: format!("b{b}"),
        trainable: *trainable,
        total: trainable + 5,
    };
    Profile {
        blocks: sizes.iter().enumerate().map(block).collect(),
        tasks: costs.iter().enumerate().map(task).collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plans_are_whole_balanced_and_repeatable(
        world in 1_u32..9,
        shards in 1_u32..17,
        costs in prop::collection::vec((0.0..1.0_f64, 0.0..200.0_f64), 1..20),
        sizes in prop::collection::vec(prop_oneof![Just(0), 0..500_u64, 500..5_000_000_u64], 1..20),
    ) {
        // Promise: slices tile, every task is computed, loads sum to 1 and are even, few tasks are
        // split, and the same problem has the same plan.
        let profile = profile(&costs, &sizes);
        let mut problem = Problem {
            job: "x".into(), generation: Generation(3), seats: seats(world), shards,
            profile: &profile, previous: None,
        };
        let plan = place(&problem);
        prop_assert_eq!(&plan, &place(&problem));
        prop_assert!(slices_tile(&plan).is_empty());
        problem.previous = Some(&plan);
        let again = place(&problem);
        prop_assert_eq!((&again.tasks, &again.blocks, &again.shards), (&plan.tasks, &plan.blocks, &plan.shards));

        for (block, size) in plan.blocks.iter().zip(&sizes) {
            prop_assert_eq!(block.ends.last().copied().unwrap_or(0), *size);
            if let Some((_, inner)) = block.ends.split_last() {
                let cut = |end: &u64| end.is_multiple_of(GRAIN) || *end == *size;
                prop_assert!(inner.iter().all(cut), "{:?}", block.ends);
            }
        }
        let numbers = owned(&plan);
        let spread = numbers.iter().max().unwrap() - numbers.iter().min().unwrap();
        let slack = (GRAIN + TINY * u64::from(world)) * sizes.len() as u64;
        prop_assert!(spread <= slack, "{numbers:?}");

        let per_shard: Vec<f64> = (0..shards).map(|s| {
            let loads = plan.tasks.iter().flat_map(|t| t.shards.iter().zip(&t.load));
            loads.filter(|(shard, _)| shard.0 == s).map(|(_, load)| load).sum()
        }).collect();
        let even = 1.0 / f64::from(shards);
        let tolerance = 2.0 * even / SNAP as f64 + 1e-9;
        prop_assert!(per_shard.iter().all(|load| (load - even).abs() <= tolerance), "{per_shard:?}");
        prop_assert!((work(&plan).iter().sum::<f64>() - 1.0).abs() < 1e-9);
        let pieces: usize = plan.tasks.iter().map(|task| task.shards.len()).sum();
        prop_assert!(pieces < plan.tasks.len() + shards as usize);
    }
}

#[test]
fn reasons_are_sentences_for_people() {
    // Promise: a plan says who shares which task, how even the work is and who owns how much.
    let profile = profile(
        &[(0.41, 10.0), (0.39, 10.0), (0.2, 10.0)],
        &[8_000_000, 2_600_000, 0],
    );
    let plan = place(&Problem {
        job: "x".into(),
        generation: Generation(1),
        seats: seats(2),
        shards: 2,
        profile: &profile,
        previous: None,
    });
    assert_eq!(
        plan.reasons,
        [
            "t1 (39 % of the predicted work) is shared by rank 0 and rank 1",
            "t0 (41 % of the predicted work) stays on rank 0",
            "t2 (20 % of the predicted work) stays on rank 1",
            "each rank does 50.0 % of it all",
            "each rank owns 5.3 M of 10.6 M trainable numbers",
            "1 block is frozen (5 numbers): nobody owns it",
        ]
    );
}
