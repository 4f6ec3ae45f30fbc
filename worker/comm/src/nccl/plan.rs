//! Which calls of NCCL an operation becomes, and how many bytes it moves.

use std::ops::Range;

use super::library::Part;
use crate::call::Call;
use crate::memory::{DType, Region};

/// Copy within the device that an all-to-all begins with: a rank's own part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) from: *const u8,
    pub(crate) to: *mut u8,
    pub(crate) bytes: usize,
}

/// An operation as NCCL is told about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) dtype: DType,
    pub(crate) parts: Vec<Part>,
    pub(crate) own: Option<Own>,
    /// Bytes (sent, received) if every byte takes the shortest way. NCCL chooses its ways itself.
    pub(crate) bytes: (u64, u64),
}

/// The plan of a checked call over device memory. None for calls without memory.
pub(crate) fn plan(call: &Call, rank: usize, size: usize) -> Option<Plan> {
    Some(match call {
        Call::AllReduce { buf } => {
            let at = buf.as_ptr();
            let parts = match buf.len() {
                0 => Vec::new(),
                len => vec![Part::AllReduce { at, len }],
            };
            let share = bytes(buf, 2 * buf.len() * (size - 1) / size);
            done(buf, parts, (share, share))
        }
        Call::ReduceScatter { buf, ranges } => {
            let parts = match equal(ranges) {
                Some(0) => Vec::new(),
                Some(len) => vec![Part::ReduceScatter {
                    from: at(buf, ranges[0].start),
                    into: at(buf, ranges[rank].start),
                    len,
                }],
                None => each(ranges, |root, range| Part::Reduce {
                    at: at(buf, range.start),
                    len: range.len(),
                    root,
                }),
            };
            let total: usize = ranges.iter().map(Range::len).sum();
            let own = ranges[rank].len();
            let moved = (bytes(buf, total - own), bytes(buf, own * (size - 1)));
            done(buf, parts, moved)
        }
        Call::AllGather { buf, ranges } => {
            let parts = match equal(ranges) {
                Some(0) => Vec::new(),
                Some(len) => vec![Part::AllGather {
                    from: at(buf, ranges[rank].start),
                    into: at(buf, ranges[0].start),
                    len,
                }],
                None => each(ranges, |root, range| Part::Broadcast {
                    at: at(buf, range.start),
                    len: range.len(),
                    root,
                }),
            };
            let total: usize = ranges.iter().map(Range::len).sum();
            let own = ranges[rank].len();
            let moved = (bytes(buf, own * (size - 1)), bytes(buf, total - own));
            done(buf, parts, moved)
        }
        Call::AllToAll {
            send,
            send_ranges,
            recv,
            recv_ranges,
        } => {
            let mut parts = Vec::new();
            let mut moved = (0, 0);
            for peer in (0..size).filter(|&p| p != rank) {
                let (out, back) = (&send_ranges[peer], &recv_ranges[peer]);
                if !out.is_empty() {
                    let (from, len) = (at(send, out.start), out.len());
                    parts.push(Part::Send { from, len, peer });
                    moved.0 += bytes(send, len);
                }
                if !back.is_empty() {
                    let (into, len) = (at(recv, back.start), back.len());
                    parts.push(Part::Receive { into, len, peer });
                    moved.1 += bytes(recv, len);
                }
            }
            let own = Own {
                from: at(send, send_ranges[rank].start),
                to: at(recv, recv_ranges[rank].start),
                bytes: send_ranges[rank].len() * send.dtype().width(),
            };
            Plan {
                own: (own.bytes > 0).then_some(own),
                ..done(send, parts, moved)
            }
        }
        Call::Broadcast { buf, root } => {
            let (at, root) = (buf.as_ptr(), *root);
            let parts = match buf.len() {
                0 => Vec::new(),
                len => vec![Part::Broadcast { at, len, root }],
            };
            let moved = if rank == root {
                (bytes(buf, buf.len() * (size - 1)), 0)
            } else {
                (0, bytes(buf, buf.len()))
            };
            done(buf, parts, moved)
        }
        Call::Barrier | Call::AllGatherBytes { .. } | Call::AllToAllBytes { .. } => return None,
    })
}

fn done(buf: &Region, parts: Vec<Part>, bytes: (u64, u64)) -> Plan {
    Plan {
        dtype: buf.dtype(),
        parts,
        own: None,
        bytes,
    }
}

fn bytes(buf: &Region, len: usize) -> u64 {
    (len * buf.dtype().width()) as u64
}

fn at(buf: &Region, element: usize) -> *mut u8 {
    buf.as_ptr().wrapping_add(element * buf.dtype().width())
}

/// The common length, if the ranges are as NCCL's own collectives want them: equal, in rank order,
/// one right after the other.
fn equal(ranges: &[Range<usize>]) -> Option<usize> {
    let len = ranges.first()?.len();
    let follows = |pair: &[Range<usize>]| pair[0].end == pair[1].start && pair[1].len() == len;
    ranges.windows(2).all(follows).then_some(len)
}

/// One part per range that is not empty; ranges are the same on all ranks, so parts are too.
fn each(ranges: &[Range<usize>], part: impl Fn(usize, &Range<usize>) -> Part) -> Vec<Part> {
    ranges
        .iter()
        .enumerate()
        .filter(|(_, range)| !range.is_empty())
        .map(|(root, range)| part(root, range))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::borrow_mut;

    #[test]
    fn equal_owners_use_the_collective_others_a_part_per_owner() {
        // Promise: any ranges work; those that NCCL has a collective for use it, in place.
        let mut data = [0f32; 10];
        let base = data.as_mut_ptr().cast::<u8>();
        let mut gather = |ranges: Vec<Range<usize>>| {
            let buf = borrow_mut(&mut data);
            plan(&Call::AllGather { buf, ranges }, 1, 2).expect("has memory")
        };
        let equal = gather(vec![2..5, 5..8]);
        let want = Part::AllGather {
            from: base.wrapping_add(20),
            into: base.wrapping_add(8),
            len: 3,
        };
        assert_eq!((equal.parts, equal.bytes), (vec![want], (12, 12)));
        for ranges in [vec![5..8, 2..5], vec![0..3, 4..7], vec![0..4, 4..7]] {
            let plan = gather(ranges.clone());
            let want = ranges
                .iter()
                .enumerate()
                .map(|(root, range)| Part::Broadcast {
                    at: base.wrapping_add(4 * range.start),
                    len: range.len(),
                    root,
                });
            assert_eq!(plan.parts, want.collect::<Vec<_>>());
        }
        let one = gather(vec![0..0, 3..4]);
        assert_eq!(one.parts.len(), 1, "an empty range is left out");
        assert!(gather(vec![0..0, 0..0]).parts.is_empty());
    }

    #[test]
    fn an_all_to_all_is_a_copy_and_pairs_of_send_and_receive() {
        // Promise: each peer's part goes out and comes in once; a rank's own part stays on the
        // device; nothing is asked of NCCL for empty parts.
        let (mut send, mut recv) = ([0f64; 6], [0f64; 6]);
        let (from, into) = (
            send.as_mut_ptr().cast::<u8>(),
            recv.as_mut_ptr().cast::<u8>(),
        );
        let call = Call::AllToAll {
            send: borrow_mut(&mut send),
            send_ranges: vec![0..2, 2..5, 0..0],
            recv: borrow_mut(&mut recv),
            recv_ranges: vec![0..0, 1..4, 5..6],
        };
        let plan = plan(&call, 1, 3).expect("has memory");
        let parts = [
            Part::Send {
                from,
                len: 2,
                peer: 0,
            },
            Part::Receive {
                into: into.wrapping_add(40),
                len: 1,
                peer: 2,
            },
        ];
        assert_eq!(plan.parts, parts);
        let own = Own {
            from: from.wrapping_add(16),
            to: into.wrapping_add(8),
            bytes: 24,
        };
        assert_eq!((plan.own, plan.bytes), (Some(own), (16, 8)));
    }

    #[test]
    fn sums_go_to_their_owners() {
        // Promise: a reduce-scatter sums every owner's range at its owner and writes nothing else.
        let mut data = [0f32; 8];
        let base = data.as_mut_ptr().cast::<u8>();
        let mut scatter = |ranges: Vec<Range<usize>>| {
            let buf = borrow_mut(&mut data);
            plan(&Call::ReduceScatter { buf, ranges }, 0, 2).expect("has memory")
        };
        let want = Part::ReduceScatter {
            from: base,
            into: base,
            len: 4,
        };
        assert_eq!(scatter(vec![0..4, 4..8]).parts, [want]);
        let plan = scatter(vec![6..8, 0..5]);
        assert_eq!(plan.bytes, (20, 8));
        assert!(matches!(
            plan.parts[..],
            [
                Part::Reduce {
                    len: 2,
                    root: 0,
                    ..
                },
                Part::Reduce {
                    len: 5,
                    root: 1,
                    ..
                }
            ]
        ));
    }
}
