//! What most events of a large cluster skip: a look at every worker and every job.

use crate::kit::{Bench, config, ranks, running, worker};
use espalier_core::{ConnId, Event, JobState, WorkerState};

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

#[test]
fn streams_that_break_while_preparing_are_no_restarts() {
    // Promise: a job that moves on from a worker out of sight loses no restart by that, until as many
    // workers in a row as it has restarts were lost so: then the job may be what kills them.
    let mut bench = Bench::new();
    let mut conns = [bench.join("a", 1), bench.join("b", 1)];
    bench.create(&ranks("x", 1));
    let restarts = config().max_restarts;
    let mut breaks = |bench: &mut Bench, generation: u64| {
        assert_eq!(bench.state("x"), JobState::Preparing, "{generation}");
        // The job is on one of the two, in turn.
        let at = (generation as usize + 1) % 2;
        bench.step(Event::WorkerDisconnected { conn: conns[at] });
        let events = bench.machine.events(&"x".into(), 0).unwrap();
        let mut ended = events.iter().rev().map(|event| event.message.clone());
        let ended = ended.find(|message| message.contains(" ended: ")).unwrap();
        // It comes back with nothing to stop.
        conns[at] = bench.join(["a", "b"][at], 1);
        ended
    };
    for generation in 1..=u64::from(restarts) {
        let ended = breaks(&mut bench, generation);
        assert!(ended.contains("out of sight"), "{ended}");
        assert!(!ended.contains("(restart"), "{ended}");
    }
    let ended = breaks(&mut bench, u64::from(restarts) + 1);
    assert!(ended.contains("(restart 1 of"), "{ended}");
}
