//! Workers' agents, as the real one is: a stream to the leader, orders obeyed, reports kept while
//! there is no stream. A worker's process outlives its streams; its memory dies with it.

use crate::lead::VERSION;
use crate::net::Up;
use crate::worker::{Goal, Hosted, Said, Stage, Told, What, Worker, failure, profile};
use crate::world::{Happening, Key, Process, World};
use espalier_core::{ErrorKind, Hello, Order, Outcome, PeerAddress, StopMode};
use espalier_spec::recovery::HeldSnapshot;
use espalier_spec::{Rank, Step, WorkerId};
use std::collections::BTreeSet;

impl World {
    pub(crate) fn process_of(&self, w: usize) -> Process {
        let number = self.workers[w].number;
        Process { index: w, number }
    }

    pub(crate) fn lives(&self, process: Process) -> bool {
        let worker = &self.workers[process.index];
        worker.up && worker.number == process.number
    }

    pub(crate) fn start_worker(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        if worker.up {
            return;
        }
        let (devices, number, next) = (worker.devices, worker.number + 1, worker.next);
        *worker = Worker::new(w, devices);
        (worker.up, worker.number, worker.next) = (true, number, next);
        let process = self.process_of(w);
        self.later(1, Happening::Dial(process));
    }

    /// The process dies with all that it has; another one starts in so many milliseconds.
    pub(crate) fn kill_worker(&mut self, w: usize, restart: u64) {
        let worker = &mut self.workers[w];
        worker.up = false;
        worker.stalled_until = 0;
        worker.jobs.clear();
        worker.held.clear();
        worker.kept.clear();
        worker.stream = None;
        // Some die so that nobody is told.
        let notice = if self.chance(4) {
            15_000
        } else {
            self.dice.between(1, 50)
        };
        for conn in self.open_streams(Some(w)) {
            self.break_stream(conn, 0, notice);
        }
        self.later(restart, Happening::Start { worker: w });
    }

    /// Looks for the leader.
    pub(crate) fn dial(&mut self, process: Process) {
        let w = process.index;
        if !self.lives(process) || self.workers[w].stream.is_some() {
            return;
        }
        let c = self.workers[w].next % self.coordinators.len();
        let reachable = self.control_cut[w][c] <= self.now;
        let term = self.coordinators[c]
            .leader
            .as_ref()
            .map(|leader| leader.term);
        let (Some(term), true) = (term, reachable) else {
            self.workers[w].next += 1;
            let pause = self.dice.between(50, 500);
            return self.later(pause, Happening::Dial(process));
        };
        let conn = self.open_stream(process, c, term);
        let worker = &mut self.workers[w];
        worker.stream = Some(conn);
        worker.welcomed = false;
        let hello = Hello {
            name: WorkerId(worker.name.clone()),
            version: VERSION.to_owned(),
            host: format!("host-{w}"),
            devices: vec!["cpu".to_owned(); worker.devices as usize],
            instance: worker.instance(),
            running: worker.running(),
            preempted: worker.leaving,
        };
        self.send_up(conn, Up::Hello(hello));
    }

    /// The worker's end of a stream learns that it is broken.
    pub(crate) fn stream_ended(&mut self, process: Process, conn: u64) {
        let worker = &mut self.workers[process.index];
        if worker.number == process.number && worker.up && worker.stream == Some(conn) {
            worker.stream = None;
            worker.welcomed = false;
            worker
                .jobs
                .values_mut()
                .for_each(|hosted| hosted.stale_beats = 0);
            let pause = self.dice.between(50, 1_000);
            self.later(pause, Happening::Dial(process));
        }
    }

    /// The leader ended the stream with an error.
    pub(crate) fn turned_away(&mut self, process: Process, conn: u64, kind: ErrorKind) {
        if !self.lives(process) || self.workers[process.index].stream != Some(conn) {
            return;
        }
        let fatal = matches!(
            kind,
            ErrorKind::FailedPrecondition | ErrorKind::AlreadyExists | ErrorKind::InvalidArgument
        );
        // The real one ends then and is started again by whoever runs it; another might stay.
        if fatal && self.dice.one_in(2) {
            let restart = self.dice.between(200, 2_000);
            self.kill_worker(process.index, restart);
        } else {
            self.stream_ended(process, conn);
        }
    }

    pub(crate) fn beat(&mut self, process: Process, conn: u64) {
        let w = process.index;
        if !self.lives(process) || self.workers[w].stream != Some(conn) {
            return;
        }
        let running = self.workers[w].running();
        let open = self.is_open(conn);
        for hosted in self.workers[w].jobs.values_mut() {
            let newest = self
                .judge
                .jobs
                .get(&hosted.uid)
                .map_or(0, |truth| truth.stepping);
            let stale = open && newest > hosted.generation;
            hosted.stale_beats = if stale { hosted.stale_beats + 1 } else { 0 };
        }
        self.send_up(conn, Up::Beat(running));
        self.later(1_000, Happening::Beat { process, conn });
    }

    /// Keeps a report until it can be sent; of progress only the newest.
    pub(crate) fn say(&mut self, w: usize, said: Said) {
        let worker = &mut self.workers[w];
        if matches!(said.what, What::Progress(_)) {
            let same = |old: &Said| matches!(old.what, What::Progress(_)) && old.job == said.job;
            worker.kept.retain(|old| !same(old));
        }
        worker.kept.push_back(said);
        self.flush(w);
    }

    fn flush(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        if let (Some(conn), true) = (worker.stream, worker.welcomed) {
            for said in std::mem::take(&mut worker.kept) {
                self.send_up(conn, Up::Report(said));
            }
        }
    }

    /// A generation's ranks on a worker are gone.
    pub(crate) fn end(&mut self, w: usize, job: &str, outcome: Outcome, blames: Option<usize>) {
        if let Some(hosted) = self.workers[w].jobs.remove(job) {
            let what = What::Stopped(outcome);
            let mut said = Said::of(job, &hosted.uid, hosted.generation, what);
            said.blames = blames;
            self.say(w, said);
        }
    }

    /// Rank 0's worker says something of its generation.
    pub(crate) fn report(&mut self, w: usize, job: &str, key: &Key, what: What) {
        self.say(w, Said::of(job, &key.0, key.1, what));
    }

    pub(crate) fn obey(&mut self, process: Process, conn: u64, order: Order) {
        let w = process.index;
        if !self.lives(process) || self.workers[w].stream != Some(conn) {
            return;
        }
        match order {
            Order::Welcome { .. } => {
                self.workers[w].welcomed = true;
                self.flush(w);
                let wait = self.dice.between(1, 1_000);
                self.later(wait, Happening::Beat { process, conn });
            }
            Order::Prepare { .. } => self.prepare(process, order),
            Order::Start {
                job,
                generation,
                resume,
                restore,
                ..
            } => {
                let Some(hosted) = self.workers[w].jobs.get_mut(job.as_str()) else {
                    return;
                };
                let fits = hosted.generation == generation.0 && hosted.stage == Stage::Ready;
                if fits && !hosted.spare {
                    hosted.stage = Stage::Running;
                    hosted.goal = Some(Goal { resume, restore });
                    self.join(process, job.as_str());
                }
            }
            Order::Stop {
                job,
                generation,
                mode,
            } => {
                self.stop(process, job.as_str(), generation.0, mode);
            }
        }
    }

    fn prepare(&mut self, process: Process, order: Order) {
        let Order::Prepare {
            job,
            uid,
            generation,
            spec,
            seats,
            spare,
        } = order
        else {
            return;
        };
        let (w, job) = (process.index, job.0);
        if self.workers[w]
            .jobs
            .get(&job)
            .is_some_and(|old| old.generation >= generation.0)
        {
            return;
        }
        // One generation at a time: the one before has ended when this one loads.
        self.end(w, &job, Outcome::Ordered, None);
        let index = |name: &WorkerId| self.workers.iter().position(|w| w.name == name.0);
        let world: Vec<usize> = seats
            .iter()
            .filter_map(|seat| index(&seat.worker))
            .collect();
        let own = seats
            .iter()
            .filter(|seat| seat.worker.0 == self.workers[w].name);
        let devices: BTreeSet<u32> = own.clone().map(|seat| seat.device).collect();
        let ranks: Vec<u32> = own.map(|seat| seat.rank.0).collect();
        let mut others = self.workers[w].jobs.iter();
        let taken = others.find(|(_, other)| !other.devices.is_disjoint(&devices));
        if let Some((other, _)) = taken {
            let other = other.clone();
            self.judge.fail("a device is given to one job", || {
                format!("w{w} is to prepare {job} on {devices:?}, where {other} still is")
            });
        }
        if spare != ranks.is_empty() {
            let message = || format!("w{w} prepares {job} as spare: {spare}, with ranks {ranks:?}");
            self.judge.fail("spares have no seats", message);
        }
        let known = self.workers[w].held.contains_key(&uid);
        let key = (uid.clone(), generation.0);
        let hosted = Hosted {
            uid,
            generation: generation.0,
            seed: spec.seed,
            world,
            ranks,
            devices,
            stage: Stage::Loading,
            told: Told::GoOn,
            goal: None,
            step: 0,
            spare,
            stale_beats: 0,
        };
        self.workers[w].jobs.insert(job.clone(), hosted);
        let wait = if known {
            self.dice.between(5, 50)
        } else {
            self.dice.between(50, 1_500)
        };
        self.later(wait, Happening::Loaded { process, job, key });
    }

    pub(crate) fn loaded(&mut self, process: Process, job: &str, key: &Key) {
        let w = process.index;
        if !self.lives(process) {
            return;
        }
        let hosted = self.workers[w].hosts(job, key);
        if hosted.is_none_or(|hosted| hosted.stage != Stage::Loading) {
            return;
        }
        if self.chance(150) {
            self.count("failed preparation");
            return self.end(w, job, failure("fetch", true, None), None);
        }
        let held = self.workers[w].held.get(&key.0);
        let held = held.into_iter().flat_map(|held| held.keys());
        let snapshots: Vec<HeldSnapshot> = held
            .map(|(rank, step)| HeldSnapshot {
                rank: Rank(*rank),
                step: Step(*step),
            })
            .collect();
        let Some(hosted) = self.workers[w].jobs.get_mut(job) else {
            return;
        };
        hosted.stage = Stage::Ready;
        let address = |rank: &u32| PeerAddress {
            rank: Rank(*rank),
            address: format!("host-{w}:{rank}"),
            host_id: format!("host-{w}"),
        };
        let addresses = hosted.ranks.iter().map(address).collect();
        let what = What::Prepared {
            addresses,
            profile: profile(),
            snapshots,
        };
        self.report(w, job, key, what);
    }

    fn stop(&mut self, process: Process, job: &str, generation: u64, mode: StopMode) {
        let w = process.index;
        let told = match mode {
            StopMode::Handover => Told::Handover,
            StopMode::Checkpoint => Told::Checkpoint,
            StopMode::Abort => Told::Abort,
        };
        let Some(hosted) = self.workers[w].jobs.get_mut(job) else {
            // Nothing runs: it says so, lest the coordinator waits.
            return self.say(w, Said::stopped_as_ordered(job, generation));
        };
        if hosted.generation > generation {
            return;
        }
        hosted.told = hosted.told.max(told);
        let key = (hosted.uid.clone(), hosted.generation);
        if hosted.spare {
            let uid = hosted.uid.clone();
            self.workers[w].held.remove(&uid);
            self.end(w, job, Outcome::Ordered, None);
        } else if hosted.stage != Stage::Running {
            self.end(w, job, Outcome::Ordered, None);
        } else if hosted.told == Told::Abort {
            let (wait, job) = (self.dice.between(0, 200), job.to_owned());
            self.later(wait, Happening::Aborted { process, job, key });
        }
    }

    pub(crate) fn aborted(&mut self, process: Process, job: &str, key: &Key) {
        if self.lives(process) && self.workers[process.index].hosts(job, key).is_some() {
            self.end(process.index, job, Outcome::Ordered, None);
        }
    }

    /// Told to go (SIGTERM): stops all ranks at a step boundary, then says good-bye.
    pub(crate) fn leave(&mut self, process: Process, until: u64) {
        let w = process.index;
        if !self.lives(process) {
            return;
        }
        let worker = &mut self.workers[w];
        if !worker.leaving {
            worker.leaving = true;
            for hosted in worker.jobs.values_mut() {
                hosted.told = hosted.told.max(Told::Checkpoint);
            }
        }
        let idle = worker
            .jobs
            .values()
            .all(|hosted| hosted.stage != Stage::Running);
        if idle || self.now >= until {
            worker.farewell = true;
            if let (Some(conn), true) = (worker.stream, worker.welcomed) {
                self.send_up(conn, Up::Goodbye);
            }
            return self.later(50, Happening::Gone(process));
        }
        self.later(100, Happening::Leave { process, until });
    }

    /// A worker that said good-bye ends.
    pub(crate) fn gone(&mut self, process: Process) {
        if self.lives(process) {
            let restart = self.dice.between(500, 6_000);
            self.kill_worker(process.index, restart);
        }
    }
}
