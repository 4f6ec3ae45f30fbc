//! A communicator that fails on purpose, at operations chosen in advance.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use crate::abort::AbortHandle;
use crate::call::{Call, OpId};
use crate::error::Error;
use crate::mesh::wait;
use crate::pending::{Pending, pair};
use crate::traffic::Traffic;
use crate::{Communicator, sealed};

/// What happens at a chosen operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails with [`Error::Injected`]; this rank leaves.
    Fail,
    /// The operation is issued later, as on a slow rank; `issue` blocks meanwhile.
    Delay(Duration),
    /// This rank stops taking part until it is aborted; peers run into their deadline.
    Hang,
    /// All links are dropped before the operation.
    DropLinks,
}

/// One entry of a fault plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultAt {
    /// On which rank.
    pub rank: usize,
    /// At which operation, counted from 0 per communicator.
    pub seq: u64,
    /// What happens.
    pub fault: Fault,
}

/// Wraps a communicator and carries out a plan of faults; everything else passes through.
#[derive(Debug)]
pub struct Faulty<C> {
    inner: C,
    plan: Vec<FaultAt>,
    next: Mutex<u64>,
}

impl<C: Communicator> Faulty<C> {
    /// `plan` may be the same table on all ranks; each takes its own entries.
    pub fn new(inner: C, plan: &[FaultAt]) -> Faulty<C> {
        let plan = plan
            .iter()
            .copied()
            .filter(|f| f.rank == inner.rank())
            .collect();
        Faulty {
            inner,
            plan,
            next: Mutex::new(0),
        }
    }
}

impl<C: Communicator> sealed::Sealed for Faulty<C> {}

impl<C: Communicator> Communicator for Faulty<C> {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn issue(&self, call: Call) -> Pending {
        // Held while issuing, so that operations of several threads keep their numbers.
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let op = OpId {
            seq: *next,
            kind: call.kind(),
        };
        *next += 1;
        let fault = self.plan.iter().find(|f| f.seq == op.seq).map(|f| f.fault);
        match fault {
            None => self.inner.issue(call),
            Some(Fault::Delay(delay)) => {
                std::thread::sleep(delay);
                self.inner.issue(call)
            }
            Some(Fault::DropLinks) => {
                self.inner
                    .abort_handle()
                    .abort(format!("injected fault at {op}: links dropped"));
                self.inner.issue(call)
            }
            Some(Fault::Fail) => {
                self.inner
                    .abort_handle()
                    .abort(format!("injected fault at {op}"));
                Pending::failed(Error::Injected {
                    what: op.to_string(),
                })
            }
            Some(Fault::Hang) => hang(self.inner.abort_handle(), op),
        }
    }

    fn abort_handle(&self) -> AbortHandle {
        self.inner.abort_handle()
    }

    fn traffic(&self) -> Traffic {
        self.inner.traffic()
    }
}

/// An operation that ends only by an abort.
fn hang(abort: AbortHandle, op: OpId) -> Pending {
    let (completer, pending) = pair();
    let waiter = std::thread::Builder::new()
        .name("comm-hang".into())
        .spawn(move || {
            while abort.reason().is_none() {
                let mut fds = [PollFd::from_borrowed_fd(abort.event(), PollFlags::IN)];
                if wait(&mut fds, None).is_err() {
                    break;
                }
            }
            completer.complete(abort.check(op).map(|()| Default::default()));
        });
    match waiter {
        Ok(_) => pending,
        Err(e) => Pending::failed(Error::system("start the hanging thread", e)),
    }
}
