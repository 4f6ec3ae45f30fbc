//! The CPU communicator: one progress thread runs the operations in the order of issue.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};

use crate::abort::AbortHandle;
use crate::call::{Call, OpId};
use crate::collective;
use crate::control::Farewell;
use crate::error::{Error, Result};
use crate::flight::Flight;
use crate::memory::Memory;
use crate::mesh::{Lane, Mesh, wait};
use crate::pending::{Completer, Pending, pair};
use crate::traffic::{Meter, Traffic};
use crate::{Communicator, Transport};

/// Ranks joined over shared memory and TCP. Made by [`connect`](crate::connect).
///
/// Dropping it lets what was issued finish in the background, then closes the links.
pub struct CpuCommunicator {
    rank: usize,
    size: usize,
    abort: AbortHandle,
    transports: Vec<Option<Transport>>,
    shared: Arc<Shared>,
    queue: Mutex<Queue>,
    flight: Flight,
}

#[derive(Debug)]
struct Shared {
    /// Readable when a job was queued: the progress thread sleeps in poll, not on the queue, so
    /// that it sees aborts and dying peers as well.
    bell: OwnedFd,
    meter: Meter,
    /// The first peer whose link ended, or that an operation blames for its failure.
    lost: OnceLock<(usize, String)>,
}

struct Queue {
    next: u64,
    /// None once the communicator is being dropped.
    jobs: Option<Sender<Job>>,
}

struct Job {
    op: OpId,
    call: Call,
    completer: Completer,
}

impl CpuCommunicator {
    pub(crate) fn start(mesh: Mesh) -> Result<CpuCommunicator> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Error::system("create an event for the progress thread", e))?;
        let shared = Arc::new(Shared {
            bell,
            meter: Meter::default(),
            lost: OnceLock::new(),
        });
        let (jobs, inbox) = channel();
        let communicator = CpuCommunicator {
            rank: mesh.rank,
            size: mesh.size,
            abort: mesh.abort.clone(),
            transports: mesh
                .links
                .iter()
                .map(|link| {
                    link.as_ref().map(|l| match l.lane {
                        Lane::Shm(_) => Transport::SharedMemory,
                        Lane::Tcp(_) => Transport::Tcp,
                    })
                })
                .collect(),
            shared: shared.clone(),
            queue: Mutex::new(Queue {
                next: 0,
                jobs: Some(jobs),
            }),
            flight: mesh.flight.clone(),
        };
        std::thread::Builder::new()
            .name(format!("comm-{}", mesh.rank))
            .spawn(move || progress(mesh, &inbox, &shared))
            .map_err(|e| Error::system("start the progress thread", e))?;
        Ok(communicator)
    }

    /// The first peer whose link ended, with its last words or how that was noticed, even while no
    /// operation runs; or the one that a failed operation blames. A peer that only closed its
    /// communicator counts as well.
    pub fn lost(&self) -> Option<(usize, &str)> {
        self.shared.lost.get().map(|(p, why)| (*p, why.as_str()))
    }

    /// The recorder of its operations.
    pub fn flight(&self) -> &Flight {
        &self.flight
    }

    /// How bytes travel to `peer`; None for this rank itself and for ranks that don't exist.
    pub fn transport(&self, peer: usize) -> Option<Transport> {
        self.transports.get(peer).copied().flatten()
    }
}

impl crate::sealed::Sealed for CpuCommunicator {}

impl Communicator for CpuCommunicator {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn issue(&self, call: Call) -> Pending {
        if let Err(e) = call
            .check(self.rank, self.size)
            .and_then(|()| on_host(&call))
        {
            return Pending::failed(e);
        }
        let (completer, pending) = pair();
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let op = OpId {
            seq: queue.next,
            kind: call.kind(),
        };
        queue.next += 1;
        self.flight.issued(queue.next);
        if let Some(jobs) = &queue.jobs {
            // Fails only if the progress thread is gone; the completer then says so itself.
            let _ = jobs.send(Job {
                op,
                call,
                completer,
            });
        }
        drop(queue);
        ring(&self.shared.bell);
        pending
    }

    fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    fn traffic(&self) -> Traffic {
        self.shared.meter.snapshot()
    }
}

impl Drop for CpuCommunicator {
    fn drop(&mut self) {
        // Not joined: what was issued may still have to wait for peers, and whoever needs its
        // end holds a `Pending`.
        self.queue
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .jobs = None;
        ring(&self.shared.bell);
    }
}

impl fmt::Debug for CpuCommunicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuCommunicator(rank {} of {})", self.rank, self.size)
    }
}

/// This communicator moves only what this process can read and write itself.
fn on_host(call: &Call) -> Result<()> {
    match call.memory()? {
        None | Some(Memory::Host) => Ok(()),
        Some(memory) => Err(Error::Invalid {
            kind: call.kind(),
            detail: format!(
                "the argument is in {memory}, the CPU communicator works in host memory: use an NCCL communicator, or copy it to the host"
            ),
        }),
    }
}

fn ring(bell: &OwnedFd) {
    // Can only fail when the counter is full, and then the bell is ringing anyway.
    let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
}

/// The progress thread.
fn progress(mut mesh: Mesh, inbox: &Receiver<Job>, shared: &Shared) {
    let mut broken: Option<Error> = None;
    loop {
        match inbox.try_recv() {
            Ok(Job {
                op,
                mut call,
                completer,
            }) => {
                let result = match &broken {
                    Some(first) => Err(first.clone()),
                    None => {
                        let before = mesh.moved();
                        mesh.flight.begin(op, call.bytes());
                        let result = mesh
                            .abort
                            .check(op)
                            .and_then(|()| collective::run(&mut mesh, op.seq, &mut call));
                        mesh.flight.end(op, result.is_err());
                        let after = mesh.moved();
                        shared
                            .meter
                            .add(op.kind, std::array::from_fn(|i| after[i] - before[i]));
                        result
                    }
                };
                if let (Err(e), None) = (&result, &broken) {
                    if let Some(peer) = e.peer() {
                        let _ = shared.lost.set((peer, e.to_string()));
                    }
                    give_up(&mut mesh, e);
                    broken = Some(e.clone());
                }
                // The memory is let go before anybody hears that the operation is over.
                drop(call);
                completer.complete(result);
            }
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                idle(&mut mesh, shared, broken.is_some());
                if broken.is_none()
                    && let Err(e) = mesh.abort.check("communicator")
                {
                    give_up(&mut mesh, &e);
                    broken = Some(e);
                }
            }
        }
    }
    if broken.is_none()
        && let Err(e) = mesh.abort.check("communicator")
    {
        give_up(&mut mesh, &e);
    }
    mesh.close(&Farewell {
        culprit: None,
        reason: "it closed its communicator".into(),
    });
}

/// Closes all links after a failure, telling the peers whom to blame.
fn give_up(mesh: &mut Mesh, error: &Error) {
    tracing::warn!(rank = mesh.rank, %error, "communicator gives up");
    let culprit = match error {
        Error::PeerLost { peer, .. } | Error::Deadline { peer, .. } => Some(*peer),
        _ => None,
    };
    mesh.close(&Farewell {
        culprit,
        reason: error.to_string(),
    });
}

/// Sleeps until there is a job or something happens to the links.
fn idle(mesh: &mut Mesh, shared: &Shared, broken: bool) {
    let mut fds = vec![PollFd::from_borrowed_fd(shared.bell.as_fd(), PollFlags::IN)];
    if !broken {
        fds.push(PollFd::from_borrowed_fd(mesh.abort.event(), PollFlags::IN));
        for link in mesh
            .links
            .iter()
            .flatten()
            .filter(|l| l.control.gone().is_none())
        {
            fds.push(PollFd::from_borrowed_fd(link.control.fd(), PollFlags::IN));
        }
    }
    let limit = mesh.pulse.every().filter(|_| !broken && mesh.size > 1);
    if let Err(error) = wait(&mut fds, limit) {
        tracing::warn!(rank = mesh.rank, %error, "poll for work failed");
        std::thread::yield_now();
    }
    let _ = rustix::io::read(&shared.bell, &mut [0u8; 8]);
    for link in mesh.links.iter_mut().flatten() {
        link.listen();
    }
    mesh.pulse();
    if let Some((peer, reason)) = mesh.first_gone() {
        let _ = shared.lost.set((peer, reason));
    }
}
