//! Workers that hold a job's snapshots: they keep ranks of it, whoever else has room.

use crate::kit::{Bench, failure, lost, orders, ranks, worker};
use espalier_core::{Command, ConnId, Event, JobState, Outcome};

/// Workers of one device each; a job of so many ranks trains on the first ones.
fn trains(names: &[&str], on: u32) -> (Bench, Vec<ConnId>) {
    let mut bench = Bench::new();
    let conns: Vec<ConnId> = names.iter().map(|name| bench.join(name, 1)).collect();
    bench.create(&ranks("x", on));
    for (rank, conn) in (0..on).zip(&conns) {
        bench.prepared(*conn, "x", 1, &[rank]);
    }
    assert_eq!(bench.state("x"), JobState::Running);
    bench.trains(conns[0], "x", 1, 1);
    bench.progress(conns[0], "x", 1, 7);
    (bench, conns)
}

fn drain(bench: &mut Bench, name: &str) -> Vec<String> {
    let name = worker(name);
    let (answer, after) = bench.request(|reply| Event::DrainWorker { name, reply });
    answer.unwrap();
    orders(&after)
}

/// All of these stop as they were told; what follows from the last one.
fn all_stop(bench: &mut Bench, conns: &[ConnId], generation: u64) -> Vec<String> {
    let mut after: Vec<Command> = Vec::new();
    for conn in conns {
        after = bench.stopped(*conn, "x", generation, Outcome::Ordered);
    }
    orders(&after)
}

fn prepare(generation: u64, conns: &[ConnId]) -> Vec<String> {
    let order = |conn: &ConnId| format!("prepare x g{generation} -> {}", conn.0);
    conns.iter().map(order).collect()
}

fn stop(generation: u64, mode: &str, conns: &[ConnId]) -> Vec<String> {
    let order = |conn: &ConnId| format!("stop x g{generation} {mode} -> {}", conn.0);
    conns.iter().map(order).collect()
}

#[test]
fn who_holds_a_snapshot_is_not_left_for_a_tighter_fit() {
    // Promise: a worker that is alone left with a snapshot keeps ranks, though another one could host
    // all of them: after a loss and after a drain, whether that other one has loaded the job or not.
    for (drained, spare) in [(false, false), (false, true), (true, false), (true, true)] {
        let (mut bench, conns) = trains(&["a", "b"], 2);
        let (a, b) = (conns[0], conns[1]);
        let e = bench.join("e", 2);
        if spare {
            bench.prepared(e, "x", 1, &[]);
        }
        let after = if drained {
            assert_eq!(drain(&mut bench, "a"), stop(1, "Handover", &conns));
            all_stop(&mut bench, &conns, 1)
        } else {
            bench.step(Event::WorkerDisconnected { conn: a });
            orders(&bench.stopped(b, "x", 1, lost(0)))
        };
        assert_eq!(after, prepare(2, &[b, e]));
        bench.prepared_with(b, "x", 2, &[0], &[(0, 6), (1, 6)]);
        let after = bench.prepared(e, "x", 2, &[1]);
        let start = format!("start x g2 from memory 6 of [0, 0] -> {}", b.0);
        assert_eq!(orders(&after)[0], start);
    }
}

#[test]
fn every_former_worker_keeps_a_rank() {
    // Promise: a former worker with room for all ranks does not push out another one, which may hold
    // what it does not; what these leave over goes to its further devices before it goes to others.
    let mut bench = Bench::new();
    let (a, b) = (bench.join("a", 1), bench.join("b", 4));
    let c = bench.join("c", 1);
    bench.create(&ranks("y", 2));
    bench.create(&ranks("x", 4));
    bench.prepared(a, "x", 1, &[0]);
    bench.prepared(b, "x", 1, &[1, 2]);
    bench.prepared(c, "x", 1, &[3]);
    assert_eq!(bench.state("x"), JobState::Running);
    bench.trains(a, "x", 1, 1);
    bench.stopped(b, "y", 1, failure("bad_data", false));
    bench.join("e", 1);
    assert_eq!(drain(&mut bench, "c"), stop(1, "Handover", &[a, b, c]));
    assert_eq!(all_stop(&mut bench, &[a, b, c], 1), prepare(2, &[a, b]));
    bench.prepared(a, "x", 2, &[0]);
    bench.prepared(b, "x", 2, &[1, 2, 3]);
    assert_eq!(bench.state("x"), JobState::Running);
}

#[test]
fn a_generation_that_was_only_prepared_holds_nothing() {
    // Promise: if the next generation does not come to train, the one after it is placed by who hosted
    // the last one that did, as soon as these take work again.
    let (mut bench, conns) = trains(&["a", "b", "c"], 2);
    let [a, b, c] = conns[..] else { panic!() };
    drain(&mut bench, "b");
    assert_eq!(all_stop(&mut bench, &[a, b], 1), prepare(2, &[a, c]));
    let name = worker("b");
    let undrain = bench.request(|reply| Event::UndrainWorker { name, reply });
    undrain.0.unwrap();
    let after = bench.stopped(c, "x", 2, failure("fetch", true));
    assert_eq!(orders(&after), stop(2, "Abort", &[a]));
    assert_eq!(all_stop(&mut bench, &[a], 2), prepare(3, &[a, b]));
}
