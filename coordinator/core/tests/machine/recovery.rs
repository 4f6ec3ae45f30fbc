//! Stories of losses: what is believed at once, where a job goes on, and what is kept of it.

use crate::kit::{Bench, failure, lost, orders, ranks, running, worker};
use espalier_core::{Command, ConnId, Detail, Event, JobState, Outcome, WorkerState};
use espalier_spec::recovery::{Cause, Milestone, Source};
use espalier_spec::{Generation, JobSpec, Step};

/// A job of two ranks on workers a and b has done 7 steps of generation 1; worker c is free.
fn two_and_a_spare() -> (Bench, [ConnId; 3]) {
    let mut bench = Bench::new();
    let conns = [bench.join("a", 1), bench.join("b", 1), bench.join("c", 1)];
    let [a, b, _] = conns;
    bench.create(&ranks("x", 2));
    bench.prepared(a, "x", 1, &[0]);
    bench.prepared(b, "x", 1, &[1]);
    bench.trains(a, "x", 1, 1);
    bench.now += 600;
    bench.progress(a, "x", 1, 7);
    (bench, conns)
}

fn breaks(bench: &mut Bench, conn: ConnId) -> Vec<Command> {
    bench.step(Event::WorkerDisconnected { conn })
}

fn life(bench: &Bench, name: &str) -> WorkerState {
    bench.machine.worker(&worker(name)).unwrap().state
}

#[test]
fn a_worker_that_its_peers_lost_too_is_dead_at_once() {
    // Promise: stream broken and accused by a peer, in either order: the next generation is
    // prepared in that very step, and goes on from what its workers hold. The worker's reason names
    // no job: everybody may read it.
    for accused_first in [true, false] {
        let (mut bench, [a, b, c]) = two_and_a_spare();
        let after = if accused_first {
            let after = bench.stopped(a, "x", 1, lost(1));
            assert_eq!(orders(&after), [format!("stop x g1 Abort -> {}", b.0)]);
            assert_eq!(life(&bench, "b"), WorkerState::Ready);
            breaks(&mut bench, b)
        } else {
            assert!(orders(&breaks(&mut bench, b)).is_empty());
            assert_eq!(life(&bench, "b"), WorkerState::Unreachable);
            bench.stopped(a, "x", 1, lost(1))
        };
        let prepare = |conn: ConnId| format!("prepare x g2 -> {}", conn.0);
        assert_eq!(orders(&after), [prepare(a), prepare(c)]);
        let lost = bench.machine.worker(&worker("b")).unwrap();
        assert_eq!(lost.state, WorkerState::Gone);
        let reason = "its stream broke, and its peers in a job lost it too";
        assert_eq!(lost.state_reason, reason);
        bench.prepared_with(a, "x", 2, &[0], &[(0, 4), (0, 6), (1, 4), (1, 6)]);
        let after = bench.prepared(c, "x", 2, &[1]);
        assert_eq!(
            orders(&after)[0],
            format!("start x g2 from memory 6 of [0, 0] -> {}", a.0)
        );
        let lost = bench.job("x").recoveries[0].clone();
        assert_eq!(
            (lost.cause, lost.worker),
            (Cause::Failure, Some(worker("b")))
        );
    }
}

#[test]
fn one_witness_is_not_enough() {
    // Promise: an accused worker in sight ends the generation and loses nothing; a broken stream
    // alone ends nothing before its time, whatever was said of an older generation.
    let (mut bench, [a, b, _]) = two_and_a_spare();
    bench.stopped(a, "x", 1, lost(1));
    let after = bench.stopped(b, "x", 1, Outcome::Ordered);
    assert_eq!(orders(&after).len(), 2, "{after:?}");
    assert_eq!(life(&bench, "b"), WorkerState::Ready);
    bench.prepared(a, "x", 2, &[0]);
    bench.prepared(b, "x", 2, &[1]);
    bench.trains(a, "x", 2, 1);
    breaks(&mut bench, b);
    bench.pass(9_000, &[a]);
    assert_eq!(bench.state("x"), JobState::Running);
    assert_eq!(life(&bench, "b"), WorkerState::Unreachable);
}

#[test]
fn a_worker_that_hangs_is_lost_with_its_third_heartbeat() {
    // Promise: silence is a broken link too, once a peer's deadline has passed.
    let (mut bench, [a, b, c]) = two_and_a_spare();
    bench.step(Event::Heartbeat {
        conn: b,
        running: Vec::new(),
    });
    bench.stopped(a, "x", 1, lost(1));
    let after = bench.pass(2_500, &[a, c]);
    assert_eq!(life(&bench, "b"), WorkerState::Ready);
    assert!(orders(&after).is_empty(), "{after:?}");
    let after = bench.pass(500, &[a, c]);
    assert_eq!(life(&bench, "b"), WorkerState::Gone);
    assert_eq!(orders(&after).len(), 2, "{after:?}");
    let heard = bench.machine.worker(&worker("b")).unwrap().heartbeat_time;
    bench.prepared(a, "x", 2, &[0]);
    bench.prepared(c, "x", 2, &[1]);
    let fault = bench.job("x").recoveries[0].fault;
    assert_eq!(fault, Some(heard.0), "its last heartbeat");
}

#[test]
fn only_a_whole_snapshot_counts_and_none_older_than_the_checkpoint() {
    // Promise: the newest step of which every rank's part is there; else the checkpoint.
    type Parts = [(u32, u64)];
    let story = |of_a: &Parts, of_b: &Parts, checkpoint: u64| {
        let (mut bench, [a, b, _]) = two_and_a_spare();
        bench.checkpoint(a, "x", 1, checkpoint);
        bench.stopped(a, "x", 1, failure("nan_loss", true));
        bench.stopped(b, "x", 1, Outcome::Ordered);
        bench.prepared_with(a, "x", 2, &[0], of_a);
        let after = bench.prepared_with(b, "x", 2, &[1], of_b);
        let start = orders(&after)[0].clone();
        (start, bench.job("x").recoveries[0].clone())
    };
    let (start, _) = story(&[(0, 4), (0, 6)], &[(1, 4), (0, 6), (1, 2)], 3);
    assert!(start.contains("from memory 4 of [0, 1]"), "{start}");
    let (start, recovery) = story(&[(0, 4), (0, 6)], &[(1, 4)], 5);
    assert!(start.contains("from 5"), "{start}");
    assert_eq!(
        (recovery.source, recovery.from),
        (Source::Checkpoint, Step(5))
    );
    let (start, recovery) = story(&[(0, 8)], &[(1, 8)], 5);
    assert!(start.contains("from memory 8 of [0, 1]"), "{start}");
    // No report was as new as the snapshot.
    assert_eq!((recovery.reached, recovery.from), (Step(8), Step(8)));
}

#[test]
fn a_restarted_coordinator_repeats_the_same_start() {
    // Promise: what a generation goes on from is durable, and so are the accounts.
    let (mut bench, [a, b, c]) = two_and_a_spare();
    breaks(&mut bench, b);
    bench.stopped(a, "x", 1, lost(1));
    bench.prepared_with(a, "x", 2, &[0], &[(0, 6), (1, 6)]);
    bench.prepared(c, "x", 2, &[1]);
    let before = bench.job("x").recoveries;
    bench.restart();
    assert_eq!(bench.job("x").recoveries, before);
    let runs = vec![running(&bench, "x", 2, &[0])];
    let (a, after) = bench.connect("a", 1, "first", runs);
    assert_eq!(
        orders(&after),
        [format!("start x g2 from memory 6 of [0, 0] -> {}", a.0)]
    );
    let runs = vec![running(&bench, "x", 2, &[1])];
    bench.connect("c", 1, "first", runs);
    bench.trains(a, "x", 2, 7);
    assert!(bench.job("x").recoveries[0].first_step.is_some());
}

#[test]
fn a_recovery_is_told_with_all_its_times() {
    // Promise: fault, detection and every milestone are kept, steps and samples done again are
    // counted, the event says it in a sentence; a repeated milestone changes nothing.
    let (mut bench, [a, b, c]) = two_and_a_spare();
    bench.now += 300;
    let fault = bench.now;
    breaks(&mut bench, b);
    bench.now += 20;
    bench.stopped(a, "x", 1, lost(1));
    bench.now += 200;
    bench.prepared_with(a, "x", 2, &[0], &[(0, 4), (1, 4)]);
    bench.prepared(c, "x", 2, &[1]);
    bench.trains(a, "x", 2, 5);
    bench.trains(a, "x", 2, 5);
    let job = bench.job("x");
    let [recovery] = job.recoveries.as_slice() else {
        panic!("{:?}", job.recoveries);
    };
    let times = [
        recovery.fault,
        Some(recovery.detected),
        recovery.agreed,
        recovery.connected,
        recovery.restored,
        recovery.first_step,
    ];
    let since = times.map(|at| at.unwrap() - fault);
    assert_eq!(since, [0, 20, 220, 270, 320, 370]);
    assert_eq!(
        (recovery.generation, recovery.source),
        (Generation(2), Source::Snapshot)
    );
    assert_eq!((recovery.reached, recovery.from), (Step(7), Step(4)));
    assert_eq!(
        (recovery.replayed_steps(), recovery.replayed_samples),
        (3, 96)
    );
    let events = bench.machine.events(&"x".into(), 0).unwrap();
    let told: Vec<_> = events
        .iter()
        .filter(|event| matches!(event.detail, Some(Detail::Recovery(_))))
        .collect();
    assert_eq!(told.len(), 1);
    assert_eq!(
        told[0].message,
        "recovered in 0.37 s from the loss of worker b: detected 0.02 s, agreed 0.20 s, connected \
         0.05 s, restored 0.05 s, first step 0.05 s; 3 steps done again"
    );
}

#[test]
fn a_stream_that_breaks_after_the_report_tells_when_its_worker_died() {
    // Promise: a peer that is faster than the coordinator's own link does not make the loss look
    // as old as the last heartbeat.
    let (mut bench, [a, b, c]) = two_and_a_spare();
    bench.now += 900;
    let reported = bench.now;
    bench.stopped(a, "x", 1, lost(1));
    bench.now += 3;
    breaks(&mut bench, b);
    bench.prepared(a, "x", 2, &[0]);
    bench.prepared(c, "x", 2, &[1]);
    let recovery = bench.job("x").recoveries[0].clone();
    assert_eq!(
        (recovery.fault, recovery.detected),
        (Some(reported), reported)
    );
}

#[test]
fn goodput_counts_steps_once() {
    // Promise: time from the first step to the fault, less what was done again, over all time since
    // the job first ran; it outlives the coordinator.
    let mut bench = Bench::new();
    let (a, b) = (bench.join("a", 1), bench.join("b", 1));
    bench.create(&ranks("x", 2));
    assert_eq!(bench.job("x").goodput, None);
    bench.prepared(a, "x", 1, &[0]);
    bench.prepared(b, "x", 1, &[1]);
    bench.trains(a, "x", 1, 1); // 150 ms until the first step
    bench.now += 1_000;
    bench.progress(a, "x", 1, 11); // ten steps in 1000 ms
    assert_eq!(bench.job("x").goodput, Some(1_000.0 / 1_150.0));
    bench.stopped(a, "x", 1, failure("nan_loss", true));
    bench.stopped(b, "x", 1, Outcome::Ordered);
    bench.prepared_with(a, "x", 2, &[0], &[(0, 6)]);
    bench.prepared_with(b, "x", 2, &[1], &[(1, 6)]);
    bench.trains(a, "x", 2, 7); // 150 ms more
    bench.now += 1_000;
    bench.progress(a, "x", 2, 17); // steps 8 to 11 again, six new ones
    bench.stopped(b, "x", 2, Outcome::Exported(String::new()));
    bench.stopped(a, "x", 2, Outcome::Exported("/out".to_owned()));
    assert_eq!(bench.job("x").goodput, Some(1_600.0 / 2_300.0));
    bench.restart();
    assert_eq!(bench.job("x").goodput, Some(1_600.0 / 2_300.0));
}

#[test]
fn a_drained_worker_hands_over_from_memory() {
    // Promise: with mirrored snapshots and room elsewhere a drain stops at a step with Handover and
    // nothing is done again; it is no restart, and no fault.
    let (mut bench, [a, b, c]) = two_and_a_spare();
    let (_, after) = bench.request(|reply| Event::DrainWorker {
        name: worker("b"),
        reply,
    });
    let stop = |conn: ConnId| format!("stop x g1 Handover -> {}", conn.0);
    assert_eq!(orders(&after), [stop(a), stop(b)]);
    bench.stopped(a, "x", 1, Outcome::Ordered);
    bench.stopped(b, "x", 1, Outcome::Ordered);
    bench.prepared_with(a, "x", 2, &[0], &[(0, 8), (1, 8)]);
    bench.prepared(c, "x", 2, &[1]);
    let recovery = bench.job("x").recoveries[0].clone();
    assert_eq!(
        (recovery.cause, recovery.worker.clone(), recovery.fault),
        (Cause::Drain, Some(worker("b")), None)
    );
    assert_eq!((recovery.from, recovery.replayed_steps()), (Step(8), 0));
}

#[test]
fn a_drain_without_room_or_snapshots_writes_a_checkpoint() {
    // Promise: what can't go on elsewhere at once, or has nothing in memory, is kept on disk.
    let spec = |every: Option<u64>| {
        let mut spec: JobSpec = ranks("x", 2);
        spec.recovery.snapshot_every = every;
        spec
    };
    for (workers, every) in [(2, None), (3, Some(0))] {
        let mut bench = Bench::new();
        let names = &["a", "b", "c"][..workers];
        let conns: Vec<ConnId> = names.iter().map(|name| bench.join(name, 1)).collect();
        bench.create(&spec(every));
        bench.prepared(conns[0], "x", 1, &[0]);
        bench.prepared(conns[1], "x", 1, &[1]);
        let (_, after) = bench.request(|reply| Event::DrainWorker {
            name: worker("b"),
            reply,
        });
        let stop = |conn: &ConnId| format!("stop x g1 Checkpoint -> {}", conn.0);
        assert_eq!(orders(&after), [stop(&conns[0]), stop(&conns[1])]);
    }
}

#[test]
fn a_worker_that_leaves_by_itself_is_no_fault() {
    // Promise: ranks that stop without an order stop for a worker that leaves; the others get the
    // time to hold the snapshot, and the job goes on with a drain on its account.
    let (mut bench, [a, b, c]) = two_and_a_spare();
    let after = bench.stopped(b, "x", 1, Outcome::Ordered);
    assert_eq!(orders(&after), [format!("stop x g1 Handover -> {}", a.0)]);
    bench.step(Event::Goodbye {
        conn: b,
        reason: "SIGTERM".to_owned(),
    });
    let after = bench.stopped(a, "x", 1, Outcome::Ordered);
    assert_eq!(orders(&after).len(), 2, "{after:?}");
    bench.prepared_with(a, "x", 2, &[0], &[(0, 8), (1, 8)]);
    bench.prepared(c, "x", 2, &[1]);
    let recovery = bench.job("x").recoveries[0].clone();
    assert_eq!(
        (recovery.cause, recovery.worker),
        (Cause::Drain, Some(worker("b")))
    );
    assert!(!bench.job("x").state_reason.contains("restart"));
}

#[test]
fn a_worker_that_leaves_while_it_prepares_is_not_asked_again() {
    // Promise: ranks that stop preparing without an order do not eat up the job's restarts.
    let (mut bench, [a, b, c]) = two_and_a_spare();
    bench.stopped(b, "x", 1, Outcome::Ordered);
    bench.stopped(a, "x", 1, Outcome::Ordered);
    let after = bench.stopped(b, "x", 2, Outcome::Ordered);
    assert_eq!(orders(&after), [format!("stop x g2 Abort -> {}", a.0)]);
    let after = bench.stopped(a, "x", 2, Outcome::Ordered);
    let prepare = |conn: ConnId| format!("prepare x g3 -> {}", conn.0);
    assert_eq!(orders(&after), [prepare(a), prepare(c)]);
    let reason = bench.machine.events(&"x".into(), 0).unwrap();
    assert!(
        reason
            .iter()
            .all(|event| !event.message.contains("restart"))
    );
}

#[test]
fn a_loss_while_preparing_does_not_wait_for_the_lost_one() {
    // Promise: nothing is lost with ranks that have not started: with room elsewhere the next
    // generation is prepared there at once, on the account of the same incident.
    let (mut bench, [a, b, c]) = two_and_a_spare();
    let d = bench.join("d", 1);
    breaks(&mut bench, b);
    let detected = bench.now;
    bench.stopped(a, "x", 1, lost(1));
    bench.now += 100;
    let after = breaks(&mut bench, c);
    assert_eq!(orders(&after), [format!("stop x g2 Abort -> {}", a.0)]);
    let after = bench.stopped(a, "x", 2, Outcome::Ordered);
    assert!(orders(&after).contains(&format!("prepare x g3 -> {}", d.0)));
    bench.prepared(a, "x", 3, &[0]);
    bench.prepared(d, "x", 3, &[1]);
    let job = bench.job("x");
    assert_eq!(job.recoveries.len(), 1);
    let recovery = &job.recoveries[0];
    assert_eq!(
        (
            recovery.generation,
            recovery.worker.clone(),
            recovery.detected
        ),
        (Generation(3), Some(worker("b")), detected)
    );
    // Back in sight, it is told to stop what it prepared before it gets work.
    let runs = vec![running(&bench, "x", 2, &[1])];
    let (c, after) = bench.connect("c", 1, "first", runs);
    assert_eq!(orders(&after), [format!("stop x g2 Abort -> {}", c.0)]);
}

#[test]
fn steady_fire_is_survived_as_long_as_snapshots_get_newer() {
    // Promise: a job whose generations never reach a new step lives while each goes on from a later
    // snapshot; from the same one again and again it fails.
    let mut bench = Bench::new();
    let (a, b) = (bench.join("a", 1), bench.join("b", 1));
    bench.create(&ranks("x", 2));
    bench.prepared(a, "x", 1, &[0]);
    bench.prepared(b, "x", 1, &[1]);
    bench.trains(a, "x", 1, 1);
    bench.progress(a, "x", 1, 100);
    let mut generation = 1;
    let mut again = |bench: &mut Bench, step: u64| {
        bench.stopped(a, "x", generation, failure("nan_loss", true));
        bench.stopped(b, "x", generation, Outcome::Ordered);
        if bench.state("x") == JobState::Failed {
            return false;
        }
        generation += 1;
        bench.prepared_with(a, "x", generation, &[0], &[(0, step)]);
        bench.prepared_with(b, "x", generation, &[1], &[(1, step)]);
        bench.trains(a, "x", generation, step + 1);
        true
    };
    for step in 10..30 {
        assert!(again(&mut bench, step), "step {step}");
    }
    let lives = (0..10).take_while(|_| again(&mut bench, 29)).count();
    assert_eq!(lives, 2, "its third restart without progress was the last");
}

#[test]
fn a_cause_counts_though_peers_were_faster() {
    // Promise: a rank that fails tells its peers before it has stopped itself, so their reports come
    // first: the job ends by its own words all the same, and is not tried again.
    let (mut bench, [a, b, c]) = two_and_a_spare();
    let after = bench.stopped(b, "x", 1, lost(0));
    assert_eq!(orders(&after), [format!("stop x g1 Abort -> {}", a.0)]);
    assert_eq!(bench.state("x"), JobState::Queued);
    let after = bench.stopped(a, "x", 1, failure("bad_data", false));
    // The spare is not needed any more.
    assert_eq!(orders(&after), [format!("stop x g1 Abort -> {}", c.0)]);
    assert_eq!(bench.state("x"), JobState::Failed);
    let failed = bench.job("x").failure.unwrap();
    assert_eq!(failed.message, "task topic, file a.jsonl, row 7: bad_data");
    assert_eq!(life(&bench, "a"), WorkerState::Ready);
    // What can pass is tried again, as before.
    let (mut bench, [a, b, _]) = two_and_a_spare();
    bench.stopped(b, "x", 1, lost(0));
    bench.stopped(a, "x", 1, failure("no_snapshot", true));
    assert_eq!(bench.state("x"), JobState::Preparing);
}

#[test]
fn a_pause_during_a_handover_asks_for_a_checkpoint() {
    // Promise: a pause keeps the steps that were done on disk, also of a job that hands over when it
    // is paused; if its ranks had agreed on a snapshot before, no checkpoint is claimed.
    for written in [true, false] {
        let (mut bench, [a, b, _]) = two_and_a_spare();
        let (name, x) = (worker("b"), "x".into());
        let drain = bench.request(|reply| Event::DrainWorker { name, reply });
        drain.0.unwrap();
        let (answer, after) = bench.request(|reply| Event::PauseJob { name: x, reply });
        answer.unwrap();
        let stop = |conn: ConnId| format!("stop x g1 Checkpoint -> {}", conn.0);
        assert_eq!(orders(&after)[..2], [stop(a), stop(b)]);
        if written {
            bench.checkpoint(a, "x", 1, 8);
        }
        bench.stopped(a, "x", 1, Outcome::Ordered);
        bench.stopped(b, "x", 1, Outcome::Ordered);
        assert_eq!(bench.state("x"), JobState::Paused);
        let reason = bench.job("x").state_reason;
        assert_eq!(reason.contains("the checkpoint of step 8"), written);
    }
}

#[test]
fn a_pause_is_the_operators() {
    // Promise: the account of a pause begins when the job was resumed.
    let (mut bench, [a, b, _]) = two_and_a_spare();
    bench.pause("x").unwrap();
    bench.checkpoint(a, "x", 1, 8);
    bench.stopped(a, "x", 1, Outcome::Ordered);
    bench.stopped(b, "x", 1, Outcome::Ordered);
    bench.now += 3_600_000;
    let alive = [bench.join("d", 1), bench.join("e", 1)];
    let resumed = bench.now;
    bench.resume("x").unwrap();
    assert_eq!(bench.state("x"), JobState::Preparing);
    bench.prepared(alive[0], "x", 2, &[0]);
    bench.prepared(alive[1], "x", 2, &[1]);
    let recovery = bench.job("x").recoveries[0].clone();
    assert_eq!(
        (recovery.cause, recovery.detected),
        (Cause::Operator, resumed)
    );
    assert_eq!((recovery.reached, recovery.from), (Step(8), Step(8)));
    let milestone = Milestone::Connected;
    let (job, generation) = ("x".into(), Generation(1));
    bench.step(Event::Reached {
        conn: alive[0],
        job,
        generation,
        milestone,
        step: Step(8),
    });
    assert!(
        bench.job("x").recoveries[0].connected.is_none(),
        "it is stale"
    );
}
