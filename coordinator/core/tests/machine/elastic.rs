//! Elastic jobs: the same ranks on more or fewer workers, spares, and growth.

use crate::kit::{Bench, elastic, failure, orders, profile, ranks, running, worker};
use espalier_core::{ConnId, Event, JobState, Outcome, WorkerState};
use espalier_spec::plan::Profile;
use espalier_spec::recovery::Cause;
use espalier_spec::{Generation, JobSpec, Rank};

/// Where the ranks of a job sit by its newest plan: "a0 a0 b0".
fn seats(bench: &Bench, job: &str) -> String {
    let plan = bench.job(job).plan.unwrap();
    let seat = |seat: &espalier_spec::plan::Seat| format!("{}{}", seat.worker, seat.device);
    let seats: Vec<String> = plan.seats.iter().map(seat).collect();
    seats.join(" ")
}

/// A job of four ranks on the workers that are there, one device each; it has done three steps.
fn four_ranks(names: &[&str], min: u32, max: u32) -> (Bench, Vec<ConnId>) {
    let mut bench = Bench::new();
    let conns: Vec<ConnId> = names.iter().map(|name| bench.join(name, 1)).collect();
    bench.create(&elastic("x", 4, min, max));
    start(&mut bench, "x", 1, names, &conns);
    bench.progress(conns[0], "x", 1, 3);
    (bench, conns)
}

/// Lets all workers of a generation prepare it, by an even cut in this order.
fn start(bench: &mut Bench, job: &str, generation: u64, names: &[&str], conns: &[ConnId]) {
    let (each, more) = (4 / conns.len(), 4 % conns.len());
    let mut first = 0;
    for (index, conn) in conns.iter().enumerate() {
        let end = first + each + usize::from(index < more);
        let of: Vec<u32> = (first as u32..end as u32).collect();
        bench.prepared(*conn, job, generation, &of);
        first = end;
    }
    let job = bench.job(job);
    assert_eq!(job.state, JobState::Running, "{}", job.state_reason);
    assert_eq!(job.plan.unwrap().seats[0].worker.as_str(), names[0]);
}

/// A worker that was told to be a spare has loaded everything.
fn ready(bench: &mut Bench, conn: ConnId, generation: u64) -> Vec<String> {
    let after = bench.prepared(conn, "x", generation, &[]);
    orders(&after)
}

fn stop_orders(conns: &[ConnId], mode: &str) -> Vec<String> {
    let stop = |conn: &ConnId| format!("stop x g1 {mode} -> {}", conn.0);
    conns.iter().map(stop).collect()
}

#[test]
fn four_ranks_run_on_any_number_of_workers_by_one_plan() {
    // Promise: how many workers there are changes seats and nothing else of the plan.
    let names = ["a", "b", "c", "d"];
    let expected = ["a0 a0 a0 a0", "a0 a0 b0 b0", "a0 a0 b0 c0", "a0 b0 c0 d0"];
    let mut first = None;
    for (count, expected) in (1..=4).zip(expected) {
        let (bench, _) = four_ranks(&names[..count], 1, 4);
        assert_eq!(seats(&bench, "x"), expected);
        let plan = bench.job("x").plan.unwrap();
        let rest = (plan.shards, plan.tasks, plan.blocks, plan.exchange);
        assert_eq!(*first.get_or_insert(rest.clone()), rest);
    }
}

#[test]
fn a_job_takes_between_min_and_max_workers() {
    // Promise: fewer than min is waited for, in words that say what is missing; more than max is
    // never taken.
    let mut bench = Bench::new();
    bench.join("a", 1);
    bench.create(&elastic("x", 4, 2, 3));
    assert_eq!(
        bench.job("x").state_reason,
        "needs 2 workers with a rank; the cluster has 1 (1 free)"
    );
    bench.create(&ranks("y", 1));
    assert_eq!(
        bench.state("y"),
        JobState::Preparing,
        "x blocks nobody as long as the cluster can't hold it"
    );
    bench.join("b", 1);
    assert_eq!(
        bench.job("x").state_reason,
        "needs 2 workers with a cpu rank; the cluster has 2 (1 free)"
    );
    let mut bench = Bench::new();
    let conns = ["a", "b", "c"].map(|name| bench.join(name, 1));
    bench.create(&elastic("x", 4, 1, 2));
    start(&mut bench, "x", 1, &["a", "b"], &conns[..2]);
    assert_eq!(seats(&bench, "x"), "a0 a0 b0 b0");
}

#[test]
fn a_shared_device_is_nobody_elses() {
    // Promise: a device with several ranks of a job is not free, and the API shows all of them.
    let (mut bench, conns) = four_ranks(&["a"], 1, 4);
    bench.create(&ranks("y", 1));
    assert_eq!(bench.state("y"), JobState::Queued);
    let device = bench
        .machine
        .worker(&worker("a"))
        .unwrap()
        .devices
        .remove(0);
    assert_eq!(device.used_by, Some(("x".into(), Rank(0))));
    assert_eq!(device.ranks, (0..4).map(Rank).collect::<Vec<_>>());
    bench.stopped(conns[0], "x", 1, Outcome::Exported("/out".to_owned()));
    assert_eq!(bench.state("y"), JobState::Preparing);
}

#[test]
fn a_loss_is_survived_on_fewer_workers() {
    // Promise: the job goes on at once with those that are left, every rank where it was as far as
    // the even cut allows; with fewer than min it waits.
    let (mut bench, conns) = four_ranks(&["a", "b", "c"], 2, 3);
    assert_eq!(seats(&bench, "x"), "a0 a0 b0 c0");
    let goodbye = |bench: &mut Bench, conn| {
        let reason = "spot notice".to_owned();
        bench.step(Event::Goodbye { conn, reason })
    };
    let after = goodbye(&mut bench, conns[1]);
    assert_eq!(orders(&after).len(), 2, "{after:?}");
    bench.stopped(conns[0], "x", 1, Outcome::Ordered);
    let after = bench.stopped(conns[2], "x", 1, Outcome::Ordered);
    assert_eq!(
        orders(&after),
        [conns[0], conns[2]].map(|conn| format!("prepare x g2 -> {}", conn.0))
    );
    start(&mut bench, "x", 2, &["a", "c"], &[conns[0], conns[2]]);
    assert_eq!(seats(&bench, "x"), "a0 a0 c0 c0");
    goodbye(&mut bench, conns[2]);
    bench.stopped(conns[0], "x", 2, Outcome::Ordered);
    let job = bench.job("x");
    assert_eq!(job.state, JobState::Queued);
    let reason = "needs 2 workers with a cpu rank; the cluster has 1 (1 free)";
    assert!(job.state_reason.starts_with(reason), "{}", job.state_reason);
}

#[test]
fn a_job_grows_by_prepared_spares_and_not_at_once() {
    // Promise: a worker that comes loads the job beside it; only then, and only when the generation
    // has run for a while, the job stops at a step and goes on with more workers.
    let (mut bench, conns) = four_ranks(&["a", "b"], 1, 3);
    let (c, after) = bench.connect("c", 1, "first", Vec::new());
    assert_eq!(orders(&after), [format!("spare x g1 -> {}", c.0)]);
    assert_eq!(bench.machine.cluster().free_ranks, 1, "it holds no device");
    let keeps = vec![running(&bench, "x", 1, &[])];
    let after = bench.step(Event::Heartbeat {
        conn: c,
        running: keeps,
    });
    assert!(orders(&after).is_empty(), "a spare is no stray: {after:?}");
    assert!(ready(&mut bench, c, 1).is_empty(), "too early");
    let due = bench.machine.next_deadline().unwrap();
    assert_eq!(due.0, bench.now + 200);
    bench.now += 200;
    let after = bench.step(Event::Tick);
    assert_eq!(orders(&after), stop_orders(&conns, "Handover"));
    let reason = "grows from 2 workers to 3, as worker c is prepared: stops at the next step";
    assert_eq!(bench.job("x").state_reason, reason);
    bench.stopped(conns[0], "x", 1, Outcome::Ordered);
    let after = bench.stopped(conns[1], "x", 1, Outcome::Ordered);
    let all = [conns[0], conns[1], c];
    assert_eq!(
        orders(&after),
        all.map(|conn| format!("prepare x g2 -> {}", conn.0))
    );
    start(&mut bench, "x", 2, &["a", "b", "c"], &all);
    assert_eq!(seats(&bench, "x"), "a0 a0 b0 c0");
    let account = bench.job("x").recoveries[0].clone();
    assert_eq!(
        (account.cause, account.worker),
        (Cause::Scale, Some(worker("c")))
    );
    // At its most it has one spare, and does not stop for it.
    let (d, after) = bench.connect("d", 1, "first", Vec::new());
    assert_eq!(orders(&after), [format!("spare x g2 -> {}", d.0)]);
    bench.progress(conns[0], "x", 2, 5);
    ready(&mut bench, d, 2);
    bench.pass(1_000, &[all[0], all[1], c, d]);
    assert_eq!(bench.state("x"), JobState::Running);
}

#[test]
fn a_generation_that_has_not_reported_is_not_stopped() {
    // Promise: a job that is still on its way into training does not grow, however long it takes.
    let mut bench = Bench::new();
    let a = bench.join("a", 1);
    bench.create(&elastic("x", 4, 1, 2));
    start(&mut bench, "x", 1, &["a"], &[a]);
    let b = bench.join("b", 1);
    ready(&mut bench, b, 1);
    bench.pass(2_000, &[a, b]);
    assert_eq!(bench.state("x"), JobState::Running);
    bench.trains(a, "x", 1, 1);
    assert_eq!(bench.state("x"), JobState::Pausing);
}

#[test]
fn nobody_waits_for_a_job_that_grows() {
    // Promise: as long as another job waits for devices, an elastic one takes no more of them.
    let (mut bench, conns) = four_ranks(&["a"], 1, 2);
    let b = bench.join("b", 1);
    bench.create(&ranks("y", 2));
    assert_eq!(bench.state("y"), JobState::Queued);
    ready(&mut bench, b, 1);
    bench.pass(1_000, &[conns[0], b]);
    assert_eq!(bench.state("x"), JobState::Running);
    bench.cancel("y").unwrap();
    bench.pass(500, &[conns[0], b]);
    assert_eq!(bench.state("x"), JobState::Pausing);
}

#[test]
fn a_spare_is_released_for_another_job() {
    // Promise: a spare's devices stay free; the job that takes them gets them at once.
    let (mut bench, _) = four_ranks(&["a"], 1, 2);
    let b = bench.join("b", 1);
    ready(&mut bench, b, 1);
    let after = bench.create(&ranks("y", 1));
    let expected = [
        format!("prepare y g1 -> {}", b.0),
        format!("stop x g1 Abort -> {}", b.0),
    ];
    assert_eq!(orders(&after), expected);
    bench.stopped(b, "x", 1, Outcome::Ordered);
    assert_eq!(bench.state("y"), JobState::Preparing);
    // Free again, it is asked again.
    let after = bench.stopped(b, "y", 1, failure("bad_data", false));
    assert_eq!(orders(&after), [format!("spare x g1 -> {}", b.0)]);
}

#[test]
fn a_spare_with_another_model_is_not_used() {
    // Promise: a worker that finds something else than those that run the job gets none of its
    // ranks, and the job's events say so.
    let mut other = profile();
    other.blocks[0].trainable -= 1_000;
    a_spare_found(other);
}

#[test]
fn a_spare_with_other_data_is_not_used() {
    // Promise: the same of what would lead to the same plan: ranks there would fail the job.
    let mut other = profile();
    other.tasks[0].train_samples += 1;
    a_spare_found(other);
}

/// A spare says that it found this, and is not used.
fn a_spare_found(other: Profile) {
    let (mut bench, conns) = four_ranks(&["a"], 1, 2);
    let b = bench.join("b", 1);
    let after = bench.step(Event::Prepared {
        conn: b,
        job: "x".into(),
        generation: Generation(1),
        addresses: Vec::new(),
        profile: other,
        snapshots: Vec::new(),
    });
    assert_eq!(orders(&after), stop_orders(&[b], "Abort"));
    bench.stopped(b, "x", 1, Outcome::Ordered);
    bench.pass(1_000, &[conns[0], b]);
    assert_eq!(bench.state("x"), JobState::Running);
    let events = bench.machine.events(&"x".into(), 0).unwrap();
    let last = &events.last().unwrap().message;
    assert!(last.starts_with("worker b gets no ranks of this job: it found another model"));
    // Another process of that name may be another matter.
    bench.step(Event::WorkerDisconnected { conn: b });
    let (b, after) = bench.connect("b", 1, "second", Vec::new());
    assert_eq!(orders(&after), [format!("spare x g1 -> {}", b.0)]);
}

#[test]
fn a_job_that_unfit_workers_would_have_to_hold_blocks_nobody() {
    // Promise: workers that get no ranks of a job are no room for it: it waits for others, in words
    // that name them, and the jobs behind it go on.
    let mut bench = Bench::new();
    let (a, b) = (bench.join("a", 1), bench.join("b", 1));
    bench.create(&ranks("x", 2));
    bench.prepared(a, "x", 1, &[0]);
    bench.prepared(b, "x", 1, &[1]);
    let c = bench.join("c", 1);
    bench.stopped(c, "x", 1, failure("bad_data", false));
    let reason = "spot notice".to_owned();
    bench.step(Event::Goodbye { conn: b, reason });
    bench.stopped(a, "x", 1, Outcome::Ordered);
    let why = bench.job("x").state_reason;
    let waits =
        "needs 2 cpu ranks; the cluster has 1 (1 free), besides worker c, unfit for this job; ";
    assert!(why.starts_with(waits), "{why}");
    bench.create(&ranks("y", 1));
    assert_eq!(bench.state("y"), JobState::Preparing);
    // A worker that may host it ends the wait.
    bench.join("d", 1);
    bench.join("e", 1);
    assert_eq!(bench.state("x"), JobState::Preparing);
}

#[test]
fn a_rigid_job_has_one_hot_spare() {
    // Promise: a job with a device per rank has one spare that can replace a worker; when one is
    // lost the spare takes its place.
    let mut bench = Bench::new();
    let (a, b) = (bench.join("a", 1), bench.join("b", 1));
    let spec: JobSpec = ranks("x", 2);
    bench.create(&spec);
    bench.prepared(a, "x", 1, &[0]);
    bench.prepared(b, "x", 1, &[1]);
    let (c, after) = bench.connect("c", 1, "first", Vec::new());
    assert_eq!(orders(&after), [format!("spare x g1 -> {}", c.0)]);
    let (_, after) = bench.connect("d", 1, "first", Vec::new());
    assert!(orders(&after).is_empty(), "one is enough");
    ready(&mut bench, c, 1);
    bench.pass(1_000, &[a, b, c]);
    assert_eq!(bench.state("x"), JobState::Running, "it never grows");
    let reason = "spot notice".to_owned();
    bench.step(Event::Goodbye { conn: b, reason });
    let after = bench.stopped(a, "x", 1, Outcome::Ordered);
    assert_eq!(
        orders(&after),
        [a, c].map(|conn| format!("prepare x g2 -> {}", conn.0))
    );
}

#[test]
fn a_coordinator_that_restarts_asks_again() {
    // Promise: what is known of spares is not kept: one that comes back is stopped, then asked anew.
    let (mut bench, _) = four_ranks(&["a"], 1, 2);
    let b = bench.join("b", 1);
    ready(&mut bench, b, 1);
    bench.restart();
    let runs = vec![running(&bench, "x", 1, &[0, 1, 2, 3])];
    bench.connect("a", 1, "first", runs);
    let runs = vec![running(&bench, "x", 1, &[])];
    let (b, after) = bench.connect("b", 1, "first", runs);
    assert_eq!(orders(&after), stop_orders(&[b], "Abort"));
    let after = bench.stopped(b, "x", 1, Outcome::Ordered);
    assert_eq!(orders(&after), [format!("spare x g1 -> {}", b.0)]);
    assert_eq!(
        bench.machine.worker(&worker("b")).unwrap().state,
        WorkerState::Ready
    );
}

#[test]
fn a_spare_that_reconnects_stays_one() {
    // Promise: a stream that breaks costs a prepared spare nothing, and the end of the job ends it.
    let (mut bench, conns) = four_ranks(&["a"], 1, 2);
    let b = bench.join("b", 1);
    ready(&mut bench, b, 1);
    bench.step(Event::WorkerDisconnected { conn: b });
    let runs = vec![running(&bench, "x", 1, &[])];
    let (b, after) = bench.connect("b", 1, "first", runs);
    assert!(orders(&after).is_empty(), "{after:?}");
    let export = Outcome::Exported("/out".to_owned());
    let after = bench.stopped(conns[0], "x", 1, export);
    assert_eq!(orders(&after), stop_orders(&[b], "Abort"));
    // A job of the same name is not put where the old one still stops.
    bench
        .request(|reply| Event::DeleteJob {
            name: "x".into(),
            reply,
        })
        .0
        .unwrap();
    bench.create(&elastic("x", 4, 2, 2));
    assert_eq!(bench.state("x"), JobState::Queued);
    bench.stopped(b, "x", 1, Outcome::Ordered);
    assert_eq!(bench.state("x"), JobState::Preparing);
}
