//! What fake workers hold in memory, and how one leaves.

use super::fake::{Key, Sim};
use espalier_core::{Event, Outcome};
use espalier_spec::plan::Seat;

impl Sim {
    /// A worker is asked to leave: all ranks of its jobs stop at a step whose parts are held, without
    /// an order; then it says good-bye.
    pub fn leave(&mut self, w: usize) {
        let started = self.workers[w].runs.iter().filter(|(_, run)| run.started);
        let keys: Vec<(Key, String)> = started
            .map(|(key, run)| (key.clone(), run.uid.clone()))
            .collect();
        for (key, uid) in keys {
            if let Some(at) = self.steps.get(&(uid, key.1.0)).copied() {
                self.snapshot(&key, at);
            }
            for peer in [w, 0, 1, 2] {
                if self.workers[peer].up {
                    self.end(peer, &key, Outcome::Ordered);
                }
            }
        }
        if let Some(conn) = self.workers[w].conn {
            let reason = "told to stop".to_owned();
            self.step(Event::Goodbye { conn, reason });
        }
        self.workers[w].conn = None;
        self.workers[w].die();
    }

    /// All ranks take their parts of a step; each part goes to its rank's worker and to that of the
    /// next rank on another one. Nothing is held unless all take part.
    pub fn snapshot(&mut self, key: &Key, at: u64) {
        let run = self.workers.iter().find_map(|fake| fake.runs.get(key));
        let Some((uid, world)) = run.map(|run| (run.uid.clone(), run.world.clone())) else {
            return;
        };
        let here = |seat: &Seat| {
            let mut workers = self.workers.iter();
            let fake = workers.find(|fake| fake.name == seat.worker.as_str());
            fake.and_then(|fake| fake.runs.get(key))
                .is_some_and(|run| run.started)
        };
        if !world.iter().all(here) {
            return;
        }
        for (index, seat) in world.iter().enumerate() {
            let after = world.iter().cycle().skip(index).take(world.len());
            let buddy = after.map(|seat| &seat.worker).find(|w| **w != seat.worker);
            for name in [Some(&seat.worker), buddy].into_iter().flatten() {
                let mut workers = self.workers.iter_mut();
                let fake = workers.find(|fake| fake.name == name.as_str());
                if let Some(fake) = fake {
                    let steps = fake.held.entry((uid.clone(), seat.rank)).or_default();
                    steps.insert(at);
                    if steps.len() > 2 {
                        steps.pop_first();
                    }
                }
            }
        }
    }
}
