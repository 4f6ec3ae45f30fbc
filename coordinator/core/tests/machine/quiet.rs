//! What most events of a large cluster skip: a look at every worker and every job.

use crate::kit::{Bench, ranks, running, worker};
use espalier_core::{ConnId, Event, WorkerState};

fn beat(bench: &mut Bench, conn: ConnId, with: &[espalier_core::RunningJob]) {
    let running = with.to_vec();
    bench.step(Event::Heartbeat { conn, running });
    // What the shell goes by comes never too late.
    let (tick, deadline) = (
        bench.machine.next_tick().unwrap(),
        bench.machine.next_deadline().unwrap(),
    );
    assert!(tick <= deadline, "{tick:?} is after {deadline:?}");
}

#[test]
fn heartbeats_of_the_healthy_hide_nobody_elses_silence() {
    // Promise: a worker that falls silent is found on time, though only others' heartbeats come.
    let mut bench = Bench::new();
    let (a, b) = (bench.join("a", 1), bench.join("b", 1));
    bench.create(&ranks("x", 2));
    bench.prepared(a, "x", 1, &[0]);
    bench.prepared(b, "x", 1, &[1]);
    let runs = [running(&bench, "x", 1, &[1])];
    let state = |bench: &Bench| bench.machine.worker(&worker("a")).unwrap().state;
    for _ in 0..5 {
        bench.now += 500;
        beat(&mut bench, b, &runs);
        assert_eq!(state(&bench), WorkerState::Ready);
    }
    bench.now += 500;
    beat(&mut bench, b, &runs);
    assert_eq!(state(&bench), WorkerState::Unreachable);
    // Its own heartbeat brings it back, and the queue moves: that is no event to skip.
    let runs = [running(&bench, "x", 1, &[0])];
    beat(&mut bench, a, &runs);
    assert_eq!(state(&bench), WorkerState::Ready);
}

#[test]
fn a_stream_that_was_replaced_speaks_for_nobody() {
    // Promise: a worker is found by its newest stream alone, before and after the old one's end is heard of.
    let mut bench = Bench::new();
    let old = bench.join("a", 1);
    bench.now += 100;
    let new = bench.join("a", 1);
    bench.now += 100;
    let heard = |bench: &Bench| bench.machine.worker(&worker("a")).unwrap().heartbeat_time;
    let before = heard(&bench);
    beat(&mut bench, old, &[]);
    assert_eq!(heard(&bench), before);
    bench.step(Event::WorkerDisconnected { conn: old });
    beat(&mut bench, new, &[]);
    assert_eq!(heard(&bench).0, bench.now);
}
