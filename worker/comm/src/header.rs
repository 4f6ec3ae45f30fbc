//! The 40 bytes that open every operation on every link, so that peers notice when they disagree.

use std::fmt;
use std::ops::Range;

use crate::call::{Call, Kind, OpId};
use crate::memory::DType;

/// Bytes of an encoded header.
pub(crate) const HEADER_BYTES: usize = 40;

const MAGIC: u32 = u32::from_le_bytes(*b"ESPo");

/// What one rank says about an operation to one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) op: OpId,
    pub(crate) dtype: DType,
    /// Elements that all ranks must agree on; 0 where lengths differ by pair.
    pub(crate) total: u64,
    /// Root of a broadcast, or a hash of the ranges.
    pub(crate) detail: u64,
    /// Bytes that follow on this link in the first phase of the operation.
    pub(crate) payload: u64,
    /// True if the sender has lent all of its buffer to all peers; see `direct.rs`.
    pub(crate) direct: bool,
}

impl Header {
    /// The header of `call`, without the per-peer payload.
    pub(crate) fn of(seq: u64, call: &Call) -> Header {
        let (dtype, total, detail) = match call {
            Call::AllReduce { buf } => (buf.dtype(), buf.len(), 0),
            Call::ReduceScatter { buf, ranges } | Call::AllGather { buf, ranges } => {
                (buf.dtype(), buf.len(), hash(ranges))
            }
            Call::AllToAll { send, .. } => (send.dtype(), 0, 0),
            Call::Broadcast { buf, root } => (buf.dtype(), buf.len(), *root as u64),
            Call::Barrier | Call::AllGatherBytes { .. } | Call::AllToAllBytes { .. } => {
                (DType::U8, 0, 0)
            }
        };
        let op = OpId {
            seq,
            kind: call.kind(),
        };
        Header {
            op,
            dtype,
            total: total as u64,
            detail,
            payload: 0,
            direct: false,
        }
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4] = self.op.kind.code();
        out[5] = self.dtype.code();
        out[6] = u8::from(self.direct);
        for (slot, value) in
            out[8..]
                .chunks_exact_mut(8)
                .zip([self.op.seq, self.total, self.detail, self.payload])
        {
            slot.copy_from_slice(&value.to_le_bytes());
        }
        out
    }

    /// None if the bytes are no header.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Header> {
        let word = |at: usize| -> Option<u64> {
            Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
        };
        if bytes.len() != HEADER_BYTES || bytes[0..4] != MAGIC.to_le_bytes() {
            return None;
        }
        let kind = *Kind::ALL.get(usize::from(bytes[4]))?;
        Some(Header {
            op: OpId {
                seq: word(8)?,
                kind,
            },
            dtype: DType::from_code(bytes[5])?,
            total: word(16)?,
            detail: word(24)?,
            payload: word(32)?,
            direct: bytes[6] != 0,
        })
    }

    /// True if both sides mean the same operation (how bytes travel may differ).
    pub(crate) fn agrees(&self, other: &Header) -> bool {
        let common = |header: &Header| Header {
            payload: 0,
            direct: false,
            ..*header
        };
        common(self) == common(other)
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.op)?;
        match self.op.kind {
            Kind::Barrier => Ok(()),
            Kind::AllToAll | Kind::AllGatherBytes | Kind::AllToAllBytes => {
                write!(f, " with {} bytes of {}", self.payload, self.dtype)
            }
            Kind::AllReduce => write!(f, " over {} {}", self.total, self.dtype),
            Kind::Broadcast => {
                write!(
                    f,
                    " over {} {} from root {}",
                    self.total, self.dtype, self.detail
                )
            }
            Kind::ReduceScatter | Kind::AllGather => {
                write!(
                    f,
                    " over {} {}, ranges {:08x}",
                    self.total,
                    self.dtype,
                    self.detail >> 32
                )
            }
        }
    }
}

/// FNV-1a over the bounds: ranks that disagree about owners must not go unnoticed.
fn hash(ranges: &[Range<usize>]) -> u64 {
    ranges
        .iter()
        .flat_map(|r| [r.start as u64, r.end as u64])
        .flat_map(u64::to_le_bytes)
        .fold(0xcbf2_9ce4_8422_2325, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_on_the_wire_never_change() {
        // Promise: an element type keeps its code, so that builds that differ by a new one still
        // understand each other about the old ones.
        for (code, dtype) in [DType::U8, DType::F32, DType::F64, DType::BF16]
            .into_iter()
            .enumerate()
        {
            assert_eq!(usize::from(dtype.code()), code);
            let header = Header {
                op: OpId {
                    seq: 7,
                    kind: Kind::AllToAll,
                },
                dtype,
                total: 1,
                detail: 2,
                payload: 3,
                direct: code == 1,
            };
            assert_eq!(Header::decode(&header.encode()), Some(header));
        }
    }
}
