//! Clients: they create jobs and ask for this and that, ask again under the same request id when no
//! answer comes, and keep a ledger of what they were told. After every change of leader the new one
//! must know all that the ledger holds.

use crate::bug::Bug;
use crate::lead::Asker;
use crate::world::{Happening, World};
use espalier_core::{Answer, Error, Event, JobState, Machine, ReplyId};
use espalier_spec::recovery::WorkerRange;
use espalier_spec::{JobId, JobSpec, WorkerId};

/// Jobs that a client has at once.
const SLOTS: usize = 3;
/// Milliseconds that a client waits for an answer.
const PATIENCE: u64 = 3_000;

#[derive(Debug)]
pub(crate) struct Client {
    index: usize,
    /// Devices of the whole cluster.
    devices: u32,
    serial: u64,
    attempt: u32,
    pending: Option<Ask>,
    coordinator: usize,
    slots: Vec<Slot>,
}

/// A name that only one client uses.
#[derive(Debug, Default)]
struct Slot {
    name: String,
    /// Of the job that was acknowledged.
    uid: Option<String>,
    wish: Wish,
}

/// What was last acknowledged of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wish {
    #[default]
    Any,
    Paused,
    Cancelled,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Create {
        slot: usize,
        spec: Box<JobSpec>,
        request: String,
    },
    Pause(usize),
    Resume(usize),
    Cancel(usize),
    Delete(usize),
    Drain(String),
    Undrain(String),
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) enum Heard {
    /// This coordinator does not lead.
    Elsewhere,
    /// Granted; of a job its uid.
    Granted(Option<String>),
    /// Refused for this reason.
    Refused(&'static str, String),
}

impl Heard {
    pub(crate) fn of(result: Result<Answer, Error>) -> Self {
        match result {
            Ok(Answer::Job(job)) => Heard::Granted(Some(job.uid)),
            Ok(_) => Heard::Granted(None),
            Err(error) => Heard::Refused(error.reason, error.message),
        }
    }
}

impl Client {
    pub(crate) fn new(index: usize, devices: u32) -> Self {
        let slot = |slot: usize| Slot {
            name: format!("job-{index}-{slot}"),
            ..Slot::default()
        };
        Self {
            index,
            devices,
            serial: 0,
            attempt: 0,
            pending: None,
            coordinator: index,
            slots: (0..SLOTS).map(slot).collect(),
        }
    }

    /// The request as the machine takes it.
    pub(crate) fn event(&self, ask: Ask, uid: String, reply: ReplyId) -> Event {
        let name = |slot: usize| JobId(self.slots[slot].name.clone());
        match ask {
            Ask::Create { spec, request, .. } => Event::CreateJob {
                spec,
                uid,
                request_id: Some(request),
                reply,
            },
            Ask::Pause(slot) => Event::PauseJob {
                name: name(slot),
                reply,
            },
            Ask::Resume(slot) => Event::ResumeJob {
                name: name(slot),
                reply,
            },
            Ask::Cancel(slot) => Event::CancelJob {
                name: name(slot),
                reply,
            },
            Ask::Delete(slot) => Event::DeleteJob {
                name: name(slot),
                reply,
            },
            Ask::Drain(name) => Event::DrainWorker {
                name: WorkerId(name),
                reply,
            },
            Ask::Undrain(name) => Event::UndrainWorker {
                name: WorkerId(name),
                reply,
            },
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_none()
    }

    /// Uids of the jobs that it has.
    pub(crate) fn uids(&self) -> impl Iterator<Item = String> {
        self.slots.iter().filter_map(|slot| slot.uid.clone())
    }
}

impl World {
    /// A client thinks of something to ask for.
    pub(crate) fn think(&mut self, client: usize) {
        let pause = self.dice.between(300, 2_500);
        if !self.clients[client].is_idle() {
            return;
        }
        let ask = if self.storm {
            self.whim(client)
        } else {
            self.duty(client)
        };
        let Some(ask) = ask else {
            return self.later(pause, Happening::Think { client });
        };
        let mine = &mut self.clients[client];
        // From here on what was acknowledged before may change.
        match &ask {
            Ask::Resume(slot) | Ask::Delete(slot) => mine.slots[*slot].wish = Wish::Any,
            Ask::Undrain(name) => {
                self.judge.drained.remove(name);
            }
            _ => {}
        }
        mine.serial += 1;
        mine.attempt = 0;
        mine.pending = Some(ask);
        self.ask(client);
    }

    /// What a client feels like.
    fn whim(&mut self, client: usize) -> Option<Ask> {
        let slot = self.dice.index(SLOTS);
        if self.clients[client].slots[slot].uid.is_none() {
            return Some(self.create(client, slot));
        }
        if client == 0 && self.dice.one_in(3) {
            let w = self.dice.index(self.workers.len());
            let name = self.workers[w].name.clone();
            let drain = self.judge.drained.len() < 2 && self.dice.one_in(2);
            return Some(if drain {
                Ask::Drain(name)
            } else {
                Ask::Undrain(self.judge.drained.first().cloned().unwrap_or(name))
            });
        }
        match self.dice.roll(16) {
            0 | 1 => Some(Ask::Pause(slot)),
            2..=4 => Some(Ask::Resume(slot)),
            5 => Some(Ask::Cancel(slot)),
            6..=10 => Some(Ask::Delete(slot)),
            _ => None,
        }
    }

    /// In good weather every job is to end, and every worker to work.
    fn duty(&mut self, client: usize) -> Option<Ask> {
        if client == 0 {
            let w = self.dice.index(self.workers.len());
            if self.dice.one_in(2) {
                return Some(Ask::Undrain(self.workers[w].name.clone()));
            }
        }
        let slot = self.dice.index(SLOTS);
        let there = self.clients[client].slots[slot].uid.is_some();
        there.then_some(Ask::Resume(slot))
    }

    fn create(&mut self, client: usize, slot: usize) -> Ask {
        let (seed, request) = (self.dice.roll(1 << 20), format!("request-{}", self.fresh()));
        let mine = &self.clients[client];
        let ranks = match self.dice.roll(8) {
            0 => None,
            _ => Some(self.dice.between(1, u64::from(mine.devices)) as u32),
        };
        let mut spec = spec(&mine.slots[slot].name);
        spec.seed = seed;
        spec.priority = self.dice.roll(3) as i32;
        spec.recovery.snapshot_every = Some(crate::chain::Length::of(seed).snapshot);
        spec.resources.ranks = ranks;
        if ranks.is_some() && self.dice.one_in(2) {
            spec.resources.workers = Some(WorkerRange {
                min: 1,
                max: ranks.unwrap_or(1),
            });
        }
        let spec = Box::new(spec);
        Ask::Create {
            slot,
            spec,
            request,
        }
    }

    /// Sends what a client asks for.
    fn ask(&mut self, client: usize) {
        let mine = &self.clients[client];
        let (serial, attempt) = (mine.serial, mine.attempt);
        let coordinator = mine.coordinator % self.coordinators.len();
        if !self.chance(40) {
            let wait = self.delay();
            self.later(
                wait,
                Happening::Ask {
                    client,
                    serial,
                    attempt,
                    coordinator,
                },
            );
        }
        self.later(
            PATIENCE,
            Happening::Timeout {
                client,
                serial,
                attempt,
            },
        );
    }

    /// The request, unless its client has given this attempt up.
    pub(crate) fn pending(&self, asker: Asker) -> Option<Ask> {
        let (client, serial, attempt) = asker;
        let mine = self.clients.get(client)?;
        let same = mine.serial == serial && mine.attempt == attempt;
        mine.pending.clone().filter(|_| same)
    }

    pub(crate) fn answer(&mut self, asker: Asker, heard: Heard) {
        let (client, serial, attempt) = asker;
        if self.chance(40) {
            return self.count("lost answer");
        }
        let wait = self.delay();
        self.later(
            wait,
            Happening::Answer {
                client,
                serial,
                attempt,
                heard,
            },
        );
    }

    /// No answer, or not from the leader: the next coordinator is asked the same.
    pub(crate) fn ask_again(&mut self, asker: Asker) {
        if self.pending(asker).is_none() {
            return;
        }
        let request = format!("request-{}", self.fresh());
        let another = self.has(Bug::NewRequestId);
        let mine = &mut self.clients[asker.0];
        mine.attempt += 1;
        mine.coordinator += 1;
        if let (Some(Ask::Create { request: old, .. }), true) = (&mut mine.pending, another) {
            *old = request;
        }
        self.ask(asker.0);
    }

    pub(crate) fn answered(&mut self, asker: Asker, heard: Heard) {
        let (client, serial, attempt) = asker;
        let mine = &mut self.clients[client];
        if mine.serial != serial || mine.pending.is_none() {
            return;
        }
        if matches!(heard, Heard::Elsewhere) {
            if mine.attempt == attempt {
                let wait = self.dice.between(50, 400);
                self.later(
                    wait,
                    Happening::Timeout {
                        client,
                        serial,
                        attempt,
                    },
                );
            }
            return;
        }
        if let Some(ask) = mine.pending.take() {
            self.enter(client, ask, heard);
        }
        let pause = self.dice.between(100, 1_500);
        self.later(pause, Happening::Think { client });
    }

    /// Enters an answer in the ledger.
    fn enter(&mut self, client: usize, ask: Ask, heard: Heard) {
        let mine = &mut self.clients[client];
        if let Heard::Refused("JOB_NOT_FOUND", message) = &heard
            && !matches!(ask, Ask::Delete(_))
        {
            return self.judge.fail("nothing acknowledged is lost", || {
                format!("client {client}: {ask:?}: {message}")
            });
        }
        match (ask, heard) {
            (Ask::Create { slot, request, .. }, Heard::Granted(Some(uid))) => {
                self.judge.created(&request, &uid);
                mine.slots[slot].uid = Some(uid);
                mine.slots[slot].wish = Wish::Any;
            }
            (Ask::Create { slot, request, .. }, heard) => {
                let name = mine.slots[slot].name.clone();
                self.judge.fail("a request id makes one job", || {
                    format!("client {client}: the name {name} is free, yet {request}: {heard:?}")
                });
            }
            (Ask::Pause(slot), Heard::Granted(_)) => mine.slots[slot].wish = Wish::Paused,
            (Ask::Cancel(slot), Heard::Granted(_)) => mine.slots[slot].wish = Wish::Cancelled,
            // Deleted by an attempt whose answer was lost, if it is not there.
            (Ask::Delete(slot), Heard::Granted(_) | Heard::Refused("JOB_NOT_FOUND", _)) => {
                mine.slots[slot].uid = None;
            }
            (Ask::Drain(name), Heard::Granted(_)) => {
                self.judge.drained.insert(name);
            }
            _ => {}
        }
    }

    /// Whether a machine knows all that clients were told.
    pub(crate) fn check_ledger(&mut self, machine: &Machine) {
        for client in &self.clients {
            for (index, slot) in client.slots.iter().enumerate() {
                let asks = |ask: &Ask| match ask {
                    Ask::Delete(of) | Ask::Resume(of) => *of == index,
                    _ => false,
                };
                let Some(uid) = &slot.uid else {
                    continue;
                };
                if client.pending.as_ref().is_some_and(asks) {
                    continue;
                }
                let view = machine.job(&JobId(slot.name.clone()));
                let state = view
                    .as_ref()
                    .filter(|view| view.uid == *uid)
                    .map(|view| view.state);
                let kept = match (state, slot.wish) {
                    (None, _) => false,
                    (Some(_), Wish::Any) => true,
                    (Some(state), Wish::Cancelled) => {
                        matches!(state, JobState::Cancelling | JobState::Cancelled)
                    }
                    (Some(state), Wish::Paused) => {
                        state.is_final()
                            || matches!(
                                state,
                                JobState::Pausing | JobState::Paused | JobState::Cancelling
                            )
                    }
                };
                if !kept {
                    let (who, name, wish) = (client.index, &slot.name, slot.wish);
                    self.judge.fail("nothing acknowledged is lost", || {
                        format!("client {who} has job {name} ({uid}), {wish:?}; now: {state:?}")
                    });
                }
            }
        }
    }
}

/// A job of one task.
fn spec(name: &str) -> JobSpec {
    let spec = serde_json::from_value(serde_json::json!({
        "name": name,
        "backbone": { "path": "/models/minilm" },
        "tasks": [{ "name": "topic", "head": "single_label", "data": { "train": "a.jsonl" } }],
    }));
    match spec {
        Ok(spec) => spec,
        Err(error) => unreachable!("the job of the simulation is a job: {error}"),
    }
}
