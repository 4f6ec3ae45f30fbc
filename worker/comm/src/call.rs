//! The operations of a communicator as plain data, and the checks that need no peer.

use std::fmt;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::memory::{DType, Memory, Region};

/// Which collective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// Sum of all ranks, everywhere.
    AllReduce,
    /// Sum of all ranks, each owner keeps its range.
    ReduceScatter,
    /// Every rank's range, everywhere.
    AllGather,
    /// A range from every rank to every rank.
    AllToAll,
    /// One rank's memory, everywhere.
    Broadcast,
    /// Nobody leaves before all have come.
    Barrier,
    /// Byte strings of any length, everywhere.
    AllGatherBytes,
    /// A byte string of any length from every rank to every rank.
    AllToAllBytes,
}

/// Names one operation of a communicator: its position (from 0) and its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpId {
    /// Position in issue order, the same on all ranks.
    pub seq: u64,
    /// Which collective.
    pub kind: Kind,
}

/// One operation with the memory it works on. Ranges count elements and are in rank order.
#[derive(Debug)]
#[non_exhaustive]
pub enum Call {
    /// `buf` becomes the sum over ranks, combined as `((g0 + g1) + g2) + ...`.
    AllReduce {
        /// Same length and type on all ranks; f32 or f64.
        buf: Region,
    },
    /// `buf[ranges[rank]]` becomes the sum over ranks of that range, combined in rank order; the
    /// rest of `buf` is left as it was.
    ReduceScatter {
        /// Same length and type on all ranks; f32 or f64.
        buf: Region,
        /// One range per rank, disjoint, the same on all ranks.
        ranges: Vec<Range<usize>>,
    },
    /// `buf[ranges[r]]` becomes rank r's content of that range, for every r.
    AllGather {
        /// Same length and type on all ranks.
        buf: Region,
        /// One range per rank, disjoint, the same on all ranks.
        ranges: Vec<Range<usize>>,
    },
    /// `recv[recv_ranges[r]]` becomes what rank r has at `send[send_ranges[this rank]]`.
    AllToAll {
        /// Read only.
        send: Region,
        /// One range per rank; they may overlap.
        send_ranges: Vec<Range<usize>>,
        /// Written; must not overlap `send`.
        recv: Region,
        /// One range per rank, disjoint; lengths must agree with the senders'.
        recv_ranges: Vec<Range<usize>>,
    },
    /// `buf` becomes what it is on rank `root`.
    Broadcast {
        /// Same length and type on all ranks.
        buf: Region,
        /// The rank to copy from.
        root: usize,
    },
    /// Completes once every rank has issued it.
    Barrier,
    /// Gives every rank's bytes, in rank order.
    AllGatherBytes {
        /// This rank's bytes; lengths may differ between ranks.
        mine: Vec<u8>,
    },
    /// Gives what every rank has for this one, in rank order.
    AllToAllBytes {
        /// One byte string per rank.
        parts: Vec<Vec<u8>>,
    },
}

impl Kind {
    /// All kinds, in the order of their wire codes.
    pub const ALL: [Kind; 8] = [
        Kind::AllReduce,
        Kind::ReduceScatter,
        Kind::AllGather,
        Kind::AllToAll,
        Kind::Broadcast,
        Kind::Barrier,
        Kind::AllGatherBytes,
        Kind::AllToAllBytes,
    ];

    pub(crate) const fn code(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::AllReduce => "all_reduce",
            Kind::ReduceScatter => "reduce_scatter",
            Kind::AllGather => "all_gather",
            Kind::AllToAll => "all_to_all",
            Kind::Broadcast => "broadcast",
            Kind::Barrier => "barrier",
            Kind::AllGatherBytes => "all_gather_bytes",
            Kind::AllToAllBytes => "all_to_all_bytes",
        })
    }
}

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.kind, self.seq)
    }
}

impl Call {
    /// Which collective this is.
    pub fn kind(&self) -> Kind {
        match self {
            Call::AllReduce { .. } => Kind::AllReduce,
            Call::ReduceScatter { .. } => Kind::ReduceScatter,
            Call::AllGather { .. } => Kind::AllGather,
            Call::AllToAll { .. } => Kind::AllToAll,
            Call::Broadcast { .. } => Kind::Broadcast,
            Call::Barrier => Kind::Barrier,
            Call::AllGatherBytes { .. } => Kind::AllGatherBytes,
            Call::AllToAllBytes { .. } => Kind::AllToAllBytes,
        }
    }

    /// The memory that this operation works on, None if it needs none.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `send` and `recv` are in different memories.
    pub fn memory(&self) -> Result<Option<Memory>> {
        match self {
            Call::AllReduce { buf }
            | Call::ReduceScatter { buf, .. }
            | Call::AllGather { buf, .. }
            | Call::Broadcast { buf, .. } => Ok(Some(buf.memory())),
            Call::AllToAll { send, recv, .. } if send.memory() != recv.memory() => {
                Err(Error::Invalid {
                    kind: self.kind(),
                    detail: format!(
                        "send is in {}, recv in {}; both must be in the same",
                        send.memory(),
                        recv.memory()
                    ),
                })
            }
            Call::AllToAll { send, .. } => Ok(Some(send.memory())),
            Call::Barrier | Call::AllGatherBytes { .. } | Call::AllToAllBytes { .. } => Ok(None),
        }
    }

    /// Bytes of this rank's memory that it works on.
    pub(crate) fn bytes(&self) -> u64 {
        let of = |region: &Region| (region.len() * region.dtype().width()) as u64;
        match self {
            Call::AllReduce { buf }
            | Call::ReduceScatter { buf, .. }
            | Call::AllGather { buf, .. }
            | Call::Broadcast { buf, .. } => of(buf),
            Call::AllToAll { send, recv, .. } => of(send) + of(recv),
            Call::Barrier => 0,
            Call::AllGatherBytes { mine } => mine.len() as u64,
            Call::AllToAllBytes { parts } => parts.iter().map(|part| part.len() as u64).sum(),
        }
    }

    /// All memory that it works on.
    #[cfg(feature = "nccl")]
    pub(crate) fn regions(&self) -> Vec<&Region> {
        match self {
            Call::AllReduce { buf }
            | Call::ReduceScatter { buf, .. }
            | Call::AllGather { buf, .. }
            | Call::Broadcast { buf, .. } => vec![buf],
            Call::AllToAll { send, recv, .. } => vec![send, recv],
            Call::Barrier | Call::AllGatherBytes { .. } | Call::AllToAllBytes { .. } => Vec::new(),
        }
    }

    /// Checks the arguments for rank `rank` in a world of `size`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the argument and what is wrong with it.
    pub fn check(&self, rank: usize, size: usize) -> Result<()> {
        let kind = self.kind();
        let invalid = |detail: String| Err(Error::Invalid { kind, detail });
        match self {
            Call::AllReduce { buf } => summable(kind, buf),
            Call::ReduceScatter { buf, ranges } => {
                summable(kind, buf)?;
                in_bounds(kind, "ranges", ranges, size, buf.len())?;
                disjoint(kind, "ranges", ranges)
            }
            Call::AllGather { buf, ranges } => {
                in_bounds(kind, "ranges", ranges, size, buf.len())?;
                disjoint(kind, "ranges", ranges)
            }
            Call::AllToAll {
                send,
                send_ranges,
                recv,
                recv_ranges,
            } => {
                if send.dtype() != recv.dtype() {
                    return invalid(format!(
                        "send is {}, recv is {}",
                        send.dtype(),
                        recv.dtype()
                    ));
                }
                in_bounds(kind, "send_ranges", send_ranges, size, send.len())?;
                in_bounds(kind, "recv_ranges", recv_ranges, size, recv.len())?;
                disjoint(kind, "recv_ranges", recv_ranges)?;
                let (out, back) = (send_ranges[rank].len(), recv_ranges[rank].len());
                if out == back {
                    Ok(())
                } else {
                    invalid(format!(
                        "rank {rank} sends itself {out} elements but expects {back}"
                    ))
                }
            }
            Call::Broadcast { root, .. } if *root >= size => invalid(format!(
                "root is rank {root}, but there are only {size} ranks"
            )),
            Call::AllToAllBytes { parts } if parts.len() != size => invalid(format!(
                "parts has {} entries, expected one per rank ({size})",
                parts.len()
            )),
            Call::Broadcast { .. }
            | Call::Barrier
            | Call::AllGatherBytes { .. }
            | Call::AllToAllBytes { .. } => Ok(()),
        }
    }
}

fn summable(kind: Kind, buf: &Region) -> Result<()> {
    match buf.dtype() {
        DType::F32 | DType::F64 => Ok(()),
        other @ (DType::U8 | DType::BF16) => Err(Error::Invalid {
            kind,
            detail: format!("cannot sum {other}, expected f32 or f64"),
        }),
    }
}

fn in_bounds(
    kind: Kind,
    name: &str,
    ranges: &[Range<usize>],
    size: usize,
    len: usize,
) -> Result<()> {
    if ranges.len() != size {
        let detail = format!(
            "{name} has {} entries, expected one per rank ({size})",
            ranges.len()
        );
        return Err(Error::Invalid { kind, detail });
    }
    for (rank, range) in ranges.iter().enumerate() {
        if range.start > range.end || range.end > len {
            let detail = format!("{name}[{rank}] is {range:?}, outside the {len} elements");
            return Err(Error::Invalid { kind, detail });
        }
    }
    Ok(())
}

fn disjoint(kind: Kind, name: &str, ranges: &[Range<usize>]) -> Result<()> {
    let mut order: Vec<usize> = (0..ranges.len())
        .filter(|&r| !ranges[r].is_empty())
        .collect();
    order.sort_by_key(|&r| ranges[r].start);
    for pair in order.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        if ranges[a].end > ranges[b].start {
            let detail = format!(
                "{name}[{a}] ({:?}) and {name}[{b}] ({:?}) overlap",
                ranges[a], ranges[b]
            );
            return Err(Error::Invalid { kind, detail });
        }
    }
    Ok(())
}
