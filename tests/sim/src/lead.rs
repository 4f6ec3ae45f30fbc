//! Coordinators: standing by, being elected, and the loop that owns the machine: step, make
//! durable, act. A leader acts only while its lease surely lasts, and one that can't make its
//! records durable stops leading.

use crate::bug::Bug;
use crate::client::{Ask, Heard};
use crate::net::{Down, Up};
use crate::store::Written;
use crate::world::{Batch, Happening, Process, World};
use espalier_core::{Command, Config, ConnId, Machine, Order};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// Version of everything here.
pub(crate) const VERSION: &str = "0.0.0";
/// Attempts at a write before the leader gives up.
const ATTEMPTS: u32 = 4;

/// Which request of which client, and which attempt at it.
pub(crate) type Asker = (usize, u64, u32);

#[derive(Debug, Default)]
pub(crate) struct Coordinator {
    /// Counts its processes.
    pub(crate) number: u64,
    pub(crate) up: bool,
    pub(crate) stalled_until: u64,
    /// How far its clock is ahead.
    pub(crate) skew: i64,
    pub(crate) leader: Option<Box<Leader>>,
}

#[derive(Debug)]
pub(crate) struct Leader {
    pub(crate) term: u64,
    pub(crate) machine: Machine,
    /// Until when its lease surely lasts.
    pub(crate) lease_until: u64,
    pub(crate) queue: VecDeque<Inbound>,
    pub(crate) write: Option<Write>,
    pub(crate) tick_at: Option<u64>,
    pub(crate) conns: BTreeSet<u64>,
    pub(crate) replies: BTreeMap<u64, Asker>,
    /// The machine's time.
    pub(crate) clock: u64,
    /// Its time when it was elected.
    pub(crate) born: u64,
    /// Its time when it last heard of each worker.
    pub(crate) contact: BTreeMap<String, u64>,
    /// Workers that peers have said to be lost.
    pub(crate) accused: BTreeSet<String>,
    /// Which process each worker is, as the machine has it.
    pub(crate) joined: BTreeMap<String, String>,
    pub(crate) steps: u64,
    /// Checkpoints of each worker and job, for a planted mistake.
    pub(crate) hoard: BTreeMap<(usize, String), crate::worker::Said>,
}

/// What waits for the leader.
#[derive(Debug)]
pub(crate) enum Inbound {
    Ask { asker: Asker, ask: Ask },
    Heard { worker: usize, conn: u64, what: Up },
    Broken { conn: u64 },
    Tick,
}

#[derive(Debug)]
pub(crate) struct Write {
    number: u64,
    first: u64,
    batch: Batch,
    after: Vec<Command>,
    attempt: u32,
}

/// What every coordinator goes by.
pub(crate) fn config() -> Config {
    Config {
        prepare_timeout_ms: 20_000,
        stop_timeout_ms: 5_000,
        checkpoint_timeout_ms: 10_000,
        ..Config::new(VERSION)
    }
}

impl World {
    /// A request of a client arrives.
    pub(crate) fn asked(&mut self, asker: Asker, c: usize) {
        let Some(ask) = self.pending(asker) else {
            return;
        };
        if let Some(leader) = &mut self.coordinators[c].leader {
            leader.queue.push_back(Inbound::Ask { asker, ask });
            self.intake(c);
        } else if self.coordinators[c].up {
            self.answer(asker, Heard::Elsewhere);
        }
    }

    /// A message of a worker arrives.
    pub(crate) fn hears(&mut self, to: (usize, u64), worker: usize, conn: u64, what: Up) {
        let (c, term) = to;
        let leader = self.coordinators[c].leader.as_mut();
        let Some(leader) = leader.filter(|leader| leader.term == term) else {
            return;
        };
        if matches!(what, Up::Hello(_)) {
            leader.conns.insert(conn);
        } else if !leader.conns.contains(&conn) {
            return;
        }
        leader
            .queue
            .push_back(Inbound::Heard { worker, conn, what });
        self.intake(c);
    }

    /// The leader's end of a stream learns that it is broken.
    pub(crate) fn stream_lost(&mut self, c: usize, term: u64, conn: u64) {
        let leader = self.coordinators[c].leader.as_mut();
        let Some(leader) = leader.filter(|leader| leader.term == term) else {
            return;
        };
        if leader.conns.remove(&conn) {
            leader.queue.push_back(Inbound::Broken { conn });
            self.intake(c);
        }
    }

    pub(crate) fn tick(&mut self, process: Process) {
        if !self.is_up(process) {
            return;
        }
        let now = self.now;
        if let Some(leader) = &mut self.coordinators[process.index].leader
            && leader.tick_at.is_some_and(|at| at <= now)
        {
            leader.tick_at = None;
            leader.queue.push_back(Inbound::Tick);
            self.intake(process.index);
        }
    }

    /// Takes in what waits, until a write is under way.
    pub(crate) fn intake(&mut self, c: usize) {
        let Some(mut leader) = self.coordinators[c].leader.take() else {
            return;
        };
        while leader.write.is_none() && !leader.queue.is_empty() {
            if !self.may_act(&leader) {
                return self.abdicate(*leader);
            }
            let first = leader.machine.applied() + 1;
            let (mut records, mut after) = (Vec::new(), Vec::new());
            for _ in 0..16 {
                let Some(inbound) = leader.queue.pop_front() else {
                    break;
                };
                let output = self.take_in(c, &mut leader, inbound);
                records.extend(output.records);
                after.extend(output.after);
            }
            if records.is_empty() || self.has(Bug::AckBeforePersist) {
                self.act(c, &mut leader, std::mem::take(&mut after));
            }
            if !records.is_empty() {
                leader.write = Some(Write {
                    number: self.fresh(),
                    first,
                    batch: Batch(Rc::new(records)),
                    after,
                    attempt: 0,
                });
                self.send_write(c, &leader);
            }
        }
        self.plan_tick(c, &mut leader);
        self.coordinators[c].leader = Some(leader);
    }

    fn plan_tick(&mut self, c: usize, leader: &mut Leader) {
        let Some(deadline) = leader.machine.next_deadline() else {
            return;
        };
        let wait = deadline.0.saturating_sub(self.clock(c)).clamp(5, 1_000_000);
        let at = self.now + wait;
        if leader.tick_at.is_none_or(|old| at < old) {
            leader.tick_at = Some(at);
            let process = self.process(c);
            self.later(wait, Happening::Tick(process));
        }
    }

    fn send_write(&mut self, c: usize, leader: &Leader) {
        let Some(write) = &leader.write else {
            return;
        };
        let process = self.process(c);
        let wait = if self.chance(50) {
            self.count("slow write");
            self.dice.between(500, 4_000)
        } else {
            self.dice.between(1, 15)
        };
        let (number, attempt) = (write.number, write.attempt);
        self.later(
            wait,
            Happening::Append {
                process,
                write: number,
                term: leader.term,
                first: write.first,
                batch: write.batch.clone(),
            },
        );
        self.later(
            800,
            Happening::WriteDue {
                process,
                write: number,
                attempt,
            },
        );
    }

    /// A write reaches the store.
    pub(crate) fn append(
        &mut self,
        process: Process,
        write: u64,
        place: (u64, u64),
        batch: &Batch,
    ) {
        let c = process.index;
        if self.store.down_until > self.now || self.store_cut[c] > self.now {
            return;
        }
        let (term, first) = place;
        let written = if self.chance(60) {
            self.count("disk error");
            Written::Failed
        } else {
            let fenced = !self.has(Bug::FenceIgnored);
            self.store.append(term, first, &batch.0, fenced)
        };
        if written == Written::Done && term != self.store.term {
            let newest = self.store.term;
            self.judge.fail("one leader acts", || {
                format!("the store took records of term {term}, though term {newest} has begun")
            });
        }
        if self.chance(80) {
            self.count("lost acknowledgement");
            return;
        }
        let wait = self.dice.between(1, 5);
        self.later(
            wait,
            Happening::Appended {
                process,
                write,
                written,
            },
        );
    }

    pub(crate) fn appended(&mut self, process: Process, write: u64, written: Written) {
        if !self.is_up(process) {
            return;
        }
        let c = process.index;
        let Some(mut leader) = self.coordinators[c].leader.take() else {
            return;
        };
        if leader.write.as_ref().is_none_or(|w| w.number != write) {
            self.coordinators[c].leader = Some(leader);
            return;
        }
        match written {
            Written::Fenced => return self.abdicate(*leader),
            Written::Failed if !self.has(Bug::LostRecord) => {
                return self.write_again(c, leader);
            }
            Written::Failed | Written::Done => {}
        }
        if !self.may_act(&leader) {
            return self.abdicate(*leader);
        }
        if let Some(write) = leader.write.take() {
            self.act(c, &mut leader, write.after);
        }
        if self.store.is_long()
            && self.store.term == leader.term
            && self.store.last == leader.machine.applied()
        {
            self.store.compact(leader.machine.snapshot());
        }
        self.coordinators[c].leader = Some(leader);
        self.intake(c);
    }

    pub(crate) fn write_due(&mut self, process: Process, write: u64, attempt: u32) {
        if !self.is_up(process) {
            return;
        }
        let c = process.index;
        let same = |w: &Write| w.number == write && w.attempt == attempt;
        if let Some(leader) = self.coordinators[c].leader.take() {
            if leader.write.as_ref().is_some_and(same) {
                self.write_again(c, leader);
            } else {
                self.coordinators[c].leader = Some(leader);
            }
        }
    }

    fn write_again(&mut self, c: usize, mut leader: Box<Leader>) {
        let attempt = leader.write.as_mut().map_or(0, |write| {
            write.attempt += 1;
            write.attempt
        });
        if attempt >= ATTEMPTS || !self.may_act(&leader) {
            return self.abdicate(*leader);
        }
        self.send_write(c, &leader);
        self.coordinators[c].leader = Some(leader);
    }

    /// Does what the machine asks for.
    fn act(&mut self, c: usize, leader: &mut Leader, after: Vec<Command>) {
        let term = leader.term;
        for command in after {
            if !self.store.is_led_by(self.now, c, term) {
                self.judge.fail("one leader acts", || {
                    format!("coordinator {c} acts in term {term} without the lease: {command:?}")
                });
            }
            match command {
                Command::Reply { reply, result } => {
                    if let Some(asker) = leader.replies.remove(&reply.0) {
                        self.answer(asker, Heard::of(result));
                    }
                }
                Command::Send { conn, order } => self.order(leader, conn, order),
                Command::CloseConnection { conn, error } => {
                    leader.conns.remove(&conn.0);
                    self.send_down(conn.0, Down::Close(error.kind));
                }
                Command::Notify { job } => self.judge.watch(&leader.machine, &job),
                _ => {}
            }
        }
    }

    fn order(&mut self, leader: &mut Leader, conn: ConnId, order: Order) {
        if let (
            Order::Stop {
                job, generation, ..
            },
            true,
        ) = (&order, self.has(Bug::SeatsGivenEarly))
            && let Some(stream) = self.streams.get(&conn.0)
        {
            let worker = stream.worker.index;
            let said = crate::worker::Said::stopped_as_ordered(job.as_str(), generation.0);
            let (conn, what) = (conn.0, Up::Report(said));
            leader
                .queue
                .push_back(Inbound::Heard { worker, conn, what });
        }
        self.send_down(conn.0, Down::Order(order));
    }
}
