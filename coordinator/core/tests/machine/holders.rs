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

#[test]
fn draining_all_that_hold_a_snapshot_asks_for_a_checkpoint() {
    // Promise: a second worker that is drained while its job hands over for the first one does not take
    // with it what the first one leaves: ranks that have not stopped write a checkpoint instead. If the
    // snapshot outlives both, nothing changes.
    let (mut bench, conns) = trains(&["a", "b", "c", "d"], 2);
    let [a, b, c, d] = conns[..] else { panic!() };
    assert_eq!(drain(&mut bench, "a"), stop(1, "Handover", &[a, b]));
    assert_eq!(drain(&mut bench, "b"), stop(1, "Checkpoint", &[a, b]));
    bench.checkpoint(a, "x", 1, 8);
    assert_eq!(all_stop(&mut bench, &[a, b], 1), prepare(2, &[c, d]));
    bench.prepared(c, "x", 2, &[0]);
    let after = bench.prepared(d, "x", 2, &[1]);
    assert_eq!(orders(&after)[0], format!("start x g2 from 8 -> {}", c.0));

    let (mut bench, conns) = trains(&["a", "b", "c", "d", "e", "f"], 4);
    assert_eq!(drain(&mut bench, "a"), stop(1, "Handover", &conns[..4]));
    assert!(drain(&mut bench, "c").is_empty(), "b and d hold all parts");
    let after = drain(&mut bench, "b");
    assert_eq!(after, stop(1, "Checkpoint", &conns[..4]));
}

#[test]
fn ranks_that_have_agreed_on_a_snapshot_are_not_asked_for_a_checkpoint() {
    // Promise: once a worker's ranks have stopped no checkpoint can be written any more, and none is
    // asked for.
    let (mut bench, conns) = trains(&["a", "b", "c", "d"], 2);
    assert_eq!(drain(&mut bench, "a"), stop(1, "Handover", &conns[..2]));
    bench.stopped(conns[0], "x", 1, Outcome::Ordered);
    assert!(drain(&mut bench, "b").is_empty());
    let after = all_stop(&mut bench, &conns[1..2], 1);
    assert_eq!(after, prepare(2, &conns[2..]));
}

#[test]
fn a_worker_that_is_drained_while_it_prepares_first_gives_away_what_it_holds() {
    // Promise: a generation that is prepared on the only worker that is left with a snapshot starts
    // there, though that one drains by then, and hands over at once; one that is prepared on a worker
    // that holds nothing yet is stopped.
    let moved = || {
        let (mut bench, conns) = trains(&["a", "b", "c", "d"], 2);
        let [a, b, c, _] = conns[..] else { panic!() };
        drain(&mut bench, "a");
        assert_eq!(all_stop(&mut bench, &[a, b], 1), prepare(2, &[b, c]));
        (bench, conns)
    };
    let (mut bench, conns) = moved();
    let [_, b, c, d] = conns[..] else { panic!() };
    assert!(drain(&mut bench, "b").is_empty());
    bench.prepared_with(b, "x", 2, &[0], &[(0, 8), (1, 8)]);
    let after = bench.prepared(c, "x", 2, &[1]);
    let start = |conn: ConnId| format!("start x g2 from memory 8 of [0, 0] -> {}", conn.0);
    let mut expected = vec![start(b), start(c)];
    expected.extend(stop(2, "Handover", &[b, c]));
    assert_eq!(orders(&after), expected);
    assert_eq!(all_stop(&mut bench, &[b, c], 2), prepare(3, &[c, d]));
    bench.prepared_with(c, "x", 3, &[0], &[(0, 9), (1, 9)]);
    let after = bench.prepared(d, "x", 3, &[1]);
    let start = format!("start x g3 from memory 9 of [0, 0] -> {}", c.0);
    assert_eq!(orders(&after)[0], start);

    let (mut bench, conns) = moved();
    let after = drain(&mut bench, "c");
    assert_eq!(after, stop(2, "Abort", &conns[1..3]));
    let after = all_stop(&mut bench, &conns[1..3], 2);
    assert_eq!(after, prepare(3, &[conns[1], conns[3]]));
}
