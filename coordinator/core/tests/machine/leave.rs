//! Workers that leave since their machine is taken away, and what a job's account says of it.

use crate::kit::{Bench, VERSION, orders, ranks, running, worker};
use espalier_core::{ConnId, Event, Hello, JobState, Outcome, WorkerState};
use espalier_spec::WorkerId;
use espalier_spec::recovery::Cause;

/// A job of two ranks trains on workers a and b; c is free.
fn trains() -> (Bench, [ConnId; 3]) {
    let mut bench = Bench::new();
    let conns = [bench.join("a", 1), bench.join("b", 1), bench.join("c", 1)];
    bench.create(&ranks("x", 2));
    bench.prepared(conns[0], "x", 1, &[0]);
    bench.prepared(conns[1], "x", 1, &[1]);
    bench.trains(conns[0], "x", 1, 1);
    (bench, conns)
}

/// Worker b says, in a new stream, that its machine is about to be taken away.
fn preempted(bench: &mut Bench) -> (ConnId, Vec<String>) {
    let conn = ConnId(bench.fresh());
    let hello = Hello {
        name: worker("b"),
        version: VERSION.to_owned(),
        host: "host-b".to_owned(),
        devices: vec!["cpu".to_owned()],
        instance: "first".to_owned(),
        running: vec![running(bench, "x", 1, &[1])],
        preempted: true,
    };
    let after = bench.step(Event::WorkerConnected { conn, hello });
    (conn, orders(&after))
}

/// The next generation trains on a and c; why the one before it ended, and by whom.
fn account(bench: &mut Bench, [a, _, c]: [ConnId; 3]) -> (Cause, Option<WorkerId>) {
    bench.prepared_with(a, "x", 2, &[0], &[(0, 8), (1, 8)]);
    bench.prepared(c, "x", 2, &[1]);
    assert_eq!(bench.state("x"), JobState::Running);
    bench.trains(a, "x", 2, 9);
    let recovery = bench.job("x").recoveries[0].clone();
    assert_eq!(recovery.replayed_steps(), 0);
    (recovery.cause, recovery.worker)
}

#[test]
fn a_machine_that_is_taken_away_is_a_preemption() {
    // Promise: whether a worker's notice comes before other ranks say that they stopped, or right after
    // it, the account names that worker and a preemption, and it gets no ranks any more.
    for notice_first in [true, false] {
        let (mut bench, conns) = trains();
        let [a, _, c] = conns;
        let b = if notice_first {
            let (b, after) = preempted(&mut bench);
            assert!(after.is_empty(), "{after:?}");
            bench.stopped(a, "x", 1, Outcome::Ordered);
            b
        } else {
            bench.stopped(a, "x", 1, Outcome::Ordered);
            bench.now += 20;
            preempted(&mut bench).0
        };
        assert_eq!(bench.state("x"), JobState::Pausing);
        let after = bench.stopped(b, "x", 1, Outcome::Ordered);
        let prepare = |conn: ConnId| format!("prepare x g2 -> {}", conn.0);
        assert_eq!(orders(&after), [prepare(a), prepare(c)]);
        let shown = bench.machine.worker(&worker("b")).unwrap();
        assert_eq!(shown.state, WorkerState::Draining);
        let expected = (Cause::Preemption, Some(worker("b")));
        assert_eq!(account(&mut bench, conns), expected);
        let events = bench.machine.events(&"x".into(), 0).unwrap();
        let said = "the preemption of worker b";
        assert!(events.iter().any(|event| event.message.contains(said)));
    }
}

#[test]
fn a_preempted_worker_that_did_not_stop_in_time_is_one_still() {
    // Promise: ranks that go with its good-bye are lost to a preemption, too, and that is no restart.
    let (mut bench, conns) = trains();
    let (b, _) = preempted(&mut bench);
    let reason = "its machine is about to be taken away".to_owned();
    bench.step(Event::Goodbye { conn: b, reason });
    bench.stopped(conns[0], "x", 1, Outcome::Ordered);
    let expected = (Cause::Preemption, Some(worker("b")));
    assert_eq!(account(&mut bench, conns), expected);
    let events = bench.machine.events(&"x".into(), 0).unwrap();
    assert!(
        events
            .iter()
            .all(|event| !event.message.contains("restart"))
    );
}

#[test]
fn a_drain_stays_a_drain() {
    // Promise: a notice that comes while a job moves for an operator does not take the blame; but what
    // the job would leave behind on the two that go is asked for as a checkpoint.
    let (mut bench, [a, _, c]) = trains();
    let name = worker("a");
    let drain = bench.request(|reply| Event::DrainWorker { name, reply });
    drain.0.unwrap();
    let (b, after) = preempted(&mut bench);
    let stop = |mode: &str, conn: ConnId| format!("stop x g1 {mode} -> {}", conn.0);
    let expected = [
        stop("Handover", b),
        stop("Checkpoint", a),
        stop("Checkpoint", b),
    ];
    assert_eq!(after, expected);
    bench.checkpoint(a, "x", 1, 8);
    bench.stopped(a, "x", 1, Outcome::Ordered);
    bench.stopped(b, "x", 1, Outcome::Ordered);
    let d = bench.join("d", 1);
    bench.prepared(c, "x", 2, &[0]);
    let after = bench.prepared(d, "x", 2, &[1]);
    assert_eq!(orders(&after)[0], format!("start x g2 from 8 -> {}", c.0));
    let recovery = bench.job("x").recoveries[0].clone();
    let found = (recovery.cause, recovery.worker);
    assert_eq!(found, (Cause::Drain, Some(worker("a"))));
}
