//! What goes wrong: nature against all processes, the networks, the clocks and the store.

use crate::world::{Happening, World};

impl World {
    /// Something goes wrong, and the next thing is planned.
    pub(crate) fn fault(&mut self) {
        let pause = self.dice.between(100, 2_500);
        self.later(pause, Happening::Fault);
        if !self.storm {
            return;
        }
        let now = self.now;
        let w = self.dice.index(self.workers.len());
        let other = self.dice.index(self.workers.len());
        let c = self.dice.index(self.coordinators.len());
        match self.dice.roll(16) {
            0..=2 => self.crash(w),
            3 | 4 => {
                self.count("coordinator killed");
                self.kill_coordinator(c);
                let wait = self.dice.between(100, 4_000);
                self.later(wait, Happening::Boot { coordinator: c });
            }
            5 | 6 => {
                self.count("worker stopped");
                self.workers[w].stalled_until = now + self.long(6_000, 15_000);
            }
            7 => {
                self.count("coordinator stopped");
                self.coordinators[c].stalled_until = now + self.dice.between(100, 5_000);
            }
            8 => {
                self.count("stream broken");
                for conn in self.open_streams(Some(w)) {
                    let (one, other) = (self.dice.roll(1_000), self.dice.roll(4_000));
                    self.break_stream(conn, one, other);
                }
            }
            9 => self.cut_control(w),
            10 => {
                self.count("data network cut");
                let until = now + self.dice.between(100, 6_000);
                self.data_cut[w][other] = until;
                self.data_cut[other][w] = until;
            }
            11 => {
                self.count("store down");
                self.store.down_until = now + self.dice.between(100, 5_000);
            }
            12 => {
                self.count("store cut off");
                self.store_cut[c] = now + self.dice.between(300, 6_000);
            }
            13 => {
                self.count("clock jump");
                self.coordinators[c].skew = self.dice.between(0, 90_000) as i64 - 30_000;
            }
            14 => {
                self.count("worker told to go");
                let process = self.process_of(w);
                let until = now + 20_000;
                self.later(0, Happening::Leave { process, until });
            }
            _ => {
                // Everything of one machine at once: a leader and a worker.
                self.count("machine lost");
                self.kill_coordinator(c);
                let wait = self.dice.between(1_000, 10_000);
                self.later(wait, Happening::Boot { coordinator: c });
                self.crash(w);
            }
        }
    }

    /// Mostly short, sometimes long.
    fn long(&mut self, short: u64, long: u64) -> u64 {
        if self.dice.one_in(6) {
            self.dice.between(short, long)
        } else {
            self.dice.between(50, short)
        }
    }

    fn crash(&mut self, w: usize) {
        if self.workers[w].up {
            self.count("worker killed");
            let restart = self.long(3_000, 20_000);
            self.kill_worker(w, restart);
        }
    }

    /// A worker can't reach one coordinator or all of them; its peers it can.
    fn cut_control(&mut self, w: usize) {
        self.count("control network cut");
        let until = self.now + self.long(8_000, 25_000);
        let all = self.dice.one_in(2);
        let only = self.dice.index(self.coordinators.len());
        for c in 0..self.coordinators.len() {
            if all || c == only {
                self.control_cut[w][c] = until;
            }
        }
        for conn in self.open_streams(Some(w)) {
            let hit = |c: usize| all || c == only;
            if self
                .streams
                .get(&conn)
                .is_some_and(|stream| hit(stream.coordinator))
            {
                let (one, other) = (self.dice.between(0, 15_000), self.dice.between(0, 15_000));
                self.break_stream(conn, one, other);
            }
        }
    }

    /// Good weather: all faults end, and whoever is down comes back.
    pub(crate) fn calm(&mut self) {
        self.storm = false;
        self.store.down_until = 0;
        self.store_cut.fill(0);
        for cuts in self.control_cut.iter_mut().chain(&mut self.data_cut) {
            cuts.fill(0);
        }
        for worker in &mut self.workers {
            worker.stalled_until = worker.stalled_until.min(self.now);
        }
        for coordinator in &mut self.coordinators {
            coordinator.stalled_until = coordinator.stalled_until.min(self.now);
            coordinator.skew = 0;
        }
        for coordinator in 0..self.coordinators.len() {
            self.later(10, Happening::Boot { coordinator });
        }
        for worker in 0..self.workers.len() {
            self.later(10, Happening::Start { worker });
        }
    }
}
