//! Properties of placement over random problems.

use espalier_core::invariants::slices_tile;
use espalier_core::place::{EVEN, GRAIN, Problem, SNAP, SNAP_APART, TINY, owned, place, work};
use espalier_spec::balancer::{BalancerSpec, Method};
use espalier_spec::plan::{BlockProfile, Profile, Seat, TaskProfile};
use espalier_spec::{Generation, JobSpec, Rank};
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

/// A job with so many tasks and this balancer.
fn spec(tasks: usize, method: Method) -> JobSpec {
    let task = |k: usize| {
        serde_json::json!({
            "name": format!("t{k}"), "head": "single_label", "data": { "train": "t.csv" }
        })
    };
    let mut spec: JobSpec = serde_json::from_value(serde_json::json!({
        "name": "x",
        "backbone": { "path": "m" },
        "tasks": (0..tasks).map(task).collect::<Vec<_>>(),
    }))
    .expect("a job");
    spec.balancer = BalancerSpec::of(method);
    spec
}

fn problem<'a>(world: u32, shards: u32, spec: &'a JobSpec, profile: &'a Profile) -> Problem<'a> {
    Problem {
        job: "x".into(),
        generation: Generation(3),
        seats: seats(world),
        shards,
        spec,
        profile,
        previous: None,
        measured: None,
    }
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
        fetched: String::new(),
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
        method in prop::sample::select(vec![Method::Mean, Method::Upgrad]),
    ) {
        // Promise: slices tile, every task is computed, loads sum to 1 and are even, few tasks are
        // split, and the same problem has the same plan.
        let profile = profile(&costs, &sizes);
        let spec = spec(costs.len(), method);
        let mut problem = problem(world, shards, &spec, &profile);
        let plan = place(&problem);
        prop_assert_eq!(&plan, &place(&problem));
        prop_assert!(slices_tile(&plan).is_empty());
        problem.previous = Some(&plan);
        let again = place(&problem);
        prop_assert_eq!((&again.tasks, &again.blocks, &again.shards), (&plan.tasks, &plan.blocks, &plan.shards));
        prop_assert_eq!(again.exchange, plan.exchange);

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
        // Either both ends of a piece were moved to boundaries, or whole tasks were dealt.
        let apart = method == Method::Upgrad && costs.len() > 1;
        let moved = 2.0 / if apart { SNAP_APART } else { SNAP } as f64;
        let tolerance = even * moved.max(if apart { 1.0 / EVEN as f64 } else { 0.0 }) + 1e-9;
        prop_assert!(per_shard.iter().all(|load| (load - even).abs() <= tolerance), "{per_shard:?}");
        prop_assert!((work(&plan).iter().sum::<f64>() - 1.0).abs() < 1e-9);
        let pieces: usize = plan.tasks.iter().map(|task| task.shards.len()).sum();
        prop_assert!(pieces < plan.tasks.len() + shards as usize);
    }
}

#[test]
fn reasons_are_sentences_for_people() {
    // Promise: a plan says who shares which task, how even the work is, how gradients travel and
    // who owns how much.
    let profile = profile(
        &[(0.41, 10.0), (0.39, 10.0), (0.2, 10.0)],
        &[8_000_000, 2_600_000, 0],
    );
    let spec = spec(3, Method::Mean);
    let plan = place(&problem(2, 2, &spec, &profile));
    assert_eq!(
        plan.reasons,
        [
            "t1 (39 % of the predicted work) is shared by rank 0 and rank 1",
            "t0 (41 % of the predicted work) stays on rank 0",
            "t2 (20 % of the predicted work) stays on rank 1",
            "each rank does 50.0 % of it all",
            "owners combine the gradients and alone keep the optimizer's state",
            "a rank's tasks share one gradient, as mean needs no more",
            "each rank owns 5.3 M of 10.6 M trainable numbers",
            "1 block is frozen (5 numbers): nobody owns it",
        ]
    );
}

#[test]
fn whole_tasks_are_dealt_where_a_split_costs() {
    // Promise: where gradients travel apart, tasks that fit whole within 5 % of even are not
    // split, and the plan says so; where they do not travel apart, or don't fit, they are.
    let costs = [(0.31, 1.0), (0.29, 1.0), (0.21, 1.0), (0.19, 1.0)];
    let profile_fits = profile(&costs, &[1_000_000]);
    let (upgrad, mean) = (spec(4, Method::Upgrad), spec(4, Method::Mean));
    let shards = |plan: &espalier_spec::Plan| -> Vec<Vec<u32>> {
        let of =
            |task: &espalier_spec::plan::TaskPlacement| task.shards.iter().map(|s| s.0).collect();
        plan.tasks.iter().map(of).collect()
    };
    let plan = place(&problem(2, 2, &upgrad, &profile_fits));
    assert_eq!(shards(&plan), [vec![0], vec![1], vec![1], vec![0]]);
    assert!(plan.exchange.apart);
    assert_eq!(
        plan.reasons[4..8],
        [
            "tasks stay whole, since a split one would send a gradient more",
            "each rank does 50.0 % of it all",
            "owners combine the gradients and alone keep the optimizer's state",
            "task gradients travel apart, since upgrad needs them: each rank sends 2 gradients a step",
        ]
    );
    let plan = place(&problem(2, 2, &mean, &profile_fits));
    assert_eq!(shards(&plan), [vec![0], vec![0, 1], vec![1], vec![1]]);
    let uneven = profile(
        &[(0.7, 1.0), (0.1, 1.0), (0.1, 1.0), (0.1, 1.0)],
        &[1_000_000],
    );
    let plan = place(&problem(2, 2, &upgrad, &uneven));
    assert_eq!(shards(&plan), [vec![0, 1], vec![1], vec![1], vec![1]]);
}

#[test]
fn a_cut_snaps_further_where_a_split_costs() {
    // Promise: a boundary between tasks 4 % of a piece away is taken where gradients travel apart.
    let profile = profile(&[(0.48, 1.0), (0.52, 1.0)], &[1_000_000]);
    let pieces = |method| {
        let spec = spec(2, method);
        let plan = place(&problem(2, 2, &spec, &profile));
        plan.tasks.iter().map(|t| t.shards.len()).sum::<usize>()
    };
    assert_eq!(pieces(Method::Upgrad), 2);
    assert_eq!(pieces(Method::Mean), 3);
}

#[test]
fn measured_costs_are_told_and_not_planned_by() {
    // Promise: times differ from run to run; they are in the reasons and never move a task.
    let profile = profile(&[(0.5, 10.0), (0.5, 10.0)], &[1_000_000]);
    let spec = spec(2, Method::Mean);
    let mut problem = problem(2, 2, &spec, &profile);
    let plan = place(&problem);
    let measured = [("t0".to_owned(), 3.0), ("t1".to_owned(), 1.0)].into();
    problem.measured = Some(&measured);
    let again = place(&problem);
    assert_eq!(again.tasks, plan.tasks);
    let told = "by measured cost the ranks did between 25.0 % and 75.0 %; tasks stay where they are, \
                so that the result keeps its bits";
    assert!(
        again.reasons.iter().any(|reason| reason == told),
        "{:?}",
        again.reasons
    );
    let partly = [("t0".to_owned(), 3.0)].into();
    problem.measured = Some(&partly);
    assert_eq!(place(&problem).reasons, plan.reasons);
}

#[test]
fn tasks_that_share_inputs_stay_together() {
    // Promise: an input group is cut as one task, so that one forward pass can serve all its tasks.
    let profile = profile(
        &[(0.5, 10.0), (0.5, 10.0), (0.5, 10.0), (0.5, 10.0)],
        &[8_000_000],
    );
    for method in [Method::Mean, Method::Upgrad] {
        let mut spec = spec(4, method);
        for task in [0, 2, 3] {
            spec.tasks[task].input_group = Some("texts".to_owned());
        }
        let plan = place(&problem(2, 2, &spec, &profile));
        let shards = |task: usize| plan.tasks[task].shards.clone();
        assert_eq!([shards(2), shards(3)], [shards(0), shards(0)]);
        assert_ne!(shards(1), shards(0));
        assert_eq!(work(&plan), [0.5, 0.5]);
        spec.tasks[1].input_group = Some("texts".to_owned());
        let plan = place(&problem(2, 2, &spec, &profile));
        assert!(plan.tasks.iter().all(|task| task.shards.len() == 2));
        assert!((work(&plan).iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }
}

#[test]
fn workers_change_nothing_of_a_plan() {
    // Promise: who computes and owns what is a function of the number of ranks, the job and its
    // profile; where ranks sit, where they sat and what they measured is only told.
    let profile = profile(
        &[(0.41, 10.0), (0.39, 12.0), (0.2, 7.0)],
        &[8_000_000, 2_600_000, 40],
    );
    for method in [Method::Mean, Method::Upgrad] {
        let spec = spec(3, method);
        let first = place(&problem(4, 4, &spec, &profile));
        let measured = [("t0", 3.0), ("t1", 1.0), ("t2", 9.0)];
        let measured = measured.map(|(task, cost)| (task.to_owned(), cost)).into();
        for workers in 1..=4 {
            let mut problem = problem(4, 4, &spec, &profile);
            for seat in &mut problem.seats {
                seat.worker = format!("w{}", seat.rank.0 * workers / 4).as_str().into();
                seat.device = 0;
            }
            problem.previous = Some(&first);
            problem.measured = Some(&measured);
            let plan = place(&problem);
            let rest = |plan: &espalier_spec::Plan| {
                let (tasks, blocks) = (plan.tasks.clone(), plan.blocks.clone());
                (tasks, blocks, plan.shards.clone(), plan.exchange)
            };
            assert_eq!(rest(&plan), rest(&first));
        }
    }
}
