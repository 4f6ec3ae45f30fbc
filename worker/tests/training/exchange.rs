//! The ways in which gradients may travel, and what must not depend on them.

use crate::kit::{Layout, computes_on_host, spec, train};
use espalier_spec::exchange::{ExchangeType, Sharding};
use espalier_spec::plan::{ExchangePlan, SyncPath};
use espalier_worker::engine::Sources;
use serde_json::json;

const STEPS: u64 = 6;
/// Each rank serves all tasks.
const ALL: [&[u32]; 3] = [&[0, 1], &[0, 1], &[0, 1]];
/// Rank 0 serves two tasks, rank 1 two, one is shared.
const MIXED: [&[u32]; 3] = [&[0], &[0, 1], &[1]];

fn how(sharding: Sharding, apart: bool) -> ExchangePlan {
    ExchangePlan {
        sharding,
        apart,
        ..ExchangePlan::default()
    }
}

// Promise: what each rank keeps (nothing, optimizer, parameters) changes no bit of the export, with
// task gradients apart or together; nor does the transport, nor computing activations again.
#[test]
fn sharding_and_transport_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    for (balancer, apart) in [
        ("mean", false),
        ("equal", true),
        ("upgrad", true),
        ("uw", false),
    ] {
        let job = spec(folder.path(), STEPS, |job| {
            job["balancer"] = json!(balancer)
        });
        let run = |sharding| train(&job, &Layout::new(2, &MIXED, how(sharding, apart)), STEPS);
        let optimizer = run(Sharding::Optimizer);
        optimizer.assert_same(&run(Sharding::None), &format!("{balancer}, none"));
        optimizer.assert_same(&run(Sharding::Full), &format!("{balancer}, full"));

        let mut over_tcp = Layout::new(2, &MIXED, how(Sharding::Optimizer, apart));
        over_tcp.tcp = true;
        optimizer.assert_same(&train(&job, &over_tcp, STEPS), &format!("{balancer}, tcp"));

        let again = spec(folder.path(), STEPS, |job| {
            job["balancer"] = json!(balancer);
            job["exchange"] = json!({"recompute": true});
        });
        let layout = Layout::new(2, &MIXED, how(Sharding::Full, apart));
        optimizer.assert_same(
            &train(&again, &layout, STEPS),
            &format!("{balancer}, recompute"),
        );
    }
}

// Promise: a plain all-reduce gives the same bits as owners that sum and step.
#[test]
fn all_reduce_is_owner_combine() {
    let folder = tempfile::tempdir().unwrap();
    let job = spec(folder.path(), STEPS, |_| {});
    let owners = train(
        &job,
        &Layout::new(2, &ALL, how(Sharding::Optimizer, false)),
        STEPS,
    );
    let reduce = ExchangePlan {
        sync: SyncPath::AllReduce,
        sharding: Sharding::None,
        ..ExchangePlan::default()
    };
    owners.assert_same(
        &train(&job, &Layout::new(2, &ALL, reduce), STEPS),
        "all-reduce",
    );
}

// Promise: keeping tasks apart, spreading them over ranks, and cutting the batch into parts change
// the result by rounding only.
#[test]
fn apart_is_together_to_rounding() {
    let folder = tempfile::tempdir().unwrap();
    for balancer in ["mean", "equal", "fixed", "gls"] {
        let change = |accumulation: u32| {
            spec(folder.path(), STEPS, |job| {
                job["balancer"] = json!(balancer);
                if ["mean", "fixed"].contains(&balancer) {
                    job["tasks"][1]["weight"] = json!(0.5);
                }
                job["training"]["accumulation"] = json!(accumulation);
            })
        };
        let (job, cut) = (change(1), change(2));
        let one = train(
            &job,
            &Layout::new(1, &[&[0][..]; 3], how(Sharding::Optimizer, false)),
            STEPS,
        );
        let apart = |ranks, tasks: &[&[u32]]| {
            train(
                &job,
                &Layout::new(ranks, tasks, how(Sharding::Optimizer, true)),
                STEPS,
            )
        };
        let by_rank: [&[u32]; 3] = [&[0], &[1], &[2]];
        let parts = Layout::new(2, &MIXED, how(Sharding::Optimizer, true));
        for (name, other) in [
            ("one rank", apart(1, &[&[0][..]; 3])),
            ("two ranks", apart(2, &MIXED)),
            ("a task a rank", apart(3, &by_rank)),
            ("more ranks than tasks", apart(4, &[&[0], &[1, 2], &[2, 3]])),
            ("two parts", train(&cut, &parts, STEPS)),
        ] {
            let distance = one.distance(&other);
            assert!(distance < 2e-4, "{balancer}, {name}: {distance:e}");
            for (a, b) in one.reports.iter().zip(&other.reports) {
                let (a, b) = (a.gradient_norm, b.gradient_norm);
                assert!(
                    (a - b).abs() <= 1e-3 * a,
                    "{balancer}, {name}: norms {a} and {b}"
                );
            }
        }
    }
}

// Promise: gradients that travel in 16 bits lead to about the same model, and half the bytes.
#[test]
fn half_precision_is_close() {
    let folder = tempfile::tempdir().unwrap();
    let job = spec(folder.path(), STEPS, |job| {
        job["balancer"] = json!("upgrad")
    });
    let whole = train(
        &job,
        &Layout::new(2, &MIXED, how(Sharding::Optimizer, true)),
        STEPS,
    );
    let half = ExchangePlan {
        dtype: ExchangeType::Bf16,
        ..how(Sharding::Optimizer, true)
    };
    let half = train(&job, &Layout::new(2, &MIXED, half), STEPS);
    for (a, b) in whole.reports.iter().zip(&half.reports) {
        for (a, b) in a.losses.iter().zip(&b.losses) {
            assert!(
                (a.sum - b.sum).abs() < 0.05 * a.sum.abs().max(1.0),
                "{} {}",
                a.sum,
                b.sum
            );
        }
    }
    assert!(half.sent < whole.sent);
}

// Promise: every method trains, on any layout, with finite numbers and weights that all ranks agree
// on; the same run twice gives the same bits.
#[test]
fn every_method_trains() {
    let folder = tempfile::tempdir().unwrap();
    for info in espalier_spec::balancer::METHODS {
        let class = info.class;
        if class == espalier_spec::balancer::Class::Representation {
            continue;
        }
        let job = spec(folder.path(), STEPS, |job| {
            job["balancer"] = json!(info.name);
            // Losses near 0 would make logarithms wild.
            job["training"]["optimizer"]["learning_rate"] = json!(5e-4);
        });
        let apart = class.separate_gradients();
        let layout = Layout::new(2, &MIXED, how(Sharding::Optimizer, apart));
        let one = train(&job, &layout, STEPS);
        one.assert_same(&train(&job, &layout, STEPS), info.name);
        for report in &one.reports {
            assert!(report.gradient_norm.is_finite(), "{}", info.name);
            assert_eq!(report.weights.len(), 3, "{}", info.name);
            assert!(
                report.weights.iter().all(|w| w.is_finite()),
                "{}",
                info.name
            );
            assert_eq!(report.gram.is_some(), apart, "{}", info.name);
        }
    }
}

// Promise: a run that is stopped, saved and taken up by a new set of ranks ends with the same bits,
// whatever its balancer remembers and whatever ranks keep.
#[test]
fn a_resumed_run_ends_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    for (balancer, sharding) in [
        ("moco", Sharding::Optimizer),
        ("excess_mtl", Sharding::Full),
        ("db_mtl", Sharding::None),
        ("gradvac", Sharding::Full),
        ("famo", Sharding::Full),
        ("uw", Sharding::None),
    ] {
        let job = spec(folder.path(), STEPS, |job| {
            job["balancer"] = json!(balancer);
            job["training"]["optimizer"]["learning_rate"] = json!(5e-4);
        });
        let method = job.balancer.method.info();
        let layout = Layout::new(2, &MIXED, how(sharding, method.class.separate_gradients()));
        let whole = train(&job, &layout, STEPS);
        let halves = crate::kit::train_in_halves(&job, &layout, STEPS);
        assert!(whole.model == halves.model, "{balancer}: models differ");
        assert!(whole.heads == halves.heads, "{balancer}: heads differ");
    }
}

// Promise: where ranks keep only what they own, the bits are those of ranks that keep all, however
// the passes of a step fall on ranks: in several parts, by tasks apart or together, on ranks without
// a sample, on one rank, over TCP, with a balancer that looks at the step's losses again, and with a
// word table that is not trained.
#[test]
fn full_sharding_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let none = json!({});
    let split = json!({"training": {"accumulation": 3}});
    let few = json!({"training": {"batch_size": 2}});
    let frozen = json!({"tuning": {"last_blocks": 1}});
    let by_rank: [&[u32]; 3] = [&[0], &[1], &[2]];
    let spread: [&[u32]; 3] = [&[0], &[1, 2], &[2, 3]];
    for (what, balancer, apart, change, ranks, tasks, tcp) in [
        ("in parts", "mean", false, &split, 2, &MIXED, false),
        ("in parts, apart", "upgrad", true, &split, 2, &MIXED, false),
        (
            "ranks without samples",
            "mean",
            false,
            &few,
            4,
            &spread,
            false,
        ),
        (
            "apart without samples",
            "upgrad",
            true,
            &few,
            4,
            &spread,
            true,
        ),
        ("alone", "mean", false, &none, 1, &[&[0][..]; 3], false),
        ("two batches", "sdmgrad", true, &none, 2, &MIXED, false),
        (
            "number by number",
            "grad_drop",
            true,
            &none,
            2,
            &MIXED,
            false,
        ),
        ("looking again", "famo", true, &split, 3, &by_rank, false),
        ("frozen", "upgrad", true, &frozen, 2, &MIXED, false),
    ] {
        // A rank by itself on a device steps there with one sharding and on the host with the other, which round
        // otherwise.
        if ranks == 1 && !computes_on_host() {
            continue;
        }
        let job = spec(folder.path(), STEPS, |job| {
            job["balancer"] = json!(balancer);
            for (section, fields) in change.as_object().unwrap() {
                for (field, value) in fields.as_object().unwrap() {
                    job[section][field] = value.clone();
                }
            }
        });
        let run = |sharding| {
            let mut layout = Layout::new(ranks, tasks, how(sharding, apart));
            layout.tcp = tcp;
            train(&job, &layout, STEPS)
        };
        run(Sharding::Optimizer).assert_same(&run(Sharding::Full), &format!("{what}, {balancer}"));
    }
}

// Promise: with full sharding a rank has its share of the parameters, the heads, two blocks and the
// rows of the word table that it reads: no more in any step or evaluation, and less between them.
#[test]
fn a_rank_has_its_share_and_what_it_computes() {
    let folder = tempfile::tempdir().unwrap();
    for (balancer, ranks) in [("mean", 2), ("upgrad", 3), ("famo", 2)] {
        let job = spec(folder.path(), STEPS, |job| {
            job["balancer"] = json!(balancer)
        });
        let config = folder.path().join("model/config.json");
        let mut model: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
        // Blocks and rows enough to tell a share from the whole.
        model["num_hidden_layers"] = json!(6);
        model["vocab_size"] = json!(4096);
        std::fs::write(&config, model.to_string()).unwrap();
        let width = model["hidden_size"].as_u64().unwrap();

        let apart = job.balancer.method.info().class.separate_gradients();
        let tasks = [&[0][..], &[0, 1], &[ranks - 1]];
        let outcome = train(
            &job,
            &Layout::new(ranks, &tasks, how(Sharding::Full, apart)),
            STEPS,
        );
        let profile = Sources::load(&job).unwrap().profile(&job).unwrap();
        let blocks: Vec<u64> = profile.blocks.iter().map(|block| block.total).collect();
        let heads = blocks[blocks.len() - 1];
        let largest = blocks[1..].iter().max().unwrap();
        // Slices end at whole rows or cache lines.
        let share = blocks.iter().map(|len| len / u64::from(ranks) + width);
        let share = share.sum::<u64>() + heads;
        for (rank, held) in outcome.held.iter().enumerate() {
            let what = format!("{balancer}, rank {rank} of {ranks}");
            let kept = held.training.parameter_bytes;
            assert!(kept <= 4 * share, "{what}: keeps {kept} bytes");
            // No evaluation reads more rows than the tokenizer knows words.
            for (stats, rows) in [(&held.training, held.rows), (&held.evaluating, 34)] {
                let limit = share + 2 * largest + rows as u64 * width;
                let peak = stats.peak_parameter_bytes;
                assert!(peak > kept, "{what}: nothing was ever gathered");
                assert!(peak <= 4 * limit, "{what}: {peak} of {} bytes", 4 * limit);
                assert!(limit < blocks.iter().sum(), "this shows nothing");
            }
        }
    }
}
