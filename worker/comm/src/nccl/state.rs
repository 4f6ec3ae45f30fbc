//! The life of an NCCL communicator as a machine that knows neither NCCL nor clocks nor threads.
//!
//! ```text
//!            init            ready                closed, nothing in flight
//!   Uninit ───────► Initialising ───────► Ready ───────────────────────► Closing ───► Dead
//!                        │                  │                               │           ▲
//!                        └── failure, abort ┴───────────► Aborting ◄────────┘           │
//!                                                            └── device stopped, or not ┘
//! ```
//!
//! An operation is *greeting* (peers compare what they are about to do), then *launching* (NCCL may
//! take a while to put it on the stream), then *running* (the device works). At most one is
//! launching; many may run, in the order of the stream. The first failure ends the communicator: what
//! has not been launched fails at once, what has fails when the device has let go of its memory.

use std::collections::VecDeque;
use std::time::Duration;

use super::driver::{Driver, Limits, Reached, Word};
use crate::abort::AbortHandle;
use crate::call::OpId;
use crate::error::Error;
use crate::pending::{Completer, Outcome};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Uninit,
    Initialising { since: Duration },
    Ready,
    Closing { since: Duration },
    Aborting { since: Duration },
    Dead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Greeting,
    Launching { since: Duration },
    Running { since: Duration, begun: bool },
}

struct Flight<W> {
    op: OpId,
    work: W,
    completer: Completer,
    phase: Phase,
}

/// Something is wrong, but not yet who is to blame.
struct Suspicion {
    since: Duration,
    what: String,
    op: OpId,
    /// The library's words; None if only a peer is gone, which may have been done with us.
    failure: Option<String>,
}

/// See the module. Times are since any fixed moment.
pub(crate) struct Machine<D: Driver> {
    driver: D,
    generation: u64,
    limits: Limits,
    abort: AbortHandle,
    state: State,
    flights: VecDeque<Flight<D::Work>>,
    closing: bool,
    suspicion: Option<Suspicion>,
    broken: Option<Error>,
    /// The device did not let go.
    stuck: bool,
}

impl<D: Driver> Machine<D> {
    pub(crate) fn new(driver: D, generation: u64, limits: Limits, abort: AbortHandle) -> Self {
        Machine {
            driver,
            generation,
            limits,
            abort,
            state: State::Uninit,
            flights: VecDeque::new(),
            closing: false,
            suspicion: None,
            broken: None,
            stuck: false,
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// The first failure.
    pub(crate) fn broken(&self) -> Option<&Error> {
        self.broken.as_ref()
    }

    /// True if only new work, an abort or a dying peer can make a difference.
    pub(crate) fn idle(&self) -> bool {
        match self.state {
            State::Ready => self.flights.is_empty() && !self.closing,
            State::Dead => true,
            _ => false,
        }
    }

    /// Takes the driver apart, unless the device still works with what it holds.
    pub(crate) fn dismantle(self) {
        if self.stuck {
            std::mem::forget(self.driver);
        }
    }

    pub(crate) fn start(&mut self, now: Duration) {
        self.state = State::Initialising { since: now };
        if let Err(reason) = self.driver.init() {
            self.fail(now, self.nccl("set-up", reason));
        }
    }

    /// Takes an operation whose greeting has been sent. Operations come in issue order.
    pub(crate) fn push(&mut self, op: OpId, work: D::Work, completer: Completer) {
        if let Some(first) = &self.broken {
            drop(work);
            completer.complete(Err(first.clone()));
            return;
        }
        self.flights.push_back(Flight {
            op,
            work,
            completer,
            phase: Phase::Greeting,
        });
    }

    /// No more operations will come.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Does what can be done now; false if nothing could.
    pub(crate) fn step(&mut self, now: Duration) -> bool {
        match self.state {
            State::Uninit | State::Dead => false,
            State::Initialising { since } => self.initialise(now, since),
            State::Ready => self.work(now),
            State::Closing { since } => self.finish(now, since),
            State::Aborting { since } => self.release(now, since),
        }
    }

    fn initialise(&mut self, now: Duration, since: Duration) -> bool {
        if let Err(e) = self.abort.check("set-up of NCCL") {
            return self.fail(now, e);
        }
        match self.driver.word() {
            Word::Done => {
                self.state = State::Ready;
                return true;
            }
            Word::Failed(reason) => return self.fail(now, self.nccl("set-up", reason)),
            Word::Busy => {}
        }
        if let Some((peer, reason)) = self.driver.lost() {
            let error = Error::Nccl {
                generation: self.generation,
                what: "set-up".into(),
                peer: Some(peer),
                reason: format!("lost rank {peer}: {reason}"),
            };
            return self.fail(now, error);
        }
        if now - since >= self.limits.init {
            let awaited = "the peers to take part";
            let error = self.stalled("set-up", awaited, now - since, self.limits.init);
            return self.fail(now, error);
        }
        false
    }

    fn work(&mut self, now: Duration) -> bool {
        if let Err(e) = match self.flights.front() {
            Some(flight) => self.abort.check(flight.op),
            None => self.abort.check("communicator"),
        } {
            return self.fail(now, e);
        }
        let launched = self.flights.iter().any(|f| f.phase != Phase::Greeting);
        if (launched || self.suspicion.is_some())
            && let Some(fatal) = self.examine(now)
        {
            return fatal;
        }
        let mut moved = self.complete(now);
        if self.state == State::Ready && self.suspicion.as_ref().is_none_or(|s| s.failure.is_none())
        {
            moved |= self.advance(now);
        }
        if self.state == State::Ready && self.closing && self.flights.is_empty() {
            self.state = State::Closing { since: now };
            if let Err(reason) = self.driver.finalize() {
                return self.fail(now, self.nccl("closing", reason));
            }
            return true;
        }
        moved
    }

    /// Looks for failures of what was launched. Some if nothing else is to be done in this step.
    fn examine(&mut self, now: Duration) -> Option<bool> {
        let lost = self.driver.lost();
        if let Some(front) = self.flights.front().map(|f| f.op) {
            if let Word::Failed(reason) = self.driver.word() {
                self.suspect(now, front, Some(reason));
            }
            if lost.is_some() {
                self.suspect(now, front, None);
            }
        }
        let suspicion = self.suspicion.as_ref()?;
        let over = now - suspicion.since >= self.limits.grace;
        let error = match (&suspicion.failure, lost) {
            (None, Some((peer, reason))) if over => Error::PeerLost {
                peer,
                op: suspicion.op,
                reason,
            },
            (None, _) => return None,
            (Some(failure), Some((peer, reason))) => Error::PeerLost {
                peer,
                op: suspicion.op,
                reason: format!("{reason}; NCCL says: {failure}"),
            },
            (Some(failure), None) if over => self.nccl(&suspicion.what, failure.clone()),
            (Some(_), None) => return Some(false),
        };
        Some(self.fail(now, error))
    }

    /// Keeps the first suspicion; the library's words are added when they come.
    fn suspect(&mut self, now: Duration, op: OpId, failure: Option<String>) {
        match &mut self.suspicion {
            None => {
                self.suspicion = Some(Suspicion {
                    since: now,
                    what: op.to_string(),
                    op,
                    failure,
                });
            }
            Some(suspicion) => {
                if suspicion.failure.is_none() {
                    suspicion.failure = failure;
                }
            }
        }
    }

    /// Completes what the device has passed, in order, and watches the deadline of the first.
    fn complete(&mut self, now: Duration) -> bool {
        let mut moved = false;
        while let Some(flight) = self.flights.front_mut() {
            let Phase::Running { since, begun } = flight.phase else {
                break;
            };
            let op = flight.op;
            match self.driver.reached(&flight.work) {
                Err(reason) => {
                    self.suspect(now, op, Some(reason));
                    return true;
                }
                Ok(Reached::Passed) => {
                    if let Some(Flight {
                        work, completer, ..
                    }) = self.flights.pop_front()
                    {
                        // The memory is let go before anybody hears that the operation is over.
                        drop(work);
                        completer.complete(Ok(Outcome::default()));
                    }
                    // The next one has waited for this one, not for its peers.
                    if let Some(Phase::Running { since, .. }) =
                        self.flights.front_mut().map(|f| &mut f.phase)
                    {
                        *since = now;
                    }
                    moved = true;
                }
                Ok(Reached::Running) if !begun => {
                    flight.phase = Phase::Running {
                        since: now,
                        begun: true,
                    };
                    moved = true;
                }
                Ok(Reached::Queued | Reached::Running) => {
                    let awaited = if begun {
                        "the peers' part of it"
                    } else {
                        "this rank's own earlier device work"
                    };
                    let (waited, limit) = (now - since, self.limits.operation);
                    if waited >= limit {
                        let error = self.stalled(op.to_string(), awaited, waited, limit);
                        return self.fail(now, error);
                    }
                    break;
                }
            }
        }
        if self.flights.iter().all(|f| f.phase == Phase::Greeting)
            && self.suspicion.as_ref().is_some_and(|s| s.failure.is_none())
        {
            // The peer that is gone was done with us.
            self.suspicion = None;
        }
        moved
    }

    /// Launches what can be launched: one at a time, in order.
    fn advance(&mut self, now: Duration) -> bool {
        let mut moved = false;
        for i in 0..self.flights.len() {
            let flight = &mut self.flights[i];
            let op = flight.op;
            if flight.phase == Phase::Greeting {
                match self.driver.agreed(op, &mut flight.work) {
                    None => break,
                    Some(Err(e)) => return self.fail(now, e),
                    Some(Ok(())) => {}
                }
                flight.phase = Phase::Launching { since: now };
                moved = true;
                if let Err(reason) = self.driver.launch(&mut flight.work) {
                    self.suspect(now, op, Some(reason));
                    break;
                }
            }
            let Phase::Launching { since } = flight.phase else {
                continue;
            };
            match self.driver.word() {
                Word::Done => {
                    if let Err(reason) = self.driver.mark(&mut flight.work) {
                        self.suspect(now, op, Some(reason));
                        break;
                    }
                    flight.phase = Phase::Running {
                        since: now,
                        begun: false,
                    };
                    moved = true;
                }
                Word::Failed(reason) => {
                    self.suspect(now, op, Some(reason));
                    break;
                }
                Word::Busy => {
                    let (waited, limit) = (now - since, self.limits.operation);
                    if waited >= limit {
                        let awaited = "NCCL to put it on the stream";
                        let error = self.stalled(op.to_string(), awaited, waited, limit);
                        return self.fail(now, error);
                    }
                    break;
                }
            }
        }
        moved
    }

    fn finish(&mut self, now: Duration, since: Duration) -> bool {
        let error = match (self.abort.check("closing"), self.driver.word()) {
            (Err(e), _) => e,
            (Ok(()), Word::Failed(reason)) => self.nccl("closing", reason),
            (Ok(()), Word::Done) => {
                self.driver.destroy();
                self.state = State::Dead;
                return true;
            }
            (Ok(()), Word::Busy) if now - since < self.limits.close => return false,
            (Ok(()), Word::Busy) => {
                let awaited = "the peers to close as well";
                self.stalled("closing", awaited, now - since, self.limits.close)
            }
        };
        self.fail(now, error)
    }

    fn release(&mut self, now: Duration, since: Duration) -> bool {
        let released = self.driver.released();
        let waited = now - since;
        if !released && waited < self.limits.release {
            return false;
        }
        self.state = State::Dead;
        self.stuck = !released;
        for Flight {
            op,
            work,
            completer,
            ..
        } in self.flights.drain(..)
        {
            drop(work);
            let Some(cause) = self.broken.clone() else {
                // Not reached: only `fail` leads here, and it sets the error.
                continue;
            };
            completer.complete(Err(if released {
                cause
            } else {
                Error::Stuck {
                    generation: self.generation,
                    what: op.to_string(),
                    cause: cause.to_string(),
                    waited,
                }
            }));
        }
        true
    }

    /// Ends the communicator; true, to be returned from a step.
    fn fail(&mut self, now: Duration, error: Error) -> bool {
        self.broken = Some(error.clone());
        self.state = State::Aborting { since: now };
        self.driver.farewell(&error);
        self.driver.abort();
        // What was not launched has touched nothing; the rest has to wait for the device.
        for flight in std::mem::take(&mut self.flights) {
            if flight.phase == Phase::Greeting {
                drop(flight.work);
                flight.completer.complete(Err(error.clone()));
            } else {
                self.flights.push_back(flight);
            }
        }
        true
    }

    fn nccl(&self, what: &str, reason: String) -> Error {
        Error::Nccl {
            generation: self.generation,
            what: what.to_string(),
            peer: None,
            reason,
        }
    }

    fn stalled(
        &self,
        what: impl Into<String>,
        awaited: &'static str,
        waited: Duration,
        limit: Duration,
    ) -> Error {
        Error::Stalled {
            generation: self.generation,
            what: what.into(),
            awaited,
            waited,
            limit,
        }
    }
}
