//! The control network: streams between workers and the leader. A stream keeps its order; what is
//! on its way when it breaks is lost; and its two ends learn of it each in their own time, or only
//! from the silence.

use crate::worker::Said;
use crate::world::{Happening, Process, World};
use espalier_core::{ErrorKind, Hello, Order, RunningJob};
use std::collections::VecDeque;

/// What a worker says.
#[derive(Debug)]
pub(crate) enum Up {
    Hello(Hello),
    Beat(Vec<RunningJob>),
    Goodbye,
    Report(Said),
}

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Down {
    Order(Order),
    /// The leader ends the stream.
    Close(ErrorKind),
}

/// A stream of a worker's process to a coordinator in one of its terms.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) worker: Process,
    pub(crate) coordinator: usize,
    pub(crate) term: u64,
    alive: bool,
    up: VecDeque<Up>,
    down: VecDeque<Down>,
    /// When the last message of each direction arrives.
    last_up: u64,
    last_down: u64,
    /// Ends that have not learned yet that it is broken.
    unaware: u8,
}

impl World {
    /// How long a message takes.
    pub(crate) fn delay(&mut self) -> u64 {
        if self.chance(25) {
            self.count("slow message");
            self.dice.between(20, 400)
        } else {
            self.dice.between(1, 6)
        }
    }

    pub(crate) fn open_stream(&mut self, worker: Process, coordinator: usize, term: u64) -> u64 {
        let conn = self.fresh();
        let (last_up, last_down) = (self.now, self.now);
        self.streams.insert(
            conn,
            Stream {
                worker,
                coordinator,
                term,
                alive: true,
                up: VecDeque::new(),
                down: VecDeque::new(),
                last_up,
                last_down,
                unaware: 2,
            },
        );
        conn
    }

    pub(crate) fn send_up(&mut self, conn: u64, what: Up) {
        let at = self.now + self.delay();
        let Some(stream) = self.streams.get_mut(&conn).filter(|stream| stream.alive) else {
            return;
        };
        stream.last_up = stream.last_up.max(at);
        stream.up.push_back(what);
        let wait = stream.last_up - self.now;
        self.later(wait, Happening::Up(conn));
    }

    pub(crate) fn send_down(&mut self, conn: u64, what: Down) {
        let at = self.now + self.delay();
        let Some(stream) = self.streams.get_mut(&conn).filter(|stream| stream.alive) else {
            return;
        };
        stream.last_down = stream.last_down.max(at);
        stream.down.push_back(what);
        let wait = stream.last_down - self.now;
        self.later(wait, Happening::Down(conn));
    }

    /// Breaks a stream; its ends learn of it after so many milliseconds.
    pub(crate) fn break_stream(&mut self, conn: u64, worker: u64, coordinator: u64) {
        let Some(stream) = self.streams.get_mut(&conn).filter(|stream| stream.alive) else {
            return;
        };
        stream.alive = false;
        stream.up.clear();
        stream.down.clear();
        for (at_worker, wait) in [(true, worker), (false, coordinator)] {
            self.later(wait, Happening::Ends { conn, at_worker });
        }
    }

    /// Streams that are open, of a worker or of all.
    pub(crate) fn open_streams(&self, worker: Option<usize>) -> Vec<u64> {
        let mine = |stream: &Stream| {
            stream.alive && worker.is_none_or(|worker| stream.worker.index == worker)
        };
        let open = self.streams.iter().filter(|(_, stream)| mine(stream));
        open.map(|(conn, _)| *conn).collect()
    }

    pub(crate) fn is_open(&self, conn: u64) -> bool {
        self.streams.get(&conn).is_some_and(|stream| stream.alive)
    }

    pub(crate) fn ends(&mut self, conn: u64, at_worker: bool) {
        let Some(stream) = self.streams.get_mut(&conn) else {
            return;
        };
        stream.unaware = stream.unaware.saturating_sub(1);
        let (worker, coordinator, term) = (stream.worker, stream.coordinator, stream.term);
        if stream.unaware == 0 {
            self.streams.remove(&conn);
        }
        if at_worker {
            self.stream_ended(worker, conn);
        } else {
            self.stream_lost(coordinator, term, conn);
        }
    }

    pub(crate) fn reaches_coordinator(&mut self, conn: u64) {
        let Some(stream) = self.streams.get_mut(&conn).filter(|stream| stream.alive) else {
            return;
        };
        let (worker, coordinator, term) = (stream.worker.index, stream.coordinator, stream.term);
        if let Some(what) = stream.up.pop_front() {
            self.hears((coordinator, term), worker, conn, what);
        }
    }

    pub(crate) fn reaches_worker(&mut self, conn: u64) {
        let Some(stream) = self.streams.get_mut(&conn).filter(|stream| stream.alive) else {
            return;
        };
        let worker = stream.worker;
        match stream.down.pop_front() {
            Some(Down::Order(order)) => self.obey(worker, conn, order),
            Some(Down::Close(kind)) => {
                self.streams.remove(&conn);
                self.turned_away(worker, conn, kind);
            }
            None => {}
        }
    }
}
