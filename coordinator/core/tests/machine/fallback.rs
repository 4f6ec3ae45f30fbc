//! Checkpoints that can't be used: ranks go on from another one than they were told, and say so.

use crate::kit::{Bench, failure, orders, ranks};
use espalier_core::{ConnId, Detail, Outcome};
use espalier_spec::Step;
use espalier_spec::recovery::Source;

/// A job of two ranks on workers a and b has these checkpoints and has done 9 steps; its second
/// generation is told to go on from the newest of them.
fn told_to_resume(checkpoints: &[u64]) -> (Bench, [ConnId; 2]) {
    let mut bench = Bench::new();
    let conns = [bench.join("a", 1), bench.join("b", 1)];
    let [a, b] = conns;
    bench.create(&ranks("x", 2));
    bench.prepared(a, "x", 1, &[0]);
    bench.prepared(b, "x", 1, &[1]);
    bench.trains(a, "x", 1, 1);
    for step in checkpoints {
        bench.checkpoint(a, "x", 1, *step);
    }
    bench.progress(a, "x", 1, 9);
    let started = again(&mut bench, conns, 1, &[]);
    let newest = checkpoints.last().unwrap();
    assert_eq!(started, format!("start x g2 from {newest} -> {}", a.0));
    (bench, conns)
}

/// The generation fails, and the next one is prepared by workers that hold parts of these steps.
fn again(bench: &mut Bench, conns: [ConnId; 2], generation: u64, held: &[u64]) -> String {
    let [a, b] = conns;
    bench.stopped(a, "x", generation, failure("nan_loss", true));
    bench.stopped(b, "x", generation, Outcome::Ordered);
    let parts = |rank: u32| -> Vec<(u32, u64)> { held.iter().map(|step| (rank, *step)).collect() };
    bench.prepared_with(a, "x", generation + 1, &[0], &parts(0));
    let after = bench.prepared_with(b, "x", generation + 1, &[1], &parts(1));
    orders(&after)[0].clone()
}

fn messages(bench: &Bench) -> Vec<String> {
    let events = bench.machine.events(&"x".into(), 0).unwrap();
    events.iter().map(|event| event.message.clone()).collect()
}

#[test]
fn a_damaged_checkpoint_costs_what_the_account_says() {
    // Promise: where ranks really went on is in the account, with the steps and samples that were done
    // again for it, is told in an event, outlives the coordinator, and is what the next one goes by: a
    // snapshot that is newer than the checkpoint that can be used is gone on from.
    let (mut bench, conns) = told_to_resume(&[5, 7]);
    bench.trains(conns[0], "x", 2, 6);
    let job = bench.job("x");
    let recovery = job.recoveries[0].clone();
    assert_eq!(
        (recovery.source, recovery.reached, recovery.from),
        (Source::Checkpoint, Step(9), Step(5))
    );
    assert_eq!(
        (recovery.replayed_steps(), recovery.replayed_samples),
        (4, 128)
    );
    let checkpoint = job.checkpoint.unwrap();
    assert_eq!(
        (checkpoint.step, checkpoint.path.as_str()),
        (Step(5), "step-5")
    );
    let told = "the checkpoint of step 7 could not be used: went on from step 5";
    let number = |bench: &Bench| messages(bench).iter().filter(|m| *m == told).count();
    assert_eq!(number(&bench), 1);
    bench.trains(conns[0], "x", 2, 6);
    assert_eq!(number(&bench), 1, "it is told once");
    let events = bench.machine.events(&"x".into(), 0).unwrap();
    let recovered = events.iter().find_map(|event| match &event.detail {
        Some(Detail::Recovery(recovery)) => Some(recovery.from),
        _ => None,
    });
    assert_eq!(recovered, Some(Step(5)));
    let kept = bench.replayed(0).job(&"x".into()).unwrap();
    assert_eq!(kept.recoveries, bench.job("x").recoveries);
    assert_eq!(kept.checkpoint, bench.job("x").checkpoint);
    let started = again(&mut bench, conns, 2, &[6]);
    let expected = format!("start x g3 from memory 6 of [0, 1] -> {}", conns[0].0);
    assert_eq!(started, expected);
}

#[test]
fn a_checkpoint_that_nobody_told_of_counts_once_ranks_went_on_from_it() {
    // Promise: a checkpoint whose writer was lost before it could say so, and that took the place of
    // the one that is known, is the job's from then on; older snapshots are none to go on from.
    let (mut bench, conns) = told_to_resume(&[5]);
    bench.trains(conns[0], "x", 2, 11);
    let job = bench.job("x");
    let recovery = job.recoveries[0].clone();
    assert_eq!((recovery.reached, recovery.from), (Step(10), Step(10)));
    assert_eq!(recovery.replayed_samples, 0);
    let checkpoint = job.checkpoint.unwrap();
    assert_eq!(
        (checkpoint.step, checkpoint.path.as_str()),
        (Step(10), "step-10")
    );
    let told = "told to go on from step 5, its ranks went on from step 10";
    assert!(messages(&bench).iter().any(|message| message == told));
    let started = again(&mut bench, conns, 2, &[8]);
    assert_eq!(started, format!("start x g3 from 10 -> {}", conns[0].0));
}

#[test]
fn ranks_that_go_on_where_they_were_told_change_nothing() {
    // Promise: the usual way leaves the account as it was opened.
    let (mut bench, conns) = told_to_resume(&[5, 7]);
    let before = bench.job("x");
    bench.trains(conns[0], "x", 2, 8);
    let job = bench.job("x");
    assert_eq!(job.checkpoint, before.checkpoint);
    assert_eq!(job.recoveries[0].from, before.recoveries[0].from);
    assert!(!messages(&bench).iter().any(|m| m.contains("went on from")));
}
