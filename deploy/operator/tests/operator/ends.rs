//! The whole operator, ended a thousand times at any request, beside one that is left alone.

use crate::apiserver::key;
use crate::kit::{Worker, hello, soon, until};
use crate::stage::{Stage, job};
use espalier_operator::decide::{Seen, World, decide, may_have_job};
use espalier_operator::lease::Timing;
use espalier_operator::resource::{State, TrainingJobStatus};
use espalier_operator::run::run;
use espalier_proto::v1;
use espalier_proto::v1::coordinator_message::Message as Order;
use espalier_proto::v1::job::State as Job;
use espalier_proto::v1::worker_message::Message;
use k8s_openapi::jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

const LEASE: &str = "apis/coordination.k8s.io/v1/namespaces/espalier/leases/espalier-operator";

/// Resources, one after another; what happens to each; operators that end after each of it.
const LIVES: usize = 25;
const HAPPENINGS: usize = 5;
const ENDS: usize = 8;

/// An operator with threads of its own, as a process has them: with it ends whatever it was at.
struct Process(Option<Runtime>);

impl Process {
    /// `retry`: how often it looks after its lease.
    fn start(stage: &Stage, retry: Duration) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let client = {
            let _inside = runtime.enter();
            stage.api.client()
        };
        let mut settings = stage.settings();
        settings.timing = Timing {
            retry,
            ..Timing::default()
        };
        runtime.spawn(async move {
            // Kept, since it is never told to end in order.
            let (_stop, stopping) = watch::channel(false);
            run(&settings, client, stopping).await
        });
        Self(Some(runtime))
    }

    async fn kill(mut self) {
        let runtime = self.0.take().unwrap();
        let gone = move || runtime.shutdown_timeout(Duration::from_secs(10));
        let gone = tokio::task::spawn_blocking(gone);
        soon("an operator's end", gone).await.unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Happening {
    Create,
    Suspend,
    Resume,
    Edit(u32),
    Finish,
    Expire,
    Delete,
}

fn script(random: &mut StdRng) -> [Happening; HAPPENINGS] {
    let mut script = [Happening::Create; HAPPENINGS];
    for happening in &mut script[1..] {
        *happening = match random.random_range(0..7) {
            0 | 1 => Happening::Suspend,
            2 => Happening::Resume,
            3 | 4 => Happening::Edit(random.random_range(1..4)),
            5 => Happening::Finish,
            _ => Happening::Expire,
        };
    }
    script[HAPPENINGS - 1] = Happening::Delete;
    script
}

/// A stage with a worker, and the operator that works on it now.
struct Cluster {
    stage: Stage,
    worker: Worker,
    /// What the worker runs.
    start: Option<v1::Start>,
    operator: Option<Process>,
    /// How often operators look after their lease.
    retry: Duration,
}

/// What is compared of a resource: all but words, names, ids, times and how far its job is.
type Bones = (Option<State>, Option<i64>, Vec<(String, String, String)>);

fn bones(status: TrainingJobStatus) -> Bones {
    let conditions = status.conditions.into_iter();
    let mut conditions: Vec<_> = conditions.map(|c| (c.type_, c.status, c.reason)).collect();
    conditions.sort();
    (status.state, status.observed_generation, conditions)
}

/// Likewise of a resource and its job.
type Essence = (Option<Bones>, Option<(Job, u64, Option<u64>)>);

impl Cluster {
    async fn start(retry: Duration) -> Self {
        let stage = Stage::start().await;
        let worker = Worker::join(&stage.node, hello("w")).await;
        Self {
            stage,
            worker,
            start: None,
            operator: None,
            retry,
        }
    }

    /// `waits`: its job wants more ranks than there are.
    async fn happen(&mut self, name: &str, happening: Happening, waits: bool) {
        if matches!(happening, Happening::Create) {
            let mut job = job();
            if waits {
                job["resources"] = json!({ "ranks": 2 });
            }
            return self.stage.create_of(name, job);
        }
        if self.stage.resource(name).is_none() {
            return;
        }
        let edit = |spec: Value| self.stage.edit(name, spec);
        match happening {
            Happening::Create => {}
            Happening::Suspend => edit(json!({ "suspend": true })),
            Happening::Resume => edit(json!({ "suspend": false })),
            Happening::Edit(seed) => edit(json!({ "job": { "seed": seed } })),
            Happening::Expire => edit(json!({ "ttlSecondsAfterFinished": 0 })),
            Happening::Delete => self.stage.delete(name),
            Happening::Finish => {
                if let Some(start) = self.start.take() {
                    self.worker.finish(&start).await;
                    self.leaves(name, Job::Running).await;
                }
            }
        }
    }

    /// The operator ends at one of its next requests, whatever it is at; nobody takes its place yet.
    async fn end(&mut self, random: &mut StdRng) {
        let (requests, done) = (random.random_range(0..24), random.random_bool(0.5));
        self.stage.api.die_after(requests, done);
        let operator = self.operator.take();
        let operator = operator.unwrap_or_else(|| Process::start(&self.stage, self.retry));
        soon("its last request", self.stage.api.dead()).await;
        operator.kill().await;
        // The next one would have to wait until it has run out, which tests of the lease do. It may have ended
        // before it had one.
        let lease = key(LEASE);
        let api = &self.stage.api;
        api.with(|store| store.delete(&lease, &Value::Null).ok());
    }

    /// An operator works until nothing is left to be done, neither for it nor for the worker.
    async fn rest(&mut self, name: &str, waits: bool) {
        self.stage.api.revive();
        if self.operator.is_none() {
            self.operator = Some(Process::start(&self.stage, self.retry));
        }
        loop {
            let rest = async || self.is_at_rest(name).await.then_some(());
            until("rest", rest).await;
            if !self.attend(name, waits).await {
                return;
            }
        }
    }

    /// Whether the operator has nothing to do about a resource, and has said all there is to say.
    async fn is_at_rest(&self, name: &str) -> bool {
        let Some(resource) = self.stage.resource(name) else {
            return true;
        };
        let job = match may_have_job(&resource) {
            true => self.stage.job(name).await,
            false => None,
        };
        let said = resource.status.clone().unwrap_or_default();
        let decision = decide(&World {
            now: Timestamp::now(),
            resource,
            job: job.map_or(Seen::Absent, |job| Seen::Present(Box::new(job))),
            devices_per_worker: 1,
        });
        let same = said.job_uid == decision.status.job_uid && said.replaces.is_none();
        decision.act.is_none() && same && bones(said) == bones(decision.status)
    }

    /// The worker does what it was told to, if it was; true if something came of it.
    async fn attend(&mut self, name: &str, waits: bool) -> bool {
        let Some(job) = self.stage.job(name).await else {
            return false;
        };
        match job.state() {
            Job::Queued if !waits => {}
            Job::Preparing => {
                self.worker.prepare().await;
                let start = self.worker.started().await;
                self.worker.progress(&start, 10 * start.generation).await;
                self.start = Some(start);
            }
            Job::Pausing | Job::Cancelling => {
                let order = self.worker.order().await;
                assert!(matches!(order, Order::Stop(_)), "{order:?}");
                let start = self.start.take().unwrap();
                if job.state() == Job::Pausing {
                    let step = 10 * start.generation + 1;
                    self.worker.checkpoint(&start, step).await;
                }
                let outcome = v1::stopped::Outcome::Ordered(v1::stopped::StoppedAsOrdered {});
                let stopped = v1::Stopped {
                    job: start.job,
                    generation: start.generation,
                    outcome: Some(outcome),
                };
                self.worker.say(Message::Stopped(stopped)).await;
            }
            _ => return false,
        }
        self.leaves(name, job.state()).await;
        true
    }

    /// Waits until the job is in another state.
    async fn leaves(&self, name: &str, state: Job) {
        until("the job's next state", async || {
            let job = self.stage.job(name).await;
            job.is_none_or(|job| job.state() != state).then_some(())
        })
        .await;
    }

    async fn essence(&self, name: &str) -> Essence {
        let resource = self.stage.resource(name);
        let resource = resource.map(|resource| bones(resource.status.unwrap_or_default()));
        let job = self.stage.job(name).await.map(|job| {
            let seed = job.spec.as_ref().map(|spec| spec.seed);
            (job.state(), job.generation, seed)
        });
        (resource, job)
    }

    /// Nothing of a resource is left, neither here nor there.
    async fn is_empty(&self, name: &str) -> bool {
        let open = self.stage.coordinator().open_jobs().await.unwrap();
        self.stage.resource(name).is_none()
            && self.stage.job(name).await.is_none()
            && open.is_empty()
    }
}

// Promise: after 1,000 ends of the whole operator, at any of its requests, resources and jobs are as those of
// one that was left alone, after each thing that happens to them; no job ran once more than there, and none is
// left behind.
#[tokio::test]
async fn a_thousand_ends() {
    let mut calm = Cluster::start(Duration::from_millis(100)).await;
    // So often that requests come, and with them the end, also where nothing is to be done.
    let mut rough = Cluster::start(Duration::from_millis(2)).await;
    let mut random = StdRng::seed_from_u64(1);
    let mut ends = 0;
    for life in 0..LIVES {
        let (name, script) = (format!("life{life}"), script(&mut random));
        // Every third job never finds its ranks: it can still become another one.
        let waits = life % 3 == 0;
        for happening in script {
            calm.happen(&name, happening, waits).await;
            calm.rest(&name, waits).await;
            rough.happen(&name, happening, waits).await;
            for _ in 0..ENDS {
                rough.end(&mut random).await;
                ends += 1;
            }
            rough.rest(&name, waits).await;
            let (one, other) = (calm.essence(&name).await, rough.essence(&name).await);
            assert_eq!(one, other, "{name}, {happening:?} of {script:?}");
        }
        assert!(calm.is_empty(&name).await, "{name}: {script:?}");
        assert!(rough.is_empty(&name).await, "{name}: {script:?}");
    }
    assert_eq!(ends, 1000);
    for cluster in [calm, rough] {
        cluster.operator.unwrap().kill().await;
        cluster.stage.node.stop().await;
    }
}
