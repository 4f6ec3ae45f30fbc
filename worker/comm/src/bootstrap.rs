//! Joining ranks: every rank calls the lower ones and is called by the higher ones.
//!
//! ```text
//! caller (higher rank)                       called (lower rank)
//!   control: Hello{job, generation, ranks} ->
//!                                          <- Welcome | Later | Refused(why)
//!   control: segment name and token, or none ->
//!                                          <- Welcome (mapped) | Refused (why not)
//!   only if not mapped:
//!   data:    Hello                         ->
//!                                          <- Welcome
//! ```

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::abort::AbortHandle;
use crate::control::Control;
use crate::cpu::CpuCommunicator;
use crate::dial::{Event, answer, call};
use crate::door::{Trust, Wire};
use crate::error::{Error, Result};
use crate::flight::Flight;
use crate::handshake::{Gate, Hello, Purpose};
use crate::mesh::{Lane, Link, Mesh, wait};
use crate::pulse::Pulse;
use crate::secret::Secret;
use crate::tcp::TcpLink;

/// Callers that are heard out at once, besides two for every rank; others are hung up on.
const STRANGERS: usize = 64;
/// How long the main loop sleeps at most: results of the helper threads arrive on a queue.
const TICK: Duration = Duration::from_millis(1);

/// A bound address where peers can call this rank. Serves one rendezvous after the other.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

/// Where to find a rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddr {
    /// Its number in the world.
    pub rank: usize,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its [`host_id`](crate::host_id); equal ids try shared memory.
    pub host_id: String,
}

/// How a rank wants to be joined to its peers. See [`Rendezvous::new`] for the defaults.
#[derive(Debug, Clone)]
pub struct Rendezvous {
    /// The job; calls for other jobs are refused.
    pub job: String,
    /// The membership; callers with an older one are refused, those with a newer one put off.
    pub generation: u64,
    /// This rank.
    pub rank: usize,
    /// All ranks, this one included, in any order; its length is the size of the world.
    pub peers: Vec<PeerAddr>,
    /// How long to wait for the peers to join.
    pub connect_timeout: Duration,
    /// How long an operation may go without progress.
    pub timeout: Duration,
    /// How long a peer's process may give no sign of life, once it has given one; 0 for any time. All ranks
    /// must be given the same.
    pub silence: Duration,
    /// False: TCP even between ranks of one host.
    pub shared_memory: bool,
    /// What peers are known by, and what is said is encrypted with; all ranks must be given the same.
    /// None: plain text with whoever calls.
    pub secret: Option<Secret>,
    /// Gives up the rendezvous and later the communicator; None makes a new handle.
    pub abort: Option<AbortHandle>,
    /// Records the communicator's operations; None makes a new recorder.
    pub flight: Option<Flight>,
}

impl Listener {
    /// Listens at `addr`; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// [`Error::System`] naming the address.
    pub fn bind(addr: SocketAddr) -> Result<Listener> {
        let failed = |e: io::Error| Error::system(format!("listen at {addr} for peers"), e);
        let socket = TcpListener::bind(addr).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Listener { socket, address })
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Rendezvous {
    /// One minute to join, two minutes without progress per operation, five seconds without a sign of
    /// life, shared memory where possible, no secret.
    pub fn new(
        job: impl Into<String>,
        generation: u64,
        rank: usize,
        peers: Vec<PeerAddr>,
    ) -> Rendezvous {
        Rendezvous {
            job: job.into(),
            generation,
            rank,
            peers,
            connect_timeout: Duration::from_secs(60),
            timeout: Duration::from_secs(120),
            silence: Duration::from_secs(5),
            shared_memory: true,
            secret: None,
            abort: None,
            flight: None,
        }
    }

    pub(crate) fn hello(&self, purpose: Purpose, to: usize, attempt: u32) -> Hello {
        // `check` has seen that ranks fit.
        Hello {
            purpose,
            job: self.job.clone(),
            generation: self.generation,
            from: self.rank as u32,
            to: to as u32,
            size: self.peers.len() as u32,
            attempt,
            fresh: None,
        }
    }

    /// Checks the fields and sorts the peers by rank.
    fn check(&mut self) -> Result<()> {
        let size = self.peers.len();
        let fail = |detail: String| {
            Err(Error::Rendezvous {
                rank: self.rank,
                detail,
            })
        };
        if self.rank >= size || u32::try_from(size).is_err() {
            return fail(format!("rank {} is not among the {size} peers", self.rank));
        }
        if self.job.len() > 1024 {
            return fail(format!(
                "job has {} bytes, at most 1024 expected",
                self.job.len()
            ));
        }
        self.peers.sort_by_key(|p| p.rank);
        if let Some((i, p)) = self.peers.iter().enumerate().find(|(i, p)| p.rank != *i) {
            return fail(format!(
                "peers must be ranks 0 to {}, each once; found rank {} in place of {i}",
                size - 1,
                p.rank
            ));
        }
        Ok(())
    }
}

/// Joins this rank to all its peers; returns once there is a link to each.
///
/// # Errors
///
/// [`Error::Unreachable`] names the first missing peer when the time is over, [`Error::Refused`]
/// a peer that does not want this rank (stale generation, other job, other build; with a secret it is
/// called again until time is over, since nobody proves who refuses), [`Error::Unauthenticated`] one that
/// does not know the secret, [`Error::Aborted`] an abort, [`Error::Rendezvous`] a bad description.
pub fn connect(listener: &Listener, mut rendezvous: Rendezvous) -> Result<CpuCommunicator> {
    rendezvous.check()?;
    let abort = match rendezvous.abort.take() {
        Some(abort) => abort,
        None => AbortHandle::new()?,
    };
    let flight = rendezvous.flight.take().unwrap_or_default();
    let secret = rendezvous.secret.take();
    let trust = Trust {
        secret: secret.as_ref(),
        flight: &flight,
    };
    let over = AtomicBool::new(false);
    let talking = AtomicUsize::new(0);
    let began = Instant::now();
    let gate = Gate {
        deadline: began + rendezvous.connect_timeout,
        abort: &abort,
        over: &over,
    };
    let links = std::thread::scope(|scope| {
        let (events, inbox) = channel();
        for peer in &rendezvous.peers[..rendezvous.rank] {
            let (events, rendezvous) = (events.clone(), &rendezvous);
            scope.spawn(move || call(rendezvous, peer, trust, gate, &events));
        }
        let links = gather(listener, &rendezvous, gate, began, &inbox, |stream| {
            let (events, rendezvous, talking) = (events.clone(), &rendezvous, &talking);
            if talking.fetch_add(1, Ordering::Relaxed) >= STRANGERS + 2 * rendezvous.peers.len() {
                talking.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            scope.spawn(move || {
                answer(rendezvous, stream, trust, gate, &events);
                talking.fetch_sub(1, Ordering::Relaxed);
            });
        });
        // Lets helper threads go that talk to strangers.
        over.store(true, Ordering::Relaxed);
        links
    })?;
    CpuCommunicator::start(Mesh {
        rank: rendezvous.rank,
        size: rendezvous.peers.len(),
        links,
        abort,
        timeout: rendezvous.timeout,
        flight,
        pulse: Pulse::new(rendezvous.silence),
    })
}

/// Accepts callers and collects links until there is one per peer.
fn gather(
    listener: &Listener,
    rendezvous: &Rendezvous,
    gate: Gate<'_>,
    began: Instant,
    inbox: &Receiver<Event>,
    answer: impl Fn(TcpStream),
) -> Result<Vec<Option<Link>>> {
    let size = rendezvous.peers.len();
    let mut links: Vec<Option<Link>> = (0..size).map(|_| None).collect();
    let mut halves: Vec<Option<(u32, Purpose, Wire)>> = (0..size).map(|_| None).collect();
    let first = |p: usize| {
        if p < rendezvous.rank {
            "no answer"
        } else {
            "it has not called yet"
        }
    };
    let mut trouble: Vec<String> = (0..size).map(|p| first(p).to_string()).collect();
    let broken = |e: io::Error| Error::system("set up a connection", e);
    loop {
        for event in inbox.try_iter() {
            match event {
                Event::Linked(peer, link) => links[peer] = Some(*link),
                Event::Half(peer, attempt, purpose, stream) => match halves[peer].take() {
                    Some((first, other, half)) if first == attempt && other != purpose => {
                        let (control, data) = match purpose {
                            Purpose::Control => (stream, half),
                            Purpose::Data => (half, stream),
                        };
                        let lane = Lane::Tcp(TcpLink::new(data.into_parts()).map_err(broken)?);
                        let control = Control::new(control.into_parts()).map_err(broken)?;
                        links[peer] = Some(Link::new(lane, control));
                    }
                    // Left over from an attempt that the caller has given up.
                    Some(newer) if newer.0 > attempt => halves[peer] = Some(newer),
                    _ => halves[peer] = Some((attempt, purpose, stream)),
                },
                Event::Failed(error) => return Err(error),
                Event::Trouble(peer, reason) => trouble[peer] = reason,
            }
        }
        let missing = (0..size).find(|&p| p != rendezvous.rank && links[p].is_none());
        let Some(missing) = missing else {
            return Ok(links);
        };
        gate.abort.check(format_args!(
            "rendezvous of rank {} in generation {}",
            rendezvous.rank, rendezvous.generation
        ))?;
        if Instant::now() >= gate.deadline {
            return Err(Error::Unreachable {
                peer: missing,
                addr: rendezvous.peers[missing].addr,
                waited: began.elapsed(),
                reason: trouble[missing].clone(),
            });
        }
        let mut fds = [
            PollFd::new(&listener.socket, PollFlags::IN),
            PollFd::from_borrowed_fd(gate.abort.event(), PollFlags::IN),
        ];
        wait(&mut fds, Some(gate.left(TICK))).map_err(broken)?;
        while let Ok((stream, _)) = listener.socket.accept() {
            answer(stream);
        }
    }
}
