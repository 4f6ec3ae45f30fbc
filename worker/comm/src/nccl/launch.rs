//! The state machine's hands: what it asks for, done with NCCL, the device and the CPU mesh.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Shared;
use super::cuda::{Context, Event, Stream};
use super::driver::{Driver, Reached, Word};
use super::dynamic::Said;
use super::library::{Comm, ID_BYTES, Nccl};
use super::plan::{Plan, plan};
use crate::Communicator;
use crate::call::{Call, OpId};
use crate::cpu::CpuCommunicator;
use crate::error::{Error, Result};
use crate::header::Header;
use crate::pending::Pending;

/// An operation on its way.
pub(crate) struct Work {
    pub(crate) call: Call,
    pub(crate) ours: Header,
    /// The peers' headers, while they are awaited.
    pub(crate) greeting: Option<Pending>,
    /// The end of what was on the caller's stream before.
    pub(crate) ready: Event,
    /// The end of the operation, once it is on the stream.
    pub(crate) done: Option<Event>,
}

/// One rank's communicator of NCCL with its stream.
pub(crate) struct Device {
    pub(crate) nccl: &'static Nccl,
    pub(crate) cpu: Arc<CpuCommunicator>,
    pub(crate) context: Arc<Context>,
    pub(crate) stream: Stream,
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: [u8; ID_BYTES],
    pub(crate) comm: Option<Comm>,
    pub(crate) aborted: Arc<AtomicBool>,
}

impl Device {
    /// The header that this rank sends to each peer before an operation.
    pub(crate) fn headers(ours: Header, call: &Call, size: usize) -> Vec<Vec<u8>> {
        let payload = |peer: usize| match call {
            Call::AllToAll {
                send, send_ranges, ..
            } => (send_ranges[peer].len() * send.dtype().width()) as u64,
            _ => 0,
        };
        let header = |peer| Header {
            payload: payload(peer),
            ..ours
        };
        (0..size).map(|p| header(p).encode().to_vec()).collect()
    }
}

/// Whether what the peers are about to do fits what this rank is about to do.
pub(crate) fn compare(rank: usize, ours: &Header, call: &Call, theirs: &[Vec<u8>]) -> Result<()> {
    for (peer, bytes) in theirs.iter().enumerate().filter(|(p, _)| *p != rank) {
        let Some(theirs) = Header::decode(bytes) else {
            let detail = format!("expected a header, found {bytes:02x?}");
            let op = ours.op;
            return Err(Error::Protocol { peer, op, detail });
        };
        let mismatch = |ours: String| Error::Mismatch {
            rank,
            peer,
            ours,
            theirs: theirs.to_string(),
        };
        if !ours.agrees(&theirs) {
            return Err(mismatch(ours.to_string()));
        }
        if let Call::AllToAll {
            recv, recv_ranges, ..
        } = call
        {
            let expected = recv_ranges[peer].len() * recv.dtype().width();
            if theirs.payload != expected as u64 {
                let ours = format!("{} expecting {expected} bytes from it", ours.op);
                return Err(mismatch(ours));
            }
        }
    }
    Ok(())
}

/// A failed greeting is a failure of the operation that it was for.
fn renamed(error: Error, op: OpId) -> Error {
    match error {
        Error::PeerLost { peer, reason, .. } => Error::PeerLost { peer, op, reason },
        Error::Deadline {
            peer,
            waited,
            limit,
            ..
        } => Error::Deadline {
            peer,
            op,
            waited,
            limit,
        },
        other => other,
    }
}

impl Driver for Device {
    type Work = Work;

    fn init(&mut self) -> Said<()> {
        let (comm, result) = self.nccl.init(&self.id, self.cpu.rank(), self.cpu.size());
        self.comm = comm;
        result
    }

    fn word(&mut self) -> Word {
        match &self.comm {
            Some(comm) => self.nccl.state(comm),
            None => Word::Failed("there is no communicator".into()),
        }
    }

    fn agreed(&mut self, op: OpId, work: &mut Work) -> Option<Result<()>> {
        if let Some(greeting) = work.greeting.take_if(|g| g.is_done()) {
            let compared = greeting
                .wait()
                .map_err(|e| renamed(e, op))
                .and_then(|o| compare(self.cpu.rank(), &work.ours, &work.call, &o.parts));
            return Some(compared);
        }
        None
    }

    fn launch(&mut self, work: &mut Work) -> Said<()> {
        let (Some(comm), Some(plan)) = (
            &self.comm,
            plan(&work.call, self.cpu.rank(), self.cpu.size()),
        ) else {
            return Err("there is nothing to launch, or nothing to launch it with".into());
        };
        let Plan {
            dtype,
            parts,
            own,
            bytes: (sent, received),
        } = plan;
        self.stream.wait(&work.ready)?;
        if let Some(own) = own {
            // SAFETY: rule: the maker of a region promises its memory until the operation is done
            // (`Region::on_device`), which it is when `done` has passed; `Call::check` has seen that
            // ranges are inside, and `AllToAll` demands that `recv` does not overlap `send`.
            unsafe { self.stream.copy(own.to, own.from, own.bytes)? };
        }
        if !parts.is_empty() {
            // SAFETY: as above; the stream is this value's, on the communicator's device.
            unsafe { self.nccl.launch(comm, self.stream.raw(), dtype, &parts)? };
        }
        self.shared.meter.add(work.call.kind(), [sent, received, 0]);
        Ok(())
    }

    fn mark(&mut self, work: &mut Work) -> Said<()> {
        work.done = Some(Event::of(&self.stream)?);
        Ok(())
    }

    fn reached(&mut self, work: &Work) -> Said<Reached> {
        if let Some(done) = &work.done
            && done.passed()?
        {
            return Ok(Reached::Passed);
        }
        Ok(if work.ready.passed()? {
            Reached::Running
        } else {
            Reached::Queued
        })
    }

    fn lost(&mut self) -> Option<(usize, String)> {
        self.cpu.lost().map(|(peer, why)| (peer, why.to_string()))
    }

    fn farewell(&mut self, why: &Error) {
        tracing::warn!(rank = self.cpu.rank(), error = %why, "NCCL communicator gives up");
        let _ = self.shared.broken.set(why.clone());
        // Closes the links, so that the peers hear of it and the greetings end.
        self.cpu.abort_handle().abort(why.to_string());
    }

    fn abort(&mut self) {
        let Some(comm) = self.comm.take() else {
            self.aborted.store(true, Ordering::Release);
            return;
        };
        // On a thread of its own, because it may wait for the device for as long as it likes. This
        // thread has given the communicator away and is in no call on it.
        let (nccl, context, aborted) = (self.nccl, self.context.clone(), self.aborted.clone());
        let helper = std::thread::Builder::new()
            .name("nccl-abort".into())
            .spawn(move || {
                let done = context.with(|| {
                    nccl.abort(comm);
                    Ok(())
                });
                if let Err(reason) = done {
                    tracing::warn!(reason, "aborting a communicator");
                }
                aborted.store(true, Ordering::Release);
            });
        if let Err(error) = helper {
            // The communicator is lost with the closure: the device may never let go, and `released`
            // stays false, so that nobody believes otherwise.
            tracing::error!(%error, "no thread to abort NCCL on");
        }
    }

    fn released(&mut self) -> bool {
        self.aborted.load(Ordering::Acquire) && self.stream.drained()
    }

    fn finalize(&mut self) -> Said<()> {
        match &self.comm {
            Some(comm) => self.nccl.finalize(comm),
            None => Err("there is no communicator".into()),
        }
    }

    fn destroy(&mut self) {
        if let Some(comm) = self.comm.take() {
            self.nccl.destroy(comm);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{borrow, borrow_mut};

    #[test]
    fn peers_that_mean_something_else_are_named() {
        // Promise: another kind, type, length or range than a peer's is a mismatch that names it, and
        // so is a part of an all-to-all of another size than is expected.
        let (send, mut recv) = ([0f32; 6], [0f32; 6]);
        let call = Call::AllToAll {
            send: borrow(&send),
            send_ranges: vec![0..2, 2..6],
            recv: borrow_mut(&mut recv),
            recv_ranges: vec![0..2, 2..5],
        };
        let ours = Header::of(4, &call);
        let from_peer = |change: &dyn Fn(&mut Header)| {
            let mut theirs = Header {
                payload: 12,
                ..ours
            };
            change(&mut theirs);
            compare(0, &ours, &call, &[Vec::new(), theirs.encode().to_vec()])
        };
        from_peer(&|_| {}).expect("the same");
        let changes: [&dyn Fn(&mut Header); 3] = [&|h| h.payload = 16, &|h| h.op.seq = 5, &|h| {
            h.dtype = crate::memory::DType::BF16
        }];
        for change in changes {
            let error = from_peer(change).expect_err("another operation");
            assert!(matches!(error, Error::Mismatch { peer: 1, .. }), "{error}");
        }
        let error = compare(0, &ours, &call, &[Vec::new(), vec![1, 2]]).expect_err("nonsense");
        assert!(matches!(error, Error::Protocol { peer: 1, .. }), "{error}");
        let sent = Device::headers(ours, &call, 2);
        let payload = |r: usize| Header::decode(&sent[r]).map(|h| h.payload);
        assert_eq!((payload(0), payload(1)), (Some(8), Some(16)));
    }
}
