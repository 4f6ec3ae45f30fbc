//! An operator that ends at random ends up where one that never ends does.
#![allow(clippy::unwrap_used)]

use super::kit::{Cluster, Crash, resource};
use crate::resource::{TrainingJobSpec, TrainingJobStatus};
use espalier_proto::v1;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Something that happens to a resource or its job.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Suspend,
    Resume,
    Edit(u64),
    Expiry,
    Advance,
    Away,
    Back,
    Delete,
}

/// What happens, in order; the same seed gives the same.
fn script(random: &mut StdRng) -> Vec<Happening> {
    let mut script: Vec<Happening> = (0..random.random_range(3..12))
        .map(|_| match random.random_range(0..9) {
            0 => Happening::Suspend,
            1 => Happening::Resume,
            2 => Happening::Edit(random.random_range(1..4)),
            3 => Happening::Expiry,
            4 => Happening::Away,
            5 => Happening::Back,
            _ => Happening::Advance,
        })
        .collect();
    // Nothing is decided while nobody answers.
    script.push(Happening::Back);
    if random.random_bool(0.4) {
        script.push(Happening::Delete);
    }
    script
}

fn happen(cluster: &mut Cluster, happening: Happening) {
    let edit = |cluster: &mut Cluster, change: &dyn Fn(&mut TrainingJobSpec)| cluster.edit(change);
    match happening {
        Happening::Suspend => edit(cluster, &|spec| spec.suspend = true),
        Happening::Resume => edit(cluster, &|spec| spec.suspend = false),
        Happening::Edit(seed) => edit(cluster, &|spec| spec.job["seed"] = seed.into()),
        Happening::Expiry => edit(cluster, &|spec| spec.ttl_seconds_after_finished = Some(60)),
        Happening::Advance => {
            cluster.advance();
        }
        Happening::Away => cluster.reachable = false,
        Happening::Back => cluster.reachable = true,
        Happening::Delete => cluster.delete(),
    }
}

/// A resource as it is left, and the jobs by name.
type Essence = (
    Option<(TrainingJobSpec, TrainingJobStatus)>,
    Vec<(String, v1::Job)>,
);

/// What must be the same: uids, ids and times tell which way it went, not where to.
fn essence(cluster: &Cluster) -> Essence {
    let resource = cluster.resource.clone().map(|resource| {
        let mut status = resource.status.unwrap_or_default();
        status.job_uid = status.job_uid.map(|_| String::new());
        status.request_id = status.request_id.map(|_| String::new());
        for condition in &mut status.conditions {
            condition.last_transition_time = k8s_time();
        }
        status.conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        (resource.spec, status)
    });
    let jobs = cluster.jobs.iter().map(|(name, (_, job))| {
        let mut job = job.clone();
        job.uid.clear();
        (name.clone(), job)
    });
    (resource, jobs.collect())
}

fn k8s_time() -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    use k8s_openapi::jiff::Timestamp;
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH)
}

/// Runs a script; `restarts`: how the operator ends in the middle of passes, if it does.
fn run(script: &[Happening], restarts: Option<&mut StdRng>) -> (Cluster, u32) {
    let mut cluster = Cluster::new(resource("a"));
    let mut ends = 0;
    let mut restarts = restarts;
    for happening in script {
        if let Some(random) = &mut restarts {
            // It ends a few times, each time somewhere else; whoever comes next knows nothing.
            for _ in 0..random.random_range(1..4) {
                let crash = match random.random_range(0..3) {
                    0 => Crash::BeforeWriting,
                    1 => Crash::BeforeActing,
                    _ => Crash::AfterActing,
                };
                ends += 1;
                cluster.pass(Some(crash));
            }
        }
        // Whatever was cut short is done before the next thing happens: else it would be another story.
        cluster.settle();
        happen(&mut cluster, *happening);
    }
    for _ in 0..4 {
        cluster.settle();
        cluster.advance();
    }
    cluster.now += 100;
    cluster.settle();
    (cluster, ends)
}

// Promise: after 1,000 random restarts, at any step of a pass, resource and jobs are as after none.
#[test]
fn a_thousand_restarts() {
    let (mut ends, mut seed) = (0, 0);
    while ends < 1000 {
        let script = script(&mut StdRng::seed_from_u64(seed));
        let (calm, _) = run(&script, None);
        let (rough, some) = run(&script, Some(&mut StdRng::seed_from_u64(seed + 1_000_000)));
        assert_eq!(essence(&calm), essence(&rough), "seed {seed}: {script:?}");
        assert!(calm.jobs.len() <= 1, "seed {seed}");
        ends += some;
        seed += 1;
    }
}

// Promise: whatever happens in the middle of whatever, no job is left without its resource and none is
// created twice.
#[test]
fn nothing_is_orphaned() {
    for seed in 0..500 {
        let mut random = StdRng::seed_from_u64(seed);
        let script = script(&mut random);
        let mut cluster = Cluster::new(resource("a"));
        for happening in &script {
            for _ in 0..random.random_range(0..3) {
                let crash = match random.random_range(0..4) {
                    0 => Some(Crash::BeforeWriting),
                    1 => Some(Crash::BeforeActing),
                    2 => Some(Crash::AfterActing),
                    _ => None,
                };
                cluster.pass(crash);
            }
            happen(&mut cluster, *happening);
            assert!(cluster.jobs.len() <= 1, "seed {seed}");
        }
        cluster.delete();
        for _ in 0..4 {
            cluster.settle();
            cluster.advance();
        }
        cluster.settle();
        assert!(
            cluster.resource.is_none(),
            "seed {seed}: {:?}",
            cluster.status()
        );
        assert!(cluster.jobs.is_empty(), "seed {seed}: {script:?}");
    }
}
