//! The simulated world: who is there, what is to happen, and one thing happening at a time.

use crate::bug::Bug;
use crate::client::{Client, Heard};
use crate::dice::{Agenda, Dice};
use crate::judge::Judge;
use crate::lead::Coordinator;
use crate::net::Stream;
use crate::ranks::{Disk, Group};
use crate::store::{Store, Written};
use crate::worker::Worker;
use espalier_core::Record;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;

/// Lines of the trace that are kept.
const KEPT: usize = 50;

/// One process of a coordinator or worker; the next one of the same has a higher number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) index: usize,
    pub(crate) number: u64,
}

/// A generation of a job: the job's uid and the generation's number.
pub(crate) type Key = (String, u64);

/// Records on their way to the store.
#[derive(Clone)]
pub(crate) struct Batch(pub(crate) Rc<Vec<Record>>);

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records", self.0.len())
    }
}

/// Something that happens.
#[derive(Debug)]
pub(crate) enum Happening {
    // The network.
    /// The next message of a stream reaches the coordinator.
    Up(u64),
    /// The next message of a stream reaches the worker.
    Down(u64),
    /// One end of a stream learns that it is broken.
    Ends {
        conn: u64,
        at_worker: bool,
    },
    // Clients.
    Think {
        client: usize,
    },
    Ask {
        client: usize,
        serial: u64,
        attempt: u32,
        coordinator: usize,
    },
    Answer {
        client: usize,
        serial: u64,
        attempt: u32,
        heard: Heard,
    },
    Timeout {
        client: usize,
        serial: u64,
        attempt: u32,
    },
    // Coordinators and their store.
    Boot {
        coordinator: usize,
    },
    Poll(Process),
    /// Asks for the lease, or to have the one of this term lengthened.
    Lease {
        process: Process,
        sent: u64,
        term: Option<u64>,
    },
    Leased {
        process: Process,
        sent: u64,
        term: Option<u64>,
        granted: Option<u64>,
    },
    Append {
        process: Process,
        write: u64,
        term: u64,
        first: u64,
        batch: Batch,
    },
    Appended {
        process: Process,
        write: u64,
        written: Written,
    },
    /// The store has not answered.
    WriteDue {
        process: Process,
        write: u64,
        attempt: u32,
    },
    Tick(Process),
    // Workers.
    Start {
        worker: usize,
    },
    Dial(Process),
    Beat {
        process: Process,
        conn: u64,
    },
    Loaded {
        process: Process,
        job: String,
        key: Key,
    },
    /// A worker's ranks end as they were told.
    Aborted {
        process: Process,
        job: String,
        key: Key,
    },
    /// A worker's ranks find that they have lost a peer.
    Lost {
        process: Process,
        job: String,
        key: Key,
        rank: Option<u32>,
    },
    Leave {
        process: Process,
        until: u64,
    },
    Gone(Process),
    // Ranks of a generation, together.
    Advance(Key),
    // Nature.
    Fault,
}

/// A cluster, its users and its store.
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) dice: Dice,
    pub(crate) agenda: Agenda<Happening>,
    pub(crate) bug: Option<Bug>,
    /// Whether things go wrong.
    pub(crate) storm: bool,
    pub(crate) events: u64,
    pub(crate) judge: Judge,
    pub(crate) store: Store,
    pub(crate) disk: Disk,
    pub(crate) coordinators: Vec<Coordinator>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) clients: Vec<Client>,
    pub(crate) streams: BTreeMap<u64, Stream>,
    pub(crate) groups: BTreeMap<Key, Group>,
    /// Until when a worker and a coordinator can't reach each other.
    pub(crate) control_cut: Vec<Vec<u64>>,
    /// Until when two workers can't; both ways.
    pub(crate) data_cut: Vec<Vec<u64>>,
    /// Until when a coordinator can't reach the store.
    pub(crate) store_cut: Vec<u64>,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    last_number: u64,
    pub(crate) trace: Trace,
}

/// Which events are written down.
pub(crate) enum Trace {
    No,
    /// The last ones are kept.
    Last(VecDeque<String>),
    /// All are handed on as they happen.
    All(Box<dyn FnMut(&str)>),
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>, trace: Trace) -> Self {
        let mut dice = Dice::new(seed);
        let coordinators = dice.between(1, 3) as usize;
        let workers = dice.between(3, 5) as usize;
        let devices: Vec<u32> = (0..workers).map(|_| dice.between(1, 2) as u32).collect();
        let total: u32 = devices.iter().sum();
        let worker = |(w, devices): (usize, u32)| Worker::new(w, devices);
        let mut world = Self {
            now: 1_000_000,
            dice,
            agenda: Agenda::new(),
            bug,
            storm: true,
            events: 0,
            judge: Judge::default(),
            store: Store::default(),
            disk: Disk::default(),
            coordinators: (0..coordinators).map(|_| Coordinator::default()).collect(),
            workers: (0..).zip(devices).map(worker).collect(),
            clients: (0..3).map(|client| Client::new(client, total)).collect(),
            streams: BTreeMap::new(),
            groups: BTreeMap::new(),
            control_cut: vec![vec![0; coordinators]; workers],
            data_cut: vec![vec![0; workers]; workers],
            store_cut: vec![0; coordinators],
            faults: BTreeMap::new(),
            last_number: 0,
            trace,
        };
        for coordinator in 0..coordinators {
            world.later(0, Happening::Boot { coordinator });
        }
        for worker in 0..workers {
            world.later(100, Happening::Start { worker });
        }
        for client in 0..world.clients.len() {
            world.later(500, Happening::Think { client });
        }
        world.later(5_000, Happening::Fault);
        world
    }

    /// A number that was never given before.
    pub(crate) fn fresh(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(crate) fn has(&self, bug: Bug) -> bool {
        cfg!(feature = "planted") && self.bug == Some(bug)
    }

    /// So often while things go wrong.
    pub(crate) fn chance(&mut self, one_in: u64) -> bool {
        self.storm && self.dice.one_in(one_in)
    }

    pub(crate) fn count(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }

    pub(crate) fn later(&mut self, milliseconds: u64, what: Happening) {
        let tie = self.dice.roll(1 << 32);
        self.agenda.push(self.now + milliseconds, tie, what);
    }

    /// Writes a line into the trace, if there is one.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        let head = (self.events, self.now);
        match &mut self.trace {
            Trace::No => {}
            Trace::Last(kept) => {
                if kept.len() == KEPT {
                    kept.pop_front();
                }
                kept.push_back(format!("{} at {}: {}", head.0, head.1, line()));
            }
            Trace::All(tell) => tell(&format!("{} at {}: {}", head.0, head.1, line())),
        }
    }

    /// One event. False once the judge has found something wrong.
    pub(crate) fn step(&mut self) -> bool {
        let Some((at, what)) = self.agenda.pop() else {
            self.judge
                .fail("world", || "nothing is left to happen".to_owned());
            return false;
        };
        self.now = self.now.max(at);
        if let Some(until) = self.stopped_until(&what) {
            let tie = self.dice.roll(1 << 32);
            self.agenda.push(until, tie, what);
            return true;
        }
        self.events += 1;
        if !matches!(self.trace, Trace::No) {
            let line = format!("{what:?}");
            self.note(|| line);
        }
        self.happen(what);
        self.judge.broken.is_none()
    }

    /// Until when the process that this happens to is stopped (SIGSTOP), if it is.
    fn stopped_until(&self, what: &Happening) -> Option<u64> {
        let coordinator = |c: usize| self.coordinators.get(c).map(|c| c.stalled_until);
        let worker = |w: usize| self.workers.get(w).map(|w| w.stalled_until);
        let stream = |conn: &u64| self.streams.get(conn);
        let until = match what {
            Happening::Up(conn) => coordinator(stream(conn)?.coordinator),
            Happening::Down(conn) => worker(stream(conn)?.worker.index),
            Happening::Ends { conn, at_worker } => match at_worker {
                true => worker(stream(conn)?.worker.index),
                false => coordinator(stream(conn)?.coordinator),
            },
            Happening::Ask { coordinator: c, .. } => coordinator(*c),
            Happening::Poll(process)
            | Happening::Leased { process, .. }
            | Happening::Appended { process, .. }
            | Happening::WriteDue { process, .. }
            | Happening::Tick(process) => coordinator(process.index),
            Happening::Dial(process)
            | Happening::Gone(process)
            | Happening::Beat { process, .. }
            | Happening::Loaded { process, .. }
            | Happening::Aborted { process, .. }
            | Happening::Lost { process, .. }
            | Happening::Leave { process, .. } => worker(process.index),
            _ => None,
        };
        until.filter(|until| *until > self.now)
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Up(conn) => self.reaches_coordinator(conn),
            Happening::Down(conn) => self.reaches_worker(conn),
            Happening::Ends { conn, at_worker } => self.ends(conn, at_worker),
            Happening::Think { client } => self.think(client),
            Happening::Ask {
                client,
                serial,
                attempt,
                coordinator,
            } => {
                self.asked((client, serial, attempt), coordinator);
            }
            Happening::Answer {
                client,
                serial,
                attempt,
                heard,
            } => {
                self.answered((client, serial, attempt), heard);
            }
            Happening::Timeout {
                client,
                serial,
                attempt,
            } => {
                self.ask_again((client, serial, attempt));
            }
            Happening::Boot { coordinator } => self.boot(coordinator),
            Happening::Poll(process) => self.poll(process),
            Happening::Lease {
                process,
                sent,
                term,
            } => self.lease(process, sent, term),
            Happening::Leased {
                process,
                sent,
                term,
                granted,
            } => {
                self.leased(process, sent, term, granted);
            }
            Happening::Append {
                process,
                write,
                term,
                first,
                batch,
            } => {
                self.append(process, write, (term, first), &batch);
            }
            Happening::Appended {
                process,
                write,
                written,
            } => {
                self.appended(process, write, written);
            }
            Happening::WriteDue {
                process,
                write,
                attempt,
            } => {
                self.write_due(process, write, attempt);
            }
            Happening::Tick(process) => self.tick(process),
            Happening::Start { worker } => self.start_worker(worker),
            Happening::Dial(process) => self.dial(process),
            Happening::Beat { process, conn } => self.beat(process, conn),
            Happening::Loaded { process, job, key } => self.loaded(process, &job, &key),
            Happening::Aborted { process, job, key } => self.aborted(process, &job, &key),
            Happening::Lost {
                process,
                job,
                key,
                rank,
            } => {
                self.lost(process, &job, &key, rank);
            }
            Happening::Leave { process, until } => self.leave(process, until),
            Happening::Gone(process) => self.gone(process),
            Happening::Advance(key) => self.advance(&key),
            Happening::Fault => self.fault(),
        }
    }
}
