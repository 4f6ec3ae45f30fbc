//! Espalier's communicators: collectives between ranks over shared memory, TCP and NCCL.
//!
//! A *rank* is one thread of some worker process. All ranks of a job in one *generation* of its
//! membership are joined by [`connect`] into a [`Communicator`]; when membership changes, the old
//! communicator is aborted and a new generation joins.
//!
//! ```text
//!   rank 0 (engine thread)                                rank 1
//!     │ start_reduce_scatter(block 5) ─► Handle             │
//!     │ start_reduce_scatter(block 4) ─► Handle             │
//!     │ ... backward of block 3 ...                         │
//!     ▼                                                     ▼
//!   ┌───────────────────────────────┐          ┌───────────────────────────────┐
//!   │ progress thread               │          │ progress thread               │
//!   │  runs calls in issue order    │          │                               │
//!   │  collective ── header first ──┼─ ring ──►│  every header is compared     │
//!   │  fold: ((g0+g1)+g2)+...       │◄─ ring ──┼─                              │
//!   │  poll: abort, bell, sockets   │          │                               │
//!   └──────────────┬────────────────┘          └───────────────┬───────────────┘
//!                  └── control connection: alive? wake up! last words ──┘
//! ```
//!
//! # Promises
//!
//! * **Order.** Operations run in the order of issue, one at a time; all ranks must issue the
//!   same ones. A disagreement (kind, type, length, owners, root) is [`Error::Mismatch`] and names
//!   both sides.
//! * **Bits.** Sums are taken as `((g0 + g1) + g2) + ...` in rank order, whatever arrives first
//!   and however it travels. Ranks, transports and repeated runs agree bit for bit.
//! * **No hang.** An operation fails once nothing has moved for [`Rendezvous::timeout`]
//!   ([`Error::Deadline`] names the peer), at once when [aborted](AbortHandle::abort), at once
//!   when a peer dies or leaves ([`Error::PeerLost`], with the peer's last words), and soon when a peer's
//!   process gives no sign of life any more ([`Rendezvous::silence`]: it was stopped, or its machine is
//!   gone), however long it may compute. The first failure closes all links of this rank, so that nobody waits for it, and later operations
//!   repeat it.
//! * **Bytes.** An all-reduce moves `2·n·(N−1)/N` bytes per rank, a reduce-scatter or an all-gather
//!   half of that; [`Communicator::traffic`] counts them.
//!
//! # Memory
//!
//! [`Communicator`] has one entrance, [`issue`](Communicator::issue), that takes a [`Call`] over
//! [`Region`]s: plain addresses. Typed calls on slices and owned buffers are in
//! [`CommunicatorExt`], once for all communicators. Memory that belongs to libtorch is lent with
//! [`RawBuffer`]. A region says which [`Memory`] it is in; a communicator refuses one that it can't
//! reach before anything is sent.
//!
//! Memory made as [`SharedMemory`] is reached by ranks of the same host where it is: messages that
//! lie in it are not copied through a ring, and an all-reduce over all of it sums straight into
//! every rank's memory. Everything else about it is as with other memory, the bits included.
//!
//! # Devices
//!
//! `NcclCommunicator` (feature `nccl`, on by default) takes regions in a CUDA device's memory too, and
//! gives host memory to the [`CpuCommunicator`] that it was built from. Its [`Pending`] completes when
//! the device has passed the end of the operation. Moving bytes is exact; sums of device memory are
//! NCCL's and not bit-identical across topologies: combining gradients in rank order takes
//! [`Call::AllToAll`] and the caller's own sum. It has **not yet been run on a GPU**.
//!
//! # What it was doing
//!
//! A [`Flight`] records the last operations and what the running one waits for; it can be read from any
//! thread at any time.
//!
//! # Who shares memory
//!
//! Ranks with equal [`host_id`]s exchange bytes through rings in an unlinked file of `/dev/shm`
//! (and reach each other's [`SharedMemory`] through `/proc`, if they may: same user, same PID
//! namespace); the others, and those where that fails, through TCP. Ranks that are threads of one process are
//! no special case. On every link a control connection stays beside the bytes: its end is the end
//! of the peer, noticed at once even by a rank that sleeps.
//!
//! # Who is let in
//!
//! With a [`Secret`] in its [`Rendezvous`] a rank joins nobody that does not prove to have the same one:
//! both sides of every connection do, over fresh random bytes and all that names them (job, generation,
//! ranks), and every byte between sockets is then sealed (AES-256-GCM, a key per direction and
//! connection). What was changed, repeated or left out on the way fails the operation and names the peer;
//! [`Flight::rejected`] counts it. Sums and their bits stay the same. Rings and lent memory stay as they
//! are: what lies in the memory of one host is for its user alone. Without a secret everything travels
//! in plain text, and anybody who reaches the port can join. NCCL's own connections are never sealed.
//!
//! # Limits
//!
//! * The deadline does not know why a peer is slow: [`Rendezvous::timeout`] must be longer than
//!   anything one rank does while others wait (an evaluation, a checkpoint). A peer that is only silent,
//!   because it was stopped, is noticed by [`Rendezvous::silence`]: every progress thread gives signs of life
//!   to all peers, whatever its rank computes.
//! * A [`Listener`] answers only while [`connect`] runs; a stale rank that calls later hears
//!   nothing and gives up at its own deadline.
//! * Every rank has a link to every other one: two descriptors (shared memory: one, and 1 MiB) per
//!   peer. Meant for tens of ranks, not thousands.
//! * [`SharedMemory`] is mapped by its peers until they hear, with a later message, that it is gone.
//!   An operation that fails while all of it was lent leaves zeros in it.
//! * Linux only (eventfd, memfd, `/dev/shm`). Hosts of one job have the same byte order.
//!
//! # Example
//!
//! ```
//! use espalier_comm::{CommunicatorExt, Listener, PeerAddr, Rendezvous, connect, host_id};
//!
//! # fn main() -> espalier_comm::Result<()> {
//! let any = ([127, 0, 0, 1], 0).into();
//! let listeners = [Listener::bind(any)?, Listener::bind(any)?];
//! let peers: Vec<PeerAddr> = listeners
//!     .iter()
//!     .enumerate()
//!     .map(|(rank, l)| PeerAddr { rank, addr: l.address(), host_id: host_id() })
//!     .collect();
//! std::thread::scope(|scope| {
//!     for (rank, listener) in listeners.iter().enumerate() {
//!         let peers = peers.clone();
//!         scope.spawn(move || {
//!             let comm = connect(listener, Rendezvous::new("job", 1, rank, peers))?;
//!             let handle = comm.start_all_reduce(vec![rank as f32 + 1.0; 1000]);
//!             // ... compute ...
//!             assert_eq!(handle.wait()?, vec![3.0; 1000]);
//!             comm.barrier()
//!         });
//!     }
//! });
//! # Ok(())
//! # }
//! ```

mod abort;
mod bf16;
mod bootstrap;
mod call;
mod collective;
mod control;
mod cpu;
mod dial;
mod direct;
mod door;
mod error;
mod ext;
#[cfg(feature = "fault")]
pub mod fault;
mod flight;
mod flow;
mod fold;
mod handshake;
mod header;
mod host;
mod lent;
mod loan;
mod memory;
mod mesh;
#[cfg(feature = "nccl")]
mod nccl;
mod opening;
mod pending;
mod pulse;
#[doc(hidden)]
pub mod raw;
mod seal;
mod secret;
mod segment;
mod shm;
mod slices;
mod stream;
mod tcp;
mod tcp_sealed;
mod traffic;

pub use abort::AbortHandle;
pub use bf16::Bf16;
pub use bootstrap::{Listener, PeerAddr, Rendezvous, connect};
pub use call::{Call, Kind, OpId};
pub use cpu::CpuCommunicator;
pub use error::{Error, Result};
pub use ext::CommunicatorExt;
pub use flight::{Flight, FlightRecord, Operation, Stage, Wait};
pub use host::host_id;
pub use lent::SharedMemory;
pub use memory::{Buffer, DType, Element, Memory, Number, RawBuffer, Region};
#[cfg(feature = "nccl")]
pub use nccl::{DeviceBuffer, NcclCommunicator, NcclOptions, nccl_report};
pub use pending::{Handle, Outcome, Pending};
pub use secret::Secret;
pub use traffic::{Moved, Traffic};

mod sealed {
    /// Backends live in this crate: the soundness of lending memory rests on them completing a
    /// `Pending` only after the operation has let go of its regions.
    pub trait Sealed {}
}

/// How bytes travel to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Rings in memory that both processes map, and lent memory.
    SharedMemory,
    /// A TCP connection.
    Tcp,
}

/// One rank's end of a group of ranks. See the [crate] documentation for what it promises.
pub trait Communicator: sealed::Sealed + Send + Sync {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn size(&self) -> usize;

    /// Queues an operation and returns at once. Problems, bad arguments included, show when the
    /// result is waited for.
    fn issue(&self, call: Call) -> Pending;

    /// Stops this rank's operations from another thread.
    fn abort_handle(&self) -> AbortHandle;

    /// Bytes moved so far, per kind of operation.
    fn traffic(&self) -> Traffic;
}
