//! The thread that owns a communicator of NCCL: it takes operations and turns the state machine.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use super::driver::Driver;
use super::state::{Machine, State};
use crate::call::OpId;
use crate::error::{Error, Result};
use crate::pending::Completer;

/// How often to look again at once before sleeping. Looking costs about a microsecond.
const SPINS: u32 = 200;
/// Sleeps while something is under way: first and longest.
const NAP: Duration = Duration::from_micros(20);
const LONGEST_NAP: Duration = Duration::from_micros(200);
/// How often an idle communicator looks whether it was aborted.
const TICK: Duration = Duration::from_millis(20);

/// An operation on its way to the thread.
pub(crate) struct Job<W> {
    pub(crate) op: OpId,
    pub(crate) work: W,
    pub(crate) completer: Completer,
}

/// Runs until the communicator is closed and everything has come to its end. `ready` hears once
/// whether the set-up succeeded.
pub(crate) fn run<D: Driver>(
    mut machine: Machine<D>,
    inbox: &Receiver<Job<D::Work>>,
    ready: &Sender<Result<()>>,
) -> Machine<D> {
    let epoch = Instant::now();
    machine.start(epoch.elapsed());
    let mut told = false;
    let mut open = true;
    let mut calm = 0;
    loop {
        while open {
            match inbox.try_recv() {
                Ok(job) => machine.push(job.op, job.work, job.completer),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    machine.close();
                    open = false;
                }
            }
        }
        let moved = machine.step(epoch.elapsed());
        if !told {
            let word = match (machine.state(), machine.broken()) {
                (State::Initialising { .. }, _) => None,
                // Not before the device has let go: whoever hears of it may try again at once.
                (State::Aborting { .. }, _) => None,
                (_, Some(error)) => Some(Err(error.clone())),
                (_, None) => Some(Ok(())),
            };
            if let Some(word) = word {
                told = true;
                // Nobody listens any more if the caller has given up; then the inbox is closed too.
                let _ = ready.send(word);
            }
        }
        if machine.state() == State::Dead && !open {
            return machine;
        }
        if moved {
            calm = 0;
            continue;
        }
        calm += 1;
        if machine.idle() && open {
            match inbox.recv_timeout(TICK) {
                Ok(job) => machine.push(job.op, job.work, job.completer),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    machine.close();
                    open = false;
                }
            }
            calm = 0;
        } else if calm > SPINS {
            std::thread::sleep((NAP * (calm - SPINS)).min(LONGEST_NAP));
        } else {
            std::thread::yield_now();
        }
    }
}

/// The error for a thread that has gone away or does not answer.
pub(crate) fn silent(generation: u64, limit: Duration) -> Error {
    Error::Stalled {
        generation,
        what: "set-up".into(),
        awaited: "a call of NCCL or the driver to return",
        waited: limit,
        limit,
    }
}
