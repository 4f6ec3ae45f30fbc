//! One message into the machine: what it becomes, and what is checked of what the machine decides.

use crate::bug::Bug;
use crate::lead::{Inbound, Leader};
use crate::net::Up;
use crate::store::follow;
use crate::worker::{Said, What};
use crate::world::World;
use espalier_core::record::{Change, Kind};
use espalier_core::state::Then;
use espalier_core::{ConnId, Event, Output, Record, ReplyId, StopMode, Time, invariants};
use espalier_spec::{Generation, JobId};

/// Steps of a machine between two checks of all its invariants.
const CHECK_EVERY: u64 = 64;

/// What is known of a message, whatever it says.
#[derive(Default)]
struct Truth {
    /// The worker that really says good-bye.
    leaves: Option<String>,
    /// Job, uid and generation that really make a report.
    reports: Option<(String, String, u64)>,
    /// Uid and newest generation of the job that it names, as the machine had them before.
    job: Option<(String, u64)>,
    /// It is a request. Places may become free after those that follow from it were given.
    is_asked: bool,
    /// The worker that is drained by it.
    drains: Option<String>,
}

impl World {
    pub(crate) fn take_in(&mut self, c: usize, leader: &mut Leader, inbound: Inbound) -> Output {
        let clock = self.clock(c);
        leader.clock = leader.clock.max(clock);
        let mut truth = Truth::default();
        let event = match inbound {
            Inbound::Ask { asker, ask } => {
                truth.is_asked = true;
                let (reply, uid) = (self.fresh(), format!("u{:08}", self.fresh()));
                leader.replies.insert(reply, asker);
                self.clients[asker.0].event(ask, uid, ReplyId(reply))
            }
            Inbound::Heard { worker, conn, what } => {
                let name = self.workers[worker].name.clone();
                if matches!(what, Up::Goodbye) {
                    truth.leaves = Some(name.clone());
                }
                if let Up::Report(said) = &what {
                    truth.reports = Some((said.job.clone(), said.uid.clone(), said.generation));
                    if let Some(accused) = said.blames {
                        leader.accused.insert(self.workers[accused].name.clone());
                    }
                    if matches!(said.what, What::Checkpointed(_) | What::Stopped(_)) {
                        let view = leader.machine.job(&JobId(said.job.clone()));
                        truth.job = view.map(|view| (view.uid, view.generation.0));
                    }
                    self.hoard(leader, worker, conn, said);
                }
                leader.contact.insert(name, leader.clock);
                event(ConnId(conn), what)
            }
            Inbound::Broken { conn } if self.has(Bug::DeadOnControlLoss) => Event::Goodbye {
                conn: ConnId(conn),
                reason: "its stream broke".to_owned(),
            },
            Inbound::Broken { conn } => Event::WorkerDisconnected { conn: ConnId(conn) },
            Inbound::Tick => Event::Tick,
        };
        let before = leader.machine.applied();
        let output = leader.machine.step(Time(clock), event);
        leader.steps += 1;
        if leader.machine.applied() != before + output.records.len() as u64 {
            let message = || "the machine's records are not counted".to_owned();
            self.judge.fail("records are counted", message);
        }
        for record in &output.records {
            self.decided(leader, &mut truth, record);
            follow(&mut leader.joined, record);
        }
        if leader.steps.is_multiple_of(CHECK_EVERY) {
            let broken = invariants::check(&leader.machine);
            if let Some(broken) = broken.first() {
                self.judge.fail(broken.name, || broken.message.clone());
            }
        }
        output
    }

    /// A planted mistake: tells an old checkpoint again as one of the generation after it.
    fn hoard(&self, leader: &mut Leader, worker: usize, conn: u64, said: &Said) {
        if !self.has(Bug::StaleReportRelabelled) {
            return;
        }
        let key = (worker, said.job.clone());
        match &said.what {
            What::Checkpointed(_) => {
                leader.hoard.insert(key, said.clone());
            }
            What::Progress(_) => {
                let newer = |old: &Said| old.uid == said.uid && old.generation < said.generation;
                if leader.hoard.get(&key).is_some_and(newer)
                    && let Some(mut old) = leader.hoard.remove(&key)
                {
                    old.label = said.generation;
                    let what = Up::Report(old);
                    leader
                        .queue
                        .push_front(Inbound::Heard { worker, conn, what });
                }
            }
            _ => {}
        }
    }

    /// Checks one decision against what is known to be true.
    fn decided(&mut self, leader: &Leader, truth: &mut Truth, record: &Record) {
        let Record::V1(change) = record;
        match change {
            Change::WorkerLeft { name } => self.left(leader, truth, name.as_str()),
            Change::WorkerDrained { name } => truth.drains = Some(name.0.clone()),
            Change::JobEvent { kind, number, .. } => match kind {
                Kind::Placed { seats, .. } => {
                    if !truth.is_asked {
                        self.check_holders(&leader.machine, *number, seats);
                    }
                    let drained = |name: &str| self.judge.drained.contains(name);
                    if let Some(seat) = seats.iter().find(|seat| drained(seat.worker.as_str())) {
                        let name = seat.worker.0.clone();
                        self.judge.fail("a drained worker gets no work", || {
                            format!("{name} was drained, and that was acknowledged: {kind:?}")
                        });
                    }
                }
                Kind::Stopping {
                    then: Then::Move,
                    mode: StopMode::Abort,
                } => {
                    if let Some(drained) = &truth.drains {
                        self.check_drain(&leader.machine, *number, drained);
                    }
                }
                Kind::Checkpointed(checkpoint) => {
                    self.counts(truth, "checkpoint");
                    self.exists(truth, &checkpoint.path, checkpoint.step.0);
                }
                Kind::Succeeded { export_path } => {
                    self.counts(truth, "export");
                    self.exported(truth, export_path);
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// A report counts: its generation must be its job's newest.
    fn counts(&mut self, truth: &Truth, what: &str) {
        let Some((job, uid, generation)) = &truth.reports else {
            return self.judge.fail("only reports change what is done", || {
                format!("a {what} counts without any report")
            });
        };
        if truth.job.as_ref() != Some(&(uid.clone(), *generation)) {
            let newest = &truth.job;
            self.judge.fail("stale reports never count", || {
                format!("a {what} of job {job} ({uid}) g{generation} counts; the job is {newest:?}")
            });
        }
    }

    fn exists(&mut self, truth: &Truth, path: &str, step: u64) {
        let Some((_, uid, _)) = &truth.reports else {
            return;
        };
        let there = self.disk.checkpoints.get(path);
        if there.is_none_or(|(of, at, _)| of != uid || *at != step) {
            self.judge.fail("acknowledged checkpoints are durable", || {
                format!("checkpoint {path} of step {step} of job {uid} is not on the disk")
            });
        }
    }

    fn exported(&mut self, truth: &Truth, path: &str) {
        let Some((_, uid, _)) = &truth.reports else {
            return;
        };
        let hash = self.disk.exports.get(path).copied();
        let right = self.judge.export_of(uid);
        if hash.is_none() || hash != right {
            self.judge.fail("the export is the undisturbed run's", || {
                format!("{path} of job {uid} has {hash:?}, expected {right:?}")
            });
        }
        self.judge.exports += 1;
    }

    /// A worker is given up: it must be dead, or leave, or have been away for long enough, or its
    /// peers must have lost it too.
    fn left(&mut self, leader: &Leader, truth: &Truth, name: &str) {
        let Some(worker) = self.workers.iter().find(|worker| worker.name == name) else {
            return;
        };
        let dead = leader.joined.get(name) != Some(&worker.instance()) || !worker.up;
        let leaves = worker.farewell && truth.leaves.as_deref() == Some(name);
        let heard = leader.contact.get(name).copied().unwrap_or(leader.born);
        let away = leader.clock.saturating_sub(heard);
        let limit = crate::lead::config().gone_after_ms;
        if !dead && !leaves && !leader.accused.contains(name) && away < limit {
            self.judge
                .fail("losing sight of a worker is not its death", || {
                    format!("{name} lives, and was heard of {away} ms ago, yet it is given up")
                });
        }
    }
}

fn event(conn: ConnId, what: Up) -> Event {
    let said = match what {
        Up::Hello(hello) => return Event::WorkerConnected { conn, hello },
        Up::Beat(running) => return Event::Heartbeat { conn, running },
        Up::Goodbye => {
            return Event::Goodbye {
                conn,
                reason: "told to stop".to_owned(),
            };
        }
        Up::Report(said) => said,
    };
    let (job, generation) = (JobId(said.job), Generation(said.label));
    match said.what {
        What::Prepared {
            addresses,
            profile,
            snapshots,
        } => Event::Prepared {
            conn,
            job,
            generation,
            addresses,
            profile,
            snapshots,
        },
        What::Reached(milestone, step) => Event::Reached {
            conn,
            job,
            generation,
            milestone,
            step,
        },
        What::Progress(progress) => Event::Progress {
            conn,
            job,
            generation,
            progress: *progress,
        },
        What::Checkpointed(checkpoint) => Event::Checkpointed {
            conn,
            job,
            generation,
            checkpoint,
        },
        What::Stopped(outcome) => Event::Stopped {
            conn,
            job,
            generation,
            outcome,
        },
    }
}
