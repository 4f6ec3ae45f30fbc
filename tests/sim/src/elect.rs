//! Elections: coordinators that stand by, ask for the lease, take over from the log, and give up.

use crate::bug::Bug;
use crate::lead::{Inbound, Leader, config};
use crate::store::LEASE;
use crate::world::{Happening, Process, World};
use espalier_core::{Machine, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

impl World {
    pub(crate) fn clock(&self, c: usize) -> u64 {
        self.now.saturating_add_signed(self.coordinators[c].skew)
    }

    pub(crate) fn is_up(&self, process: Process) -> bool {
        let coordinator = &self.coordinators[process.index];
        coordinator.up && coordinator.number == process.number
    }

    pub(crate) fn process(&self, c: usize) -> Process {
        let number = self.coordinators[c].number;
        Process { index: c, number }
    }

    pub(crate) fn boot(&mut self, c: usize) {
        let coordinator = &mut self.coordinators[c];
        if coordinator.up {
            return;
        }
        coordinator.number += 1;
        coordinator.up = true;
        coordinator.stalled_until = 0;
        let wait = self.dice.roll(100);
        let process = self.process(c);
        self.later(wait, Happening::Poll(process));
    }

    pub(crate) fn kill_coordinator(&mut self, c: usize) {
        self.coordinators[c].up = false;
        if let Some(leader) = self.coordinators[c].leader.take() {
            self.abdicate(*leader);
        }
    }

    /// Time to ask for the lease, or to lengthen it.
    pub(crate) fn poll(&mut self, process: Process) {
        if !self.is_up(process) {
            return;
        }
        let c = process.index;
        if let Some(leader) = self.coordinators[c].leader.take() {
            if self.may_act(&leader) {
                self.coordinators[c].leader = Some(leader);
            } else {
                self.abdicate(*leader);
            }
        }
        let term = self.coordinators[c].leader.as_ref().map(|l| l.term);
        let (wait, sent) = (self.dice.between(1, 10), self.now);
        self.later(
            wait,
            Happening::Lease {
                process,
                sent,
                term,
            },
        );
        let pause = self.dice.between(250, 450);
        self.later(pause, Happening::Poll(process));
    }

    pub(crate) fn lease(&mut self, process: Process, sent: u64, term: Option<u64>) {
        let c = process.index;
        if self.store.down_until > self.now || self.store_cut[c] > self.now || self.chance(60) {
            return;
        }
        let granted = match term {
            None => self.store.campaign(self.now, c),
            Some(term) => self.store.renew(self.now, c, term).then_some(term),
        };
        let wait = self.dice.between(1, 10);
        self.later(
            wait,
            Happening::Leased {
                process,
                sent,
                term,
                granted,
            },
        );
    }

    pub(crate) fn leased(
        &mut self,
        process: Process,
        sent: u64,
        term: Option<u64>,
        granted: Option<u64>,
    ) {
        if !self.is_up(process) {
            return;
        }
        let (c, until) = (process.index, sent + LEASE);
        let leading = self.coordinators[c].leader.as_ref().map(|l| l.term);
        match (term, granted) {
            (None, Some(new)) if leading.is_none() && until > self.now => {
                self.take_over(c, new, until);
            }
            (Some(_), Some(_)) if term == leading => {
                if let Some(leader) = &mut self.coordinators[c].leader {
                    leader.lease_until = leader.lease_until.max(until);
                }
            }
            (Some(_), None) if term == leading && !self.has(Bug::ActsAfterLease) => {
                if let Some(leader) = self.coordinators[c].leader.take() {
                    self.abdicate(*leader);
                }
            }
            _ => {}
        }
    }

    fn take_over(&mut self, c: usize, term: u64, lease_until: u64) {
        let log = self.store.log.iter();
        let mut records: Vec<_> = log.map(|(n, _, record)| (*n, record.clone())).collect();
        if self.has(Bug::StaleRead) {
            records.pop();
        }
        let clock = self.clock(c);
        let snapshot = self.store.snapshot.clone();
        let machine = match Machine::replay(config(), Time(clock), snapshot, records) {
            Ok(machine) => machine,
            Err(error) => {
                return self
                    .judge
                    .fail("the log can be replayed", || error.to_string());
            }
        };
        self.count("takeover");
        self.note(|| format!("coordinator {c} leads term {term}"));
        self.check_ledger(&machine);
        self.judge.watch_all(&machine);
        self.coordinators[c].leader = Some(Box::new(Leader {
            term,
            machine,
            lease_until,
            queue: VecDeque::from([Inbound::Tick]),
            write: None,
            tick_at: None,
            conns: BTreeSet::new(),
            replies: BTreeMap::new(),
            clock,
            born: clock,
            contact: BTreeMap::new(),
            accused: BTreeSet::new(),
            joined: self.store.joined.clone(),
            steps: 0,
            hoard: BTreeMap::new(),
        }));
        self.intake(c);
    }

    pub(crate) fn may_act(&self, leader: &Leader) -> bool {
        leader.lease_until > self.now || self.has(Bug::ActsAfterLease)
    }

    /// Leads no longer: all that was not durable is forgotten, all streams end.
    pub(crate) fn abdicate(&mut self, leader: Leader) {
        self.note(|| format!("term {} is given up", leader.term));
        // Those too whose Hello it has not heard yet.
        let own = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.term == leader.term);
        let own: Vec<u64> = own.map(|(conn, _)| *conn).collect();
        for conn in own {
            let wait = self.dice.between(1, 200);
            self.break_stream(conn, wait, 0);
        }
    }
}
