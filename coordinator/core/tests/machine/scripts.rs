//! Stories of a cluster: lists of events and what must follow from them.

use crate::kit::{Bench, address, failure, orders, profile, ranks, running, spec, worker};
use espalier_core::{Command, ErrorKind, Event, JobState, Outcome, WorkerState};
use espalier_spec::plan::Profile;
use espalier_spec::report::{Affinity, Progress, TaskPair};
use espalier_spec::{Generation, Step};

/// Two workers of one rank each run a job of two ranks in generation 1.
fn two_ranks() -> (Bench, espalier_core::ConnId, espalier_core::ConnId) {
    let mut bench = Bench::new();
    let (a, b) = (bench.join("a", 1), bench.join("b", 1));
    let after = bench.create(&ranks("x", 2));
    assert_eq!(
        orders(&after),
        [
            format!("prepare x g1 -> {}", a.0),
            format!("prepare x g1 -> {}", b.0)
        ]
    );
    assert!(
        orders(&bench.prepared(a, "x", 1, &[0])).is_empty(),
        "waits for all"
    );
    let after = bench.prepared(b, "x", 1, &[1]);
    assert_eq!(
        orders(&after),
        [
            format!("start x g1 from 0 -> {}", a.0),
            format!("start x g1 from 0 -> {}", b.0)
        ]
    );
    (bench, a, b)
}

#[test]
fn a_job_runs_to_its_end() {
    // Promise: submit, prepare, start, export; the model's place is told and all ranks are free.
    let (mut bench, a, b) = two_ranks();
    assert_eq!(bench.state("x"), JobState::Running);
    bench.progress(a, "x", 1, 7);
    assert_eq!(bench.job("x").progress.unwrap().step.0, 7);
    bench.stopped(b, "x", 1, Outcome::Exported(String::new()));
    assert_eq!(bench.state("x"), JobState::Running, "rank 0 still exports");
    bench.stopped(a, "x", 1, Outcome::Exported("/out".to_owned()));
    let job = bench.job("x");
    assert_eq!(
        (job.state, job.export_path.as_deref()),
        (JobState::Succeeded, Some("/out"))
    );
    assert_eq!(bench.machine.cluster().free_ranks, 2);
    let sequences: Vec<u64> = bench
        .machine
        .events(&"x".into(), 0)
        .unwrap()
        .iter()
        .map(|event| event.sequence)
        .collect();
    assert_eq!(sequences, (1..=job.last_sequence).collect::<Vec<_>>());
}

#[test]
fn the_last_report_outlives_the_coordinator() {
    // Promise: what a job had measured when its ranks stopped is there after a restart, finite or
    // left out, and is not written at every report.
    let (mut bench, a, b) = two_ranks();
    let pair = |cosine| TaskPair {
        a: "section".to_owned(),
        b: "topic".to_owned(),
        cosine,
        steps: 9,
        ..TaskPair::default()
    };
    let progress = Progress {
        step: Step(9),
        gradient_norm: f64::INFINITY,
        losses: [("section".to_owned(), f64::NAN), ("topic".to_owned(), 0.5)].into(),
        affinity: Some(Affinity {
            tasks: Vec::new(),
            pairs: vec![pair(0.25), pair(f64::NAN)],
        }),
        ..Progress::default()
    };
    let before = bench.log.len();
    bench.step(Event::Progress {
        conn: a,
        job: "x".into(),
        generation: Generation(1),
        progress,
    });
    assert_eq!(bench.log.len(), before, "reports are not kept one by one");
    bench.stopped(b, "x", 1, Outcome::Exported(String::new()));
    bench.stopped(a, "x", 1, Outcome::Exported("/out".to_owned()));
    bench.restart();
    let kept = bench.job("x").progress.unwrap();
    assert_eq!((kept.step, kept.gradient_norm), (Step(9), 0.0));
    assert_eq!(kept.losses, [("topic".to_owned(), 0.5)].into());
    assert_eq!(kept.affinity.unwrap().pairs, [pair(0.25)]);
}

#[test]
fn the_queue_names_no_job_of_another_namespace() {
    // Promise: a job that waits behind another one names it only where both are of one namespace.
    let mut bench = Bench::new();
    bench.join("a", 1);
    bench.create(&ranks("one", 1));
    bench.create(&ranks("two", 1));
    bench.create(&espalier_spec::JobSpec {
        namespace: "other".to_owned(),
        ..ranks("foreign", 1)
    });
    bench.create(&ranks("three", 1));
    let why = |name: &str| bench.job(name).state_reason;
    assert_eq!(why("foreign"), "waits behind a job of another namespace");
    assert_eq!(why("three"), "waits behind job two");
}

#[test]
fn the_queue_keeps_order_and_says_why() {
    // Promise: priority, then age; nothing overtakes a job that fits the cluster; one that does not
    // fit blocks nobody, and says so.
    let mut bench = Bench::new();
    let (a, _b) = (bench.join("a", 1), bench.join("b", 1));
    bench.create(&ranks("huge", 4));
    assert_eq!(
        bench.job("huge").state_reason,
        "needs 4 ranks; the cluster has 2 (2 free)"
    );
    bench.create(&ranks("one", 1));
    assert_eq!(bench.state("one"), JobState::Preparing);
    bench.create(&ranks("two", 2));
    assert_eq!(
        bench.job("two").state_reason,
        "needs 2 cpu ranks; the cluster has 2 (1 free)"
    );
    bench.create(&ranks("late", 1));
    assert_eq!(bench.job("late").state_reason, "waits behind job two");
    let urgent = spec("urgent", serde_json::json!({ "ranks": 1 }));
    bench.create(&espalier_spec::JobSpec {
        priority: 1,
        ..urgent
    });
    assert_eq!(bench.state("urgent"), JobState::Preparing);
    bench.stopped(a, "one", 1, failure("bad_data", false));
    assert_eq!(bench.state("late"), JobState::Queued);
    bench.cancel("two").unwrap();
    assert_eq!(bench.state("late"), JobState::Preparing);
}

#[test]
fn workers_with_other_versions_of_the_files_do_not_start() {
    // Promise: workers that fetched different versions of a file never train together, and the job says
    // why; one that tells of none may be of an older release.
    let prepared = |second: &str| {
        let mut bench = Bench::new();
        let conns = [bench.join("a", 1), bench.join("b", 1)];
        bench.create(&ranks("x", 2));
        for (rank, (conn, fetched)) in (0..).zip(conns.into_iter().zip(["one", second])) {
            bench.step(Event::Prepared {
                conn,
                job: "x".into(),
                generation: Generation(1),
                addresses: vec![address(rank)],
                profile: Profile {
                    fetched: fetched.to_owned(),
                    ..profile()
                },
                snapshots: Vec::new(),
            });
        }
        bench
    };
    assert_eq!(prepared("one").state("x"), JobState::Running);
    assert_eq!(prepared("").state("x"), JobState::Running);
    let failed = prepared("two").job("x").failure.unwrap();
    let expected = "workers a and b fetched different versions";
    assert!(failed.message.starts_with(expected), "{}", failed.message);
}

#[test]
fn a_job_takes_no_more_ranks_than_it_has_shards() {
    // Promise: a job that leaves its ranks open has one for each of its shards at most: none has
    // nothing to compute, and the other devices stay free.
    for (shards, free) in [(1, 2), (2, 1), (3, 0), (4, 0)] {
        let mut bench = Bench::new();
        for name in ["a", "b", "c"] {
            bench.join(name, 1);
        }
        bench.create(&spec("x", serde_json::json!({ "shards": shards })));
        assert_eq!(bench.state("x"), JobState::Preparing);
        assert_eq!(bench.machine.cluster().free_ranks, free, "{shards} shards");
    }
}

#[test]
fn a_fault_of_the_job_ends_it_as_reported() {
    // Promise: an error that trying again can't mend fails the job in the worker's own words, and
    // stops the other ranks.
    let (mut bench, a, b) = two_ranks();
    let after = bench.stopped(b, "x", 1, failure("bad_data", false));
    assert_eq!(orders(&after), [format!("stop x g1 Abort -> {}", a.0)]);
    let failed = bench.job("x").failure.unwrap();
    assert_eq!(
        (failed.code.as_str(), failed.retryable),
        ("bad_data", false)
    );
    assert_eq!(failed.message, "task topic, file a.jsonl, row 7: bad_data");
    assert_eq!(
        bench.machine.cluster().free_ranks,
        1,
        "rank 0 has not stopped yet"
    );
    bench.stopped(a, "x", 1, Outcome::Ordered);
    assert_eq!(bench.machine.cluster().free_ranks, 2);
}

#[test]
fn a_passing_fault_is_retried_from_the_newest_checkpoint_but_not_for_ever() {
    // Promise: the next generation starts when all survivors have stopped, from the newest
    // checkpoint; without progress it is given up after three restarts.
    let (mut bench, a, b) = two_ranks();
    bench.checkpoint(a, "x", 1, 5);
    bench.stopped(b, "x", 1, failure("peer_lost", true));
    assert_eq!(bench.state("x"), JobState::Queued);
    assert!(
        bench
            .job("x")
            .state_reason
            .contains("waits for worker a to stop")
    );
    for generation in 2..=4 {
        let after = bench.stopped(a, "x", generation - 1, Outcome::Ordered);
        assert_eq!(orders(&after).len(), 2, "{after:?}");
        bench.prepared(a, "x", generation, &[0]);
        let after = bench.prepared(b, "x", generation, &[1]);
        assert_eq!(
            orders(&after)[0],
            format!("start x g{generation} from 5 -> {}", a.0)
        );
        bench.stopped(b, "x", generation, failure("peer_lost", true));
    }
    let job = bench.job("x");
    assert_eq!(job.state, JobState::Failed, "{}", job.state_reason);
    assert!(
        job.state_reason
            .contains("gave up after 3 restarts without progress")
    );
}

#[test]
fn losing_sight_of_a_worker_is_not_its_death() {
    // Promise: a broken stream costs nothing if the same process comes back in time; only a gone
    // worker gives its ranks up.
    let (mut bench, a, b) = two_ranks();
    bench.progress(a, "x", 1, 3);
    bench.step(Event::WorkerDisconnected { conn: b });
    assert_eq!(
        bench.machine.worker(&worker("b")).unwrap().state,
        WorkerState::Unreachable
    );
    bench.pass(9_000, &[a]);
    assert_eq!(bench.state("x"), JobState::Running);
    let runs = vec![running(&bench, "x", 1, &[1])];
    let (b, after) = bench.connect("b", 1, "first", runs);
    assert!(orders(&after).is_empty(), "{after:?}");
    assert_eq!(bench.job("x").generation.0, 1);
    bench.step(Event::WorkerDisconnected { conn: b });
    let after = bench.pass(10_000, &[a]);
    assert_eq!(orders(&after), [format!("stop x g1 Abort -> {}", a.0)]);
    assert_eq!(
        bench.machine.worker(&worker("b")).unwrap().state,
        WorkerState::Gone
    );
    bench.stopped(a, "x", 1, Outcome::Ordered);
    assert_eq!(bench.state("x"), JobState::Queued);
    // Back as a new process: generation 2.
    bench.connect("b", 1, "second", Vec::new());
    assert_eq!(bench.job("x").generation.0, 2);
}

#[test]
fn a_restarted_process_has_lost_its_work_at_once() {
    // Promise: another instance id means that the old process is dead: no waiting.
    let (mut bench, a, b) = two_ranks();
    bench.step(Event::WorkerDisconnected { conn: b });
    let (_, after) = bench.connect("b", 1, "second", Vec::new());
    assert_eq!(orders(&after), [format!("stop x g1 Abort -> {}", a.0)]);
    bench.stopped(a, "x", 1, Outcome::Ordered);
    assert_eq!(bench.state("x"), JobState::Preparing);
}

#[test]
fn the_coordinator_restarts_and_nobody_notices() {
    // Promise: after a replay running jobs are adopted as they are; nothing is placed before all
    // workers are back or given up; a job of lost workers goes on without them.
    let (mut bench, a, _) = two_ranks();
    bench.progress(a, "x", 1, 3);
    bench.create(&ranks("y", 1));
    bench.restart();
    let runs = vec![running(&bench, "x", 1, &[0])];
    let (a, _) = bench.connect("a", 1, "first", runs);
    assert_eq!(
        bench.job("y").state_reason,
        "waits for worker b to come back after the coordinator's restart"
    );
    let runs = vec![running(&bench, "x", 1, &[1])];
    let (b, after) = bench.connect("b", 1, "first", runs);
    assert!(
        orders(&after)
            .iter()
            .all(|order| order.starts_with("start x g1")),
        "{after:?}"
    );
    let job = bench.job("x");
    assert_eq!((job.state, job.generation.0), (JobState::Running, 1));
    bench.restart();
    let runs = vec![running(&bench, "x", 1, &[0])];
    let (a2, _) = bench.connect("a", 1, "first", runs);
    bench.pass(10_000, &[a2]);
    bench.stopped(a2, "x", 1, Outcome::Ordered);
    assert_eq!(
        bench.state("x"),
        JobState::Queued,
        "{a} and {b} are streams of the past"
    );
    assert_eq!(
        bench.state("y"),
        JobState::Preparing,
        "one rank is left: y fits, x does not"
    );
}

#[test]
fn pause_resume_and_cancel() {
    // Promise: a pause ends with a checkpoint and no ranks, a resume goes on from it; requests that
    // make no sense are refused with the state's name.
    let (mut bench, a, b) = two_ranks();
    bench.pause("x").unwrap();
    assert_eq!(bench.state("x"), JobState::Pausing);
    bench.checkpoint(a, "x", 1, 8);
    bench.stopped(a, "x", 1, Outcome::Ordered);
    bench.stopped(b, "x", 1, Outcome::Ordered);
    assert_eq!(bench.state("x"), JobState::Paused);
    let error = bench.pause("x").unwrap_err();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition);
    assert_eq!(
        error.message,
        "job x is paused and can't be paused again; resume it to go on"
    );
    bench.resume("x").unwrap();
    bench.prepared(a, "x", 2, &[0]);
    let after = bench.prepared(b, "x", 2, &[1]);
    assert_eq!(orders(&after)[0], format!("start x g2 from 8 -> {}", a.0));
    bench.cancel("x").unwrap();
    assert_eq!(bench.state("x"), JobState::Cancelling);
    bench.stopped(a, "x", 2, Outcome::Ordered);
    bench.stopped(b, "x", 2, Outcome::Ordered);
    assert_eq!(bench.state("x"), JobState::Cancelled);
    assert_eq!(
        bench.cancel("x").unwrap_err().kind,
        ErrorKind::FailedPrecondition
    );
    assert_eq!(bench.cancel("z").unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn steps_told_of_late_are_done_again() {
    // Promise: what rank 0 reports after its generation has ended is done again by the next one, and
    // counted as such.
    let (mut bench, a, b) = two_ranks();
    bench.trains(a, "x", 1, 1);
    bench.progress(a, "x", 1, 7);
    bench.stopped(b, "x", 1, failure("nan_loss", true));
    assert_eq!(bench.state("x"), JobState::Queued);
    bench.progress(a, "x", 1, 9);
    bench.stopped(a, "x", 1, Outcome::Ordered);
    bench.prepared_with(a, "x", 2, &[0], &[(0, 4)]);
    bench.prepared_with(b, "x", 2, &[1], &[(1, 4)]);
    let recovery = bench.job("x").recoveries[0].clone();
    assert_eq!((recovery.reached, recovery.from), (Step(9), Step(4)));
    assert_eq!(recovery.replayed_steps(), 5);
}

#[test]
fn a_drained_worker_hands_its_jobs_over() {
    // Promise: a drain moves jobs at a step boundary, with a checkpoint, onto other workers.
    let mut bench = Bench::new();
    let (a, b) = (bench.join("a", 1), bench.join("b", 1));
    bench.create(&ranks("x", 1));
    bench.prepared(a, "x", 1, &[0]);
    let (_, after) = bench.request(|reply| Event::DrainWorker {
        name: worker("a"),
        reply,
    });
    assert_eq!(orders(&after), [format!("stop x g1 Checkpoint -> {}", a.0)]);
    bench.checkpoint(a, "x", 1, 4);
    let after = bench.stopped(a, "x", 1, Outcome::Ordered);
    assert_eq!(orders(&after), [format!("prepare x g2 -> {}", b.0)]);
    assert_eq!(
        bench.machine.worker(&worker("a")).unwrap().state,
        WorkerState::Draining
    );
    let after = bench.prepared(b, "x", 2, &[0]);
    assert_eq!(orders(&after), [format!("start x g2 from 4 -> {}", b.0)]);
}

#[test]
fn requests_are_idempotent_and_names_unique() {
    // Promise: the same request id and spec give the same job; with another spec it is an error; a
    // taken name is one too.
    let mut bench = Bench::new();
    let mut create = |spec: espalier_spec::JobSpec, id: &str| {
        let (uid, id) = (format!("uid-{}", bench.fresh()), Some(id.to_owned()));
        bench
            .request(|reply| Event::CreateJob {
                spec: Box::new(spec),
                uid,
                request_id: id,
                reply,
            })
            .0
    };
    let first = create(ranks("x", 1), "r1").unwrap();
    assert_eq!(create(ranks("x", 1), "r1").unwrap(), first);
    assert_eq!(
        create(ranks("x", 2), "r1").unwrap_err().kind,
        ErrorKind::InvalidArgument
    );
    assert_eq!(
        create(ranks("x", 1), "r2").unwrap_err().kind,
        ErrorKind::AlreadyExists
    );
}

#[test]
fn strangers_are_refused_and_strays_stopped() {
    // Promise: another version or a live worker's name is refused; a generation that nobody gave a
    // worker is stopped before the worker gets work; stale reports are counted and ignored.
    let (mut bench, a, _) = two_ranks();
    let (conn, after) = bench.connect("a", 1, "second", Vec::new());
    let refused = |after: &[Command]| {
        after.iter().find_map(|command| match command {
            Command::CloseConnection {
                conn: closed,
                error,
            } if *closed == conn => Some(error.kind),
            _ => None,
        })
    };
    assert_eq!(refused(&after), Some(ErrorKind::AlreadyExists));
    let stale = bench.machine.cluster().stale_reports;
    bench.stopped(a, "x", 9, failure("bad_data", false));
    assert_eq!(bench.machine.cluster().stale_reports, stale + 1);
    assert_eq!(bench.state("x"), JobState::Running);
    let mut stray = running(&bench, "x", 1, &[0]);
    stray.uid = "another".to_owned();
    let (c, after) = bench.connect("c", 1, "first", vec![stray]);
    assert_eq!(orders(&after), [format!("stop x g1 Abort -> {}", c.0)]);
    bench.create(&ranks("y", 1));
    assert_eq!(bench.state("y"), JobState::Queued);
    let after = bench.stopped(c, "x", 1, Outcome::Ordered);
    assert_eq!(orders(&after), [format!("prepare y g1 -> {}", c.0)]);
}
