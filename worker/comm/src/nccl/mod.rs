//! The NCCL communicator: collectives between the memories of CUDA devices.
//!
//! **This has not yet been run on a GPU.** Its logic is tested through a scripted driver; what NCCL
//! itself does is for `tests/gpu/check.sh` to show.
//!
//! An [`NcclCommunicator`] is built from the [`CpuCommunicator`] of the same ranks and generation, and
//! keeps it: as the way to exchange NCCL's unique id, to compare operations before they are launched,
//! to move what is in host memory, and to notice at once when a peer dies.
//!
//! ```text
//!  caller ── issue ──► event on the caller's stream ──► header to all peers (CPU mesh) ──► queue
//!                                                                                           │
//!  thread of this communicator ◄────────────────────────────────────────────────────────────┘
//!    headers agree ─► own stream waits for the event ─► NCCL ─► event ─► polled ─► `Pending` is done
//! ```
//!
//! * **Order.** One queue for both: all ranks issue the same operations, in host or device memory, in
//!   the same order. Device operations run on a stream of their own, in that order, beside whatever
//!   the caller computes; each begins after what was on the caller's current stream when it was issued.
//!   When the `Pending` is done, the result is there for every stream.
//! * **Bits.** All-to-all, all-gather and broadcast move bytes and are exact. **Sums of device memory
//!   are NCCL's**: their order depends on topology and size, so they are not bit-identical across
//!   clusters. Who needs that uses all-to-all and adds up in rank order, or host memory.
//! * **No hang.** NCCL is used in non-blocking mode only. Set-up, every operation, closing and the
//!   time after an abort have a deadline. An abort runs on a thread of its own; if the device has not
//!   stopped by the deadline, the error is [`Error::Stuck`] and the memory is leaked.
//! * **Cost.** Comparing headers takes a message to each peer per operation, and completion is polled.
//!   Both happen beside the device's work.
//!
//! Nothing is linked: `libcuda.so.1` and `libnccl.so.2` are looked for when a communicator is asked
//! for. `unsafe` code is in `dynamic.rs`, `cuda.rs`, `library.rs`, `launch.rs`, `device.rs` and in
//! this file.
#![allow(unsafe_code)]

mod cuda;
mod device;
mod driver;
mod dynamic;
mod launch;
mod library;
mod plan;
#[cfg(test)]
mod rehearsal;
#[cfg(test)]
mod script;
mod state;
mod unique_id;
mod watch;

use std::ffi::c_void;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

pub use device::DeviceBuffer;

use crate::abort::AbortHandle;
use crate::call::{Call, Kind, OpId};
use crate::cpu::CpuCommunicator;
use crate::error::{Error, Result};
use crate::header::Header;
use crate::memory::{Memory, Region};
use crate::pending::{Pending, pair};
use crate::traffic::{Meter, Traffic};
use crate::{Communicator, sealed};
use cuda::{Context, Cuda, Event, Stream};
use driver::Limits;
use launch::{Device, Work};
use library::Nccl;
use state::Machine;
use unique_id::Card;
use watch::Job;

/// After an abort, until the device must have let go.
const RELEASE: Duration = Duration::from_secs(10);
/// Closing in good order, and how long dropping a communicator may take.
const CLOSE: Duration = Duration::from_secs(5);
/// Between a failure and blame.
const GRACE: Duration = Duration::from_millis(200);

type CurrentStream = Box<dyn Fn() -> *mut c_void + Send + Sync>;

/// How an NCCL communicator is made.
pub struct NcclOptions {
    generation: u64,
    device: usize,
    init_timeout: Duration,
    timeout: Duration,
    current_stream: CurrentStream,
}

/// Ranks joined over NCCL, and over the CPU mesh beside it. See the module.
pub struct NcclCommunicator {
    cpu: Arc<CpuCommunicator>,
    context: Arc<Context>,
    generation: u64,
    current_stream: CurrentStream,
    shared: Arc<Shared>,
    queue: Mutex<Queue>,
    /// Ends when the thread does.
    over: Mutex<Receiver<()>>,
}

pub(crate) struct Shared {
    meter: Meter,
    /// The first failure of a device operation.
    broken: OnceLock<Error>,
}

struct Queue {
    next: u64,
    /// None once the communicator is being dropped.
    jobs: Option<Sender<Job<Work>>>,
}

impl NcclOptions {
    /// For `device` (its ordinal in this process) in this generation: one minute for the set-up, two
    /// minutes per operation, ordered after the device's default stream.
    pub fn new(generation: u64, device: usize) -> NcclOptions {
        NcclOptions {
            generation,
            device,
            init_timeout: Duration::from_secs(60),
            timeout: Duration::from_secs(120),
            current_stream: Box::new(std::ptr::null_mut),
        }
    }

    /// How long the peers may take to take part in the set-up.
    #[must_use]
    pub fn init_timeout(mut self, limit: Duration) -> Self {
        self.init_timeout = limit;
        self
    }

    /// How long an operation may take from the moment that it is its turn on the device.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Operations are ordered after the stream that `current` gives, asked on the thread that issues
    /// them.
    ///
    /// # Safety
    ///
    /// `current` gives the handle of a stream (`CUstream`, which is `cudaStream_t`) of this device
    /// that is alive for the call, or null for the default stream.
    #[must_use]
    pub unsafe fn current_stream(
        mut self,
        current: impl Fn() -> *mut c_void + Send + Sync + 'static,
    ) -> Self {
        self.current_stream = Box::new(current);
        self
    }
}

impl fmt::Debug for NcclOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NcclOptions")
            .field("generation", &self.generation)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

impl NcclCommunicator {
    /// Joins the ranks of `cpu` over NCCL. Collective: every rank calls it, also one that will find
    /// that it can't, so that the others hear why.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the driver, the device or NCCL is missing on this rank,
    /// [`Error::Unfit`] where it is on another one, [`Error::Stalled`] if the set-up takes too long.
    pub fn new(cpu: CpuCommunicator, options: NcclOptions) -> Result<NcclCommunicator> {
        let NcclOptions {
            generation,
            device,
            init_timeout,
            timeout,
            current_stream,
        } = options;
        let tools = tools(device, cpu.rank() == 0);
        let card = tools.as_ref().map(|t| t.2.clone()).map_err(Clone::clone);
        let id = unique_id::agree(&cpu, &card)?;
        let (context, nccl, _) = tools?;
        let stream = Stream::new(&context).map_err(|reason| Error::Nccl {
            generation,
            what: "set-up".into(),
            peer: None,
            reason,
        })?;
        let cpu = Arc::new(cpu);
        let shared = Arc::new(Shared {
            meter: Meter::default(),
            broken: OnceLock::new(),
        });
        let driver = Device {
            nccl,
            cpu: cpu.clone(),
            context: context.clone(),
            stream,
            shared: shared.clone(),
            id,
            comm: None,
            aborted: Arc::new(AtomicBool::new(false)),
        };
        let limits = Limits {
            init: init_timeout,
            operation: timeout,
            release: RELEASE.min(timeout),
            close: CLOSE,
            grace: GRACE,
        };
        let machine = Machine::new(driver, generation, limits, cpu.abort_handle());
        let (jobs, inbox) = channel();
        let (ready, is_ready) = channel();
        let (alive, over) = channel();
        let current = context.clone();
        std::thread::Builder::new()
            .name(format!("nccl-{}", cpu.rank()))
            .spawn(move || {
                let ran = current.with(|| Ok(watch::run(machine, &inbox, &ready)));
                match ran {
                    Err(reason) => tracing::error!(reason, "the device's context is gone"),
                    Ok(machine) => machine.dismantle(),
                }
                drop::<Sender<()>>(alive);
            })
            .map_err(|e| Error::system("start the thread of NCCL", e))?;
        // The state machine has its own deadlines; this one is for calls that never return.
        let limit = init_timeout + limits.release + GRACE;
        match is_ready.recv_timeout(limit) {
            Ok(result) => result?,
            Err(_) => {
                let error = watch::silent(generation, limit);
                cpu.abort_handle().abort(error.to_string());
                return Err(error);
            }
        }
        Ok(NcclCommunicator {
            cpu,
            context,
            generation,
            current_stream,
            shared,
            queue: Mutex::new(Queue {
                next: 0,
                jobs: Some(jobs),
            }),
            over: Mutex::new(over),
        })
    }

    /// The device's ordinal in this process.
    pub fn device(&self) -> usize {
        self.context.ordinal()
    }

    /// Refuses device memory that is not what it says, or not this communicator's.
    fn check_memory(&self, kind: Kind, regions: &[&Region]) -> Result<()> {
        for region in regions {
            let here = Memory::Device(self.device());
            let refused = if region.memory() != here {
                Err(format!(
                    "the argument is in {}, this communicator works in {here} and in host memory",
                    region.memory()
                ))
            } else if region.is_empty() {
                Ok(())
            } else {
                self.context.owns(region.as_ptr())
            };
            refused.map_err(|detail| Error::Invalid { kind, detail })?;
        }
        Ok(())
    }
}

/// What this machine has: the device's context, the library and this rank's card.
fn tools(device: usize, first: bool) -> Result<(Arc<Context>, &'static Nccl, Card)> {
    let context = Arc::new(Context::new(device)?);
    let nccl = Nccl::get()?;
    let id = first
        .then(|| nccl.unique_id())
        .transpose()
        .map_err(|e| Error::system("make a unique id for NCCL", e))?;
    let version = nccl.version();
    Ok((context, nccl, Card { version, id }))
}

/// What this machine has, in a line: the device's name, versions of the driver and of NCCL.
///
/// # Errors
/// [`Error::Unavailable`] naming what is missing, where it was looked for and what to do.
pub fn nccl_report(device: usize) -> Result<String> {
    let said = |e: String| Error::system("ask the CUDA driver", e);
    let cuda = Cuda::get()?;
    drop(Context::new(device)?);
    let version = cuda.version().map_err(said)?;
    Ok(format!(
        "cuda:{device} {}, driver for CUDA {}.{}, NCCL {}",
        cuda.device_name(device).map_err(said)?,
        version / 1000,
        version % 1000 / 10,
        Nccl::get()?.version()
    ))
}

impl sealed::Sealed for NcclCommunicator {}

impl Communicator for NcclCommunicator {
    fn rank(&self) -> usize {
        self.cpu.rank()
    }

    fn size(&self) -> usize {
        self.cpu.size()
    }

    fn issue(&self, call: Call) -> Pending {
        let (rank, size, kind) = (self.rank(), self.size(), call.kind());
        let memory = match call.check(rank, size).and_then(|()| call.memory()) {
            Ok(memory) => memory,
            Err(e) => return Pending::failed(e),
        };
        let on_host = matches!(memory, None | Some(Memory::Host));
        if !on_host && let Err(e) = self.check_memory(kind, &call.regions()) {
            return Pending::failed(e);
        }
        // Held until the call is in the mesh's queue: the order there is the order of all ranks.
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = self.shared.broken.get() {
            return Pending::failed(first.clone());
        }
        if on_host {
            return self.cpu.issue(call);
        }
        let op = OpId {
            seq: queue.next,
            kind,
        };
        // SAFETY: who set `current_stream` promised a live stream of this device, or null.
        let ready = match unsafe { Event::record(&self.context, (self.current_stream)()) } {
            Ok(ready) => ready,
            Err(reason) => {
                // The peers will issue this operation: they must not wait for it.
                self.abort_handle().abort(format!("{op}: {reason}"));
                return Pending::failed(Error::Nccl {
                    generation: self.generation,
                    what: op.to_string(),
                    peer: None,
                    reason,
                });
            }
        };
        queue.next += 1;
        let ours = Header::of(op.seq, &call);
        let greeting = self.cpu.issue(Call::AllToAllBytes {
            parts: Device::headers(ours, &call, size),
        });
        let (completer, pending) = pair();
        let work = Work {
            call,
            ours,
            greeting: Some(greeting),
            ready,
            done: None,
        };
        if let Some(jobs) = &queue.jobs {
            // Fails only if the thread is gone; the completer then says so itself.
            let _ = jobs.send(Job {
                op,
                work,
                completer,
            });
        }
        pending
    }

    fn abort_handle(&self) -> AbortHandle {
        self.cpu.abort_handle()
    }

    /// Device operations count the bytes of the shortest way (NCCL chooses its own), and 40 bytes of
    /// header per peer as [`Kind::AllToAllBytes`].
    fn traffic(&self) -> Traffic {
        self.cpu.traffic().plus(&self.shared.meter.snapshot())
    }
}

impl Drop for NcclCommunicator {
    fn drop(&mut self) {
        self.queue
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .jobs = None;
        // Waited for, so that a program that ends now does not tear the driver down under NCCL; but
        // not for ever: what was issued may still have to wait for peers.
        let over = self.over.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Err(RecvTimeoutError::Timeout) = over.recv_timeout(CLOSE + GRACE) {
            tracing::warn!(
                rank = self.cpu.rank(),
                "an NCCL communicator closes in the background"
            );
        }
    }
}

impl fmt::Debug for NcclCommunicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "NcclCommunicator(rank {} of {}, cuda:{})",
            self.rank(),
            self.size(),
            self.device()
        )
    }
}
