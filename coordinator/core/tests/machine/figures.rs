//! What those see who watch over a cluster.

use crate::kit::{Bench, ranks};
use espalier_core::{Event, JobState, Time, WorkerState};
use espalier_spec::{Generation, Step};
use std::collections::BTreeMap;

// Promise: jobs and workers are counted by the states that they are shown in; only jobs that have not
// ended have numbers of their own, and the longest wait grows while nothing happens.
#[test]
fn a_cluster_in_numbers() {
    let mut bench = Bench::new();
    let conns = [bench.join("a", 1), bench.join("b", 1), bench.join("c", 1)];
    bench.create(&ranks("x", 1));
    bench.prepared(conns[0], "x", 1, &[0]);
    bench.trains(conns[0], "x", 1, 1);
    bench.progress(conns[0], "x", 1, 7);
    bench.create(&ranks("ended", 9));
    bench.cancel("ended").unwrap();
    let queued = bench.now;
    bench.create(&ranks("large", 9));
    bench.step(Event::WorkerDisconnected { conn: conns[2] });
    bench.now += 1_000;
    bench.create(&ranks("behind", 9));

    let figures = bench.machine.figures(Time(queued + 30_000));
    assert_eq!(figures.oldest_wait_ms, 30_000);
    let jobs = bench.machine.jobs(0, usize::MAX, &[]);
    let mut shown: BTreeMap<JobState, u64> = BTreeMap::new();
    for (_, job) in &jobs {
        *shown.entry(job.state).or_default() += 1;
    }
    assert_eq!(figures.jobs, shown);
    assert_eq!(figures.jobs[&JobState::Queued], 2);
    let mut workers: BTreeMap<WorkerState, u64> = BTreeMap::new();
    for worker in bench.machine.workers() {
        *workers.entry(worker.state).or_default() += 1;
    }
    assert_eq!(figures.workers, workers);
    assert_eq!(figures.workers[&WorkerState::Unreachable], 1);
    let names: Vec<&str> = figures
        .active
        .iter()
        .map(|job| job.name.0.as_str())
        .collect();
    assert_eq!(names, ["x", "large", "behind"]);
    let x = &figures.active[0];
    assert_eq!((x.state, x.generation), (JobState::Running, Generation(1)));
    assert_eq!(x.progress.as_ref().unwrap().step, Step(7));
    assert_eq!((x.recoveries, x.replayed_steps), (0, 0));
    assert_eq!(x.namespace, "default");
    assert_eq!(figures.active[1].progress, None);
}
