//! Generations of one job whose workers hold parts of snapshots in memory, or go on from checkpoints.

mod disk;

use crate::kit::{Layout, plan, spec};
use espalier_comm::{Listener, host_id};
use espalier_spec::exchange::Sharding;
use espalier_spec::job::Metric;
use espalier_spec::plan::ExchangePlan;
use espalier_spec::recovery::{Milestone, Restore};
use espalier_spec::report::{Checkpoint, Evaluation};
use espalier_spec::{Generation, JobSpec, Plan, Rank, Step};
use espalier_worker::agent::control::Control;
use espalier_worker::agent::held::{Held, Holding};
use espalier_worker::agent::report::{Address, Content};
use espalier_worker::engine::{Ending, Error, RankContext, Sources, run_rank};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const STEPS: u64 = 12;
/// Evaluated after this step, and then something happens.
const EVENT: u64 = 7;
const UID: &str = "uid";
const ALL: &[u32] = &[0, 1, 2, 3];

/// A worker's name and memory.
struct Worker {
    name: &'static str,
    held: Arc<Held>,
}

impl Worker {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            held: Arc::default(),
        }
    }

    /// Steps of which it holds any part.
    fn steps(&self) -> BTreeSet<u64> {
        let held = Holding::open(&self.held, UID).snapshots();
        held.iter().map(|h| h.step.0).collect()
    }

    fn holds(&self, rank: usize, step: u64) -> bool {
        let held = Holding::open(&self.held, UID).snapshots();
        let (rank, step) = (Rank(rank as u32), Step(step));
        held.iter().any(|h| h.rank == rank && h.step == step)
    }
}

/// What the coordinator would order: the newest step of which every rank's part is held somewhere.
fn newest(hosts: &[&Worker]) -> Option<Restore> {
    let provider = |rank: usize, step: u64| {
        let lowest = hosts.iter().position(|host| host.holds(rank, step));
        lowest.map(|lowest| Rank(lowest as u32))
    };
    (0..=STEPS).rev().find_map(|step| {
        let ranks = 0..hosts.len();
        let providers: Option<Vec<Rank>> = ranks.map(|rank| provider(rank, step)).collect();
        providers.map(|providers| Restore {
            step: Step(step),
            providers,
        })
    })
}

/// One job in its directory.
struct Job {
    spec: JobSpec,
    plan: Plan,
    sources: Arc<Sources>,
    dir: tempfile::TempDir,
}

/// How one generation went: the ranks' endings and what rank 0 told.
struct Went {
    endings: Vec<Result<Ending, Error>>,
    told: Vec<Content>,
}

impl Went {
    fn milestones(&self) -> Vec<(Milestone, u64)> {
        let told = self.told.iter();
        let milestones = told.filter_map(|content| match content {
            Content::Reached(milestone, step) => Some((*milestone, step.0)),
            _ => None,
        });
        milestones.collect()
    }

    fn test(&self) -> Option<&Evaluation> {
        self.told.iter().find_map(|content| match content {
            Content::Evaluation(evaluation) if evaluation.split == "test" => Some(evaluation),
            _ => None,
        })
    }

    /// Evaluations during training, after more than so many steps.
    fn validations(&self, after: u64) -> Vec<&Evaluation> {
        let told = self.told.iter();
        let validations = told.filter_map(|content| match content {
            Content::Evaluation(evaluation) => Some(evaluation),
            _ => None,
        });
        validations
            .filter(|one| one.split == "validation" && one.step.0 > after)
            .collect()
    }

    /// Steps of checkpoints.
    fn checkpoints(&self) -> Vec<u64> {
        let told = self.told.iter();
        let checkpoints = told.filter_map(|content| match content {
            Content::Checkpoint(checkpoint) => Some(checkpoint.step.0),
            _ => None,
        });
        checkpoints.collect()
    }

    #[track_caller]
    fn assert_stopped(&self) {
        let stopped = |ending: &Result<Ending, Error>| matches!(ending, Ok(Ending::Stopped));
        assert!(self.endings.iter().all(stopped), "{:?}", self.endings);
    }

    #[track_caller]
    fn assert_exported(&self) {
        let exported = |ending: &Result<Ending, Error>| matches!(ending, Ok(Ending::Exported(_)));
        assert!(self.endings.iter().all(exported), "{:?}", self.endings);
    }
}

/// What happens once the run was evaluated after step [`EVENT`]: told each rank's control.
type Event<'a> = &'a (dyn Fn(&[Arc<Control>]) + Sync);
/// What happens with everything that rank 0 tells.
type Hook<'a> = &'a (dyn Fn(&Content, &[Arc<Control>]) + Sync);

/// Where a generation goes on.
#[derive(Default)]
struct Origin {
    resume: Option<Checkpoint>,
    restore: Option<Restore>,
}

impl Job {
    fn new(folder: &Path, ranks: u32, sharding: Sharding, every: Option<u64>) -> Self {
        Self::changed(folder, (ranks, sharding), every, |_| {})
    }

    fn changed(
        folder: &Path,
        (ranks, sharding): (u32, Sharding),
        every: Option<u64>,
        change: impl FnOnce(&mut Value),
    ) -> Self {
        let spec = spec(folder, STEPS, |job| {
            job["evaluation"] = json!({"every_steps": EVENT});
            job["checkpoint"] = json!({"every_steps": 0});
            if let Some(every) = every {
                job["recovery"] = json!({"snapshot_every": every});
            }
            change(job);
        });
        let sources = Sources::load(&spec).unwrap();
        let how = ExchangePlan {
            sharding,
            ..ExchangePlan::default()
        };
        let shards = &ALL[..ranks as usize];
        let layout = Layout::new(ranks, &[shards, shards, shards], how);
        Self {
            plan: plan(&sources.profile(&spec).unwrap(), &layout),
            sources: Arc::new(sources),
            dir: tempfile::tempdir().unwrap(),
            spec,
        }
    }

    /// Runs a generation whose rank r is on `hosts[r]`.
    fn generation(
        &self,
        number: u64,
        hosts: &[&Worker],
        restore: Option<Restore>,
        event: Event<'_>,
    ) -> Went {
        let from = Origin {
            restore,
            ..Origin::default()
        };
        self.run(number, hosts, from, &|content, controls| {
            if let Content::Evaluation(evaluation) = content
                && evaluation.step == Step(EVENT)
            {
                event(controls);
            }
        })
    }

    fn run(&self, number: u64, hosts: &[&Worker], from: Origin, hook: Hook<'_>) -> Went {
        let mut plan = self.plan.clone();
        plan.generation = Generation(number);
        for (seat, host) in plan.seats.iter_mut().zip(hosts) {
            seat.worker = host.name.into();
        }
        let any = ([127, 0, 0, 1], 0).into();
        let bind = |_: &&Worker| Listener::bind(any).unwrap();
        let listeners: Vec<Listener> = hosts.iter().map(bind).collect();
        let address = |(rank, listener): (usize, &Listener)| Address {
            rank: Rank(rank as u32),
            address: listener.address().to_string(),
            host_id: host_id(),
        };
        let addresses: Vec<Address> = listeners.iter().enumerate().map(address).collect();
        let mut by_name: BTreeMap<&str, Arc<Control>> = BTreeMap::new();
        let mut controls = Vec::new();
        for host in hosts {
            controls.push(Arc::clone(by_name.entry(host.name).or_default()));
        }
        let told = Mutex::new(Vec::new());
        let endings: Vec<Result<Ending, Error>> = std::thread::scope(|scope| {
            let mut ranks = Vec::new();
            for (rank, listener) in listeners.into_iter().enumerate() {
                let context = RankContext {
                    spec: self.spec.clone(),
                    plan: plan.clone(),
                    rank: Rank(rank as u32),
                    device: "cpu".to_owned(),
                    threads: 1,
                    dir: self.dir.path().to_owned(),
                    sources: Arc::clone(&self.sources),
                    resume: from.resume.clone(),
                    restore: from.restore.clone(),
                    secret: None,
                    holding: Arc::new(Holding::open(&hosts[rank].held, UID)),
                    control: Arc::clone(&controls[rank]),
                };
                let (addresses, controls, told) = (&addresses, &controls, &told);
                ranks.push(scope.spawn(move || {
                    let tell = |content: Content| {
                        hook(&content, controls);
                        told.lock().unwrap().push(content);
                    };
                    let control = Arc::clone(&context.control);
                    let ending = run_rank(context, listener, addresses, &tell);
                    if ending.is_err() {
                        control.abort();
                    }
                    ending
                }));
            }
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        Went {
            endings,
            told: told.into_inner().unwrap(),
        }
    }

    fn exported(&self, file: &str) -> Vec<u8> {
        let path: PathBuf = self.dir.path().join("export").join(file);
        std::fs::read(path).unwrap()
    }

    /// Panics unless this job ended with the same bits as one that nothing happened to.
    #[track_caller]
    fn assert_undisturbed(&self, went: &Went, folder: &Path) {
        went.assert_exported();
        let ranks = self.plan.seats.len() as u32;
        let other = Self::new(folder, ranks, self.plan.exchange.sharding, Some(0));
        let alone = Worker::new("alone");
        let hosts = vec![&alone; ranks as usize];
        let undisturbed = other.generation(1, &hosts, None, &|_| {});
        assert!(newest(&hosts).is_none(), "a job without snapshots took one");
        assert_eq!(went.test(), undisturbed.test());
        for file in ["model.safetensors", "heads.safetensors"] {
            assert!(
                self.exported(file) == other.exported(file),
                "{file} differs"
            );
        }
    }
}

fn abort(controls: &[Arc<Control>]) {
    controls.iter().for_each(|control| control.abort());
}

// Promise: a run whose ranks all stop at once, and one of whose workers is lost with its memory, goes on
// from what the others hold, on fewer workers, on a new one or on both, and ends with the same bits as
// if nothing had happened; whatever is sharded.
#[test]
fn a_lost_worker_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (lost, left, new, third) = (0, 1, 2, 3);
    for (sharding, every, before, after) in [
        (
            Sharding::Optimizer,
            Some(3),
            [lost, left].as_slice(),
            [left, left].as_slice(),
        ),
        (
            Sharding::None,
            None,
            [lost, left].as_slice(),
            [new, left].as_slice(),
        ),
        (
            Sharding::Full,
            Some(3),
            // All three then lack parts, of which they keep some and some only pass.
            [left, left, lost, third].as_slice(),
            [left, left, new, third].as_slice(),
        ),
    ] {
        let ranks = before.len() as u32;
        let job = Job::new(folder.path(), ranks, sharding, every);
        let workers = ["lost", "left", "new", "third"].map(Worker::new);
        let on = |places: &[usize]| -> Vec<&Worker> {
            places.iter().map(|place| &workers[*place]).collect()
        };
        let cut = job.generation(1, &on(before), None, &abort);
        for ending in &cut.endings {
            let failure = ending.as_ref().unwrap_err().failure();
            assert!(failure.retryable, "{failure:?}");
        }
        let order = newest(&on(after)).unwrap();
        let from = order.step.0;
        if every.is_some() {
            assert_eq!(from, 6, "the newest snapshot before step {EVENT}");
            for place in before {
                assert_eq!(workers[*place].steps(), BTreeSet::from([6]));
            }
        }
        let went = job.generation(2, &on(after), Some(order), &|_| {});
        let reached = [
            (Milestone::Connected, from),
            (Milestone::Restored, from),
            (Milestone::FirstStep, from + 1),
        ];
        assert_eq!(went.milestones(), reached);
        job.assert_undisturbed(&went, folder.path());
    }
}

// Promise: a task with a cadence of its own is evaluated at the first evaluation, at its own steps and at the end;
// in between its last figure counts, also where the run went on without the worker that had computed it.
#[test]
fn last_figures_outlive_a_worker() {
    let folder = tempfile::tempdir().unwrap();
    let job = |every| {
        let how = (2, Sharding::Optimizer);
        Job::changed(folder.path(), how, Some(every), |job| {
            job["evaluation"] = json!({"every_steps": 1});
            job["tasks"][2]["evaluation"] = json!({"every_steps": 5});
        })
    };
    let (disturbed, whole) = (job(3), job(0));
    let (lost, left, alone) = (
        Worker::new("lost"),
        Worker::new("left"),
        Worker::new("alone"),
    );
    disturbed.generation(1, &[&lost, &left], None, &abort);
    let order = newest(&[&left, &left]).unwrap();
    assert_eq!(order.step.0, 6);
    let went = disturbed.generation(2, &[&left, &left], Some(order), &|_| {});
    let undisturbed = whole.generation(1, &[&alone, &alone], None, &|_| {});
    assert_eq!(went.validations(6), undisturbed.validations(6));

    let all = undisturbed.validations(0);
    let with_amount = all.iter().filter(|one| one.tasks.contains_key("amount"));
    let steps: Vec<u64> = with_amount.map(|one| one.step.0).collect();
    assert_eq!(steps, [1, 5, 10, 12]);
    let figure =
        |step: usize, task: &str, metric: Metric| all[step - 1].tasks[task].metrics[&metric];
    let mean = (figure(7, "topic", Metric::Accuracy)
        + figure(7, "mentions", Metric::MacroF1)
        + figure(5, "amount", Metric::Pearson))
        / 3.0;
    assert!((all[6].selection - mean).abs() < 1e-12, "{:?}", all[6]);
}

// Promise: after a handover nothing is replayed: all ranks stop at the same step though only one worker
// was told, the other worker holds everything, of that step alone, and goes on from there alone.
#[test]
fn a_handover_replays_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let job = Job::new(folder.path(), 2, Sharding::Optimizer, Some(100));
    let (goes, stays) = (Worker::new("goes"), Worker::new("stays"));
    let hand_over = |controls: &[Arc<Control>]| controls[0].hand_over();
    let stopped = job.generation(1, &[&goes, &stays], None, &hand_over);
    stopped.assert_stopped();
    assert!(stopped.checkpoints().is_empty());
    let order = newest(&[&stays, &stays]).unwrap();
    assert_eq!(order.step.0, EVENT + 1);
    for worker in [&goes, &stays] {
        assert_eq!(worker.steps(), BTreeSet::from([EVENT + 1]));
    }
    let went = job.generation(2, &[&stays, &stays], Some(order), &|_| {});
    let reached = (Milestone::FirstStep, EVENT + 2);
    assert_eq!(went.milestones().last(), Some(&reached));
    job.assert_undisturbed(&went, folder.path());
}

// Promise: a snapshot that nobody would be left to hold is a checkpoint instead: where the job has
// none, and where all workers leave; if only one leaves, it is a snapshot.
#[test]
fn what_nobody_would_hold_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Worker::new("a"), Worker::new("b"));
    let off = Job::new(folder.path(), 2, Sharding::Optimizer, Some(0));
    let told = off.generation(1, &[&a, &b], None, &|controls| controls[0].hand_over());
    told.assert_stopped();
    assert_eq!(told.checkpoints(), [EVENT + 1]);

    let on = Job::new(folder.path(), 2, Sharding::Optimizer, Some(100));
    let all = |controls: &[Arc<Control>]| controls.iter().for_each(|control| control.leave());
    let told = on.generation(1, &[&a, &b], None, &all);
    told.assert_stopped();
    assert_eq!(told.checkpoints(), [EVENT + 2]);

    let told = on.generation(2, &[&a, &b], None, &|controls| controls[0].leave());
    told.assert_stopped();
    assert!(told.checkpoints().is_empty());
    assert!(b.holds(0, EVENT + 2) && b.holds(1, EVENT + 2));
}

// Promise: a snapshot that is not where the coordinator believes it to be is an error that names rank
// and step and can be tried again.
#[test]
fn a_part_that_is_nowhere_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let job = Job::new(folder.path(), 2, Sharding::Optimizer, Some(3));
    let (a, b) = (Worker::new("a"), Worker::new("b"));
    let order = Restore {
        step: Step(5),
        providers: vec![Rank(0), Rank(1)],
    };
    let went = job.generation(2, &[&a, &b], Some(order), &|_| {});
    let errors: Vec<&Error> = went
        .endings
        .iter()
        .filter_map(|e| e.as_ref().err())
        .collect();
    assert_eq!(errors.len(), 2);
    assert!(errors.iter().all(|error| error.failure().retryable));
    let missing = |error: &&&Error| matches!(error, Error::NoSnapshot { .. });
    let text = errors.iter().find(missing).unwrap().to_string();
    assert!(text.contains("step 5") && text.contains("rank 0"), "{text}");
}
