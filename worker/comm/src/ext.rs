//! Typed calls over slices and buffers, the same for every communicator.

use std::ops::Range;

use crate::Communicator;
use crate::call::Call;
use crate::error::Result;
use crate::memory::{Buffer, Element, Number, borrow, borrow_mut};
use crate::pending::{Handle, Pending};

/// Collectives over typed memory. Methods named like the operation wait; `start_*` methods take
/// the buffer and return a [`Handle`] that gives it back.
///
/// All methods fail as described at [`Error`](crate::Error); ranges count elements and are in
/// rank order, one per rank. See [`Call`] for what each operation does.
pub trait CommunicatorExt: Communicator {
    /// Sums `buf` over all ranks, in place, in rank order.
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    fn all_reduce<T: Number>(&self, buf: &mut [T]) -> Result<()> {
        self.issue(Call::AllReduce {
            buf: borrow_mut(buf),
        })
        .wait()
        .map(drop)
    }

    /// Sums `buf[ranges[rank]]` over all ranks, in place; the rest of `buf` stays as it was.
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    fn reduce_scatter<T: Number>(&self, buf: &mut [T], ranges: &[Range<usize>]) -> Result<()> {
        let call = Call::ReduceScatter {
            buf: borrow_mut(buf),
            ranges: ranges.to_vec(),
        };
        self.issue(call).wait().map(drop)
    }

    /// Fills `buf[ranges[r]]` from rank r, for every r; this rank's own range is the input.
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    fn all_gather<T: Element>(&self, buf: &mut [T], ranges: &[Range<usize>]) -> Result<()> {
        let call = Call::AllGather {
            buf: borrow_mut(buf),
            ranges: ranges.to_vec(),
        };
        self.issue(call).wait().map(drop)
    }

    /// Sends `send[send_ranges[r]]` to rank r and receives `recv[recv_ranges[r]]` from it.
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    fn all_to_all<T: Element>(
        &self,
        send: &[T],
        send_ranges: &[Range<usize>],
        recv: &mut [T],
        recv_ranges: &[Range<usize>],
    ) -> Result<()> {
        let call = Call::AllToAll {
            send: borrow(send),
            send_ranges: send_ranges.to_vec(),
            recv: borrow_mut(recv),
            recv_ranges: recv_ranges.to_vec(),
        };
        self.issue(call).wait().map(drop)
    }

    /// Copies `buf` from rank `root` to all others.
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    fn broadcast<T: Element>(&self, buf: &mut [T], root: usize) -> Result<()> {
        self.issue(Call::Broadcast {
            buf: borrow_mut(buf),
            root,
        })
        .wait()
        .map(drop)
    }

    /// Waits until every rank has come here.
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    fn barrier(&self) -> Result<()> {
        self.issue(Call::Barrier).wait().map(drop)
    }

    /// Gives every rank's bytes in rank order; lengths may differ.
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    fn all_gather_bytes(&self, mine: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        self.start_all_gather_bytes(mine).wait().map(|o| o.parts)
    }

    /// Sends `parts[r]` to rank r; gives what each rank had for this one, in rank order.
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    fn all_to_all_bytes(&self, parts: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        self.start_all_to_all_bytes(parts).wait().map(|o| o.parts)
    }

    /// Starts an [`all_reduce`](Self::all_reduce).
    fn start_all_reduce<B: Buffer>(&self, mut buf: B) -> Handle<B> {
        let call = Call::AllReduce { buf: buf.region() };
        Handle::new(self.issue(call), buf)
    }

    /// Starts a [`reduce_scatter`](Self::reduce_scatter).
    fn start_reduce_scatter<B: Buffer>(&self, mut buf: B, ranges: &[Range<usize>]) -> Handle<B> {
        let call = Call::ReduceScatter {
            buf: buf.region(),
            ranges: ranges.to_vec(),
        };
        Handle::new(self.issue(call), buf)
    }

    /// Starts an [`all_gather`](Self::all_gather).
    fn start_all_gather<B: Buffer>(&self, mut buf: B, ranges: &[Range<usize>]) -> Handle<B> {
        let call = Call::AllGather {
            buf: buf.region(),
            ranges: ranges.to_vec(),
        };
        Handle::new(self.issue(call), buf)
    }

    /// Starts an [`all_to_all`](Self::all_to_all); the handle gives both buffers back.
    fn start_all_to_all<S: Buffer, R: Buffer>(
        &self,
        mut send: S,
        send_ranges: &[Range<usize>],
        mut recv: R,
        recv_ranges: &[Range<usize>],
    ) -> Handle<(S, R)> {
        let call = Call::AllToAll {
            send: send.region(),
            send_ranges: send_ranges.to_vec(),
            recv: recv.region(),
            recv_ranges: recv_ranges.to_vec(),
        };
        Handle::new(self.issue(call), (send, recv))
    }

    /// Starts a [`broadcast`](Self::broadcast).
    fn start_broadcast<B: Buffer>(&self, mut buf: B, root: usize) -> Handle<B> {
        let call = Call::Broadcast {
            buf: buf.region(),
            root,
        };
        Handle::new(self.issue(call), buf)
    }

    /// Starts an [`all_gather_bytes`](Self::all_gather_bytes); the outcome has the parts.
    fn start_all_gather_bytes(&self, mine: Vec<u8>) -> Pending {
        self.issue(Call::AllGatherBytes { mine })
    }

    /// Starts an [`all_to_all_bytes`](Self::all_to_all_bytes); the outcome has the parts.
    fn start_all_to_all_bytes(&self, parts: Vec<Vec<u8>>) -> Pending {
        self.issue(Call::AllToAllBytes { parts })
    }
}

impl<C: Communicator + ?Sized> CommunicatorExt for C {}
