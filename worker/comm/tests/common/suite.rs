//! The cases that every communicator must get right, as data: what each rank puts in and what comes
//! out. The CPU communicator is compared with plain loops (`tests/conformance.rs`), NCCL with the CPU
//! communicator (`examples/nccl_conformance.rs`).

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Range;

use espalier_comm::{Bf16, Call, DType, Memory, Region, Result, SharedMemory};

/// One operation on made-up data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) op: Op,
    pub(crate) dtype: DType,
    /// Elements in the buffer; for an all-to-all, in the largest part.
    pub(crate) len: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    AllReduce,
    /// Equal owners in rank order, or uneven ones in another order.
    ReduceScatter {
        even: bool,
    },
    AllGather {
        even: bool,
    },
    /// Every pair of ranks with a length of its own, some empty.
    AllToAll,
    Broadcast {
        root: usize,
    },
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.op {
            Op::AllReduce => "all_reduce".to_string(),
            Op::ReduceScatter { even: true } => "reduce_scatter, equal owners".into(),
            Op::ReduceScatter { even: false } => "reduce_scatter, uneven owners".into(),
            Op::AllGather { even: true } => "all_gather, equal owners".into(),
            Op::AllGather { even: false } => "all_gather, uneven owners".into(),
            Op::AllToAll => "all_to_all".into(),
            Op::Broadcast { root } => format!("broadcast from {root}"),
        };
        write!(f, "{name}, {} {}", self.len, self.dtype)
    }
}

/// Memory that a case works on, wherever it is.
pub(crate) trait Arena {
    type Held;
    /// Memory with this content.
    fn put(&self, bytes: &[u8]) -> Result<Self::Held>;
    /// Its address, and which memory it is in.
    fn address(&self, held: &mut Self::Held) -> (*mut u8, Memory);
    /// Its content.
    fn get(&self, held: &Self::Held) -> Result<Vec<u8>>;
}

/// The host's memory.
pub(crate) struct Host;

impl Arena for Host {
    // Eight-byte words, so that every element type is aligned.
    type Held = (Vec<u64>, usize);

    fn put(&self, bytes: &[u8]) -> Result<Self::Held> {
        let word = |chunk: &[u8]| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        };
        // One more than needed, so that there is an address for nothing as well.
        let mut words = Vec::with_capacity(bytes.len() / 8 + 2);
        words.extend(bytes.chunks(8).map(word));
        words.push(0);
        Ok((words, bytes.len()))
    }

    fn address(&self, held: &mut Self::Held) -> (*mut u8, Memory) {
        (held.0.as_mut_ptr().cast(), Memory::Host)
    }

    fn get(&self, held: &Self::Held) -> Result<Vec<u8>> {
        let mut bytes: Vec<u8> = held.0.iter().flat_map(|w| w.to_ne_bytes()).collect();
        bytes.truncate(held.1);
        Ok(bytes)
    }
}

/// The host's memory, lent to ranks of the same host: two pieces that all cases use in turn, since
/// peers read what they know already. Nothing lies at the very beginning, so that an address inside
/// is recognised as well.
pub(crate) struct Lent {
    pieces: [RefCell<SharedMemory>; 2],
    turn: Cell<usize>,
}

impl Lent {
    pub(crate) fn new() -> Result<Lent> {
        let piece = || SharedMemory::new(8 << 20).map(RefCell::new);
        Ok(Lent {
            pieces: [piece()?, piece()?],
            turn: Cell::new(0),
        })
    }
}

impl Arena for Lent {
    /// Which piece, and its bytes that count.
    type Held = (usize, usize);

    fn put(&self, bytes: &[u8]) -> Result<Self::Held> {
        let turn = 1 - self.turn.get();
        self.turn.set(turn);
        let mut piece = self.pieces[turn].borrow_mut();
        piece.as_mut_slice()[8..8 + bytes.len()].copy_from_slice(bytes);
        Ok((turn, bytes.len()))
    }

    fn address(&self, held: &mut Self::Held) -> (*mut u8, Memory) {
        let mut piece = self.pieces[held.0].borrow_mut();
        (piece.as_mut_slice()[8..].as_mut_ptr(), Memory::Host)
    }

    fn get(&self, held: &Self::Held) -> Result<Vec<u8>> {
        Ok(self.pieces[held.0].borrow().as_slice()[8..8 + held.1].to_vec())
    }
}

/// All cases for a world of this size.
pub(crate) fn cases(size: usize) -> Vec<Case> {
    use DType::{BF16, F32, F64, U8};
    let mut cases = Vec::new();
    let mut add = |op, dtypes: &[DType], lens: &[usize]| {
        for &dtype in dtypes {
            cases.extend(lens.iter().map(|&len| Case { op, dtype, len }));
        }
    };
    let lens = [0, 1, 7, 1001, 100_003];
    add(Op::AllReduce, &[F32, F64], &lens);
    for even in [true, false] {
        add(Op::ReduceScatter { even }, &[F32, F64], &lens);
        add(Op::AllGather { even }, &[U8, BF16, F32, F64], &lens);
    }
    add(Op::AllToAll, &[U8, BF16, F32, F64], &lens);
    for root in [0, size - 1] {
        add(Op::Broadcast { root }, &[U8, BF16, F32], &lens);
    }
    add(Op::AllReduce, &[F32], &[1_000_001]);
    add(Op::AllToAll, &[BF16, F32], &[700_001]);
    add(Op::AllGather { even: false }, &[BF16, F32], &[1_000_001]);
    cases
}

/// What rank `rank` has in its buffer. Sums of these are exact in any order: whole numbers.
pub(crate) fn input(case: &Case, rank: usize, len: usize) -> Vec<u8> {
    // A pattern of 97 whole numbers, repeated: quick to make, and odd against every power of two.
    let value = |i: usize| ((i * 31 + rank * 17 + case.len) % 97) as f32 - 48.0;
    let mut bytes = Vec::with_capacity(len * case.dtype.width());
    let pattern: Vec<u8> = (0..97)
        .flat_map(|i| match case.dtype {
            DType::U8 => vec![value(i) as i8 as u8],
            DType::BF16 => Bf16::from_f32(value(i)).to_bits().to_ne_bytes().to_vec(),
            DType::F32 => value(i).to_ne_bytes().to_vec(),
            DType::F64 => f64::from(value(i)).to_ne_bytes().to_vec(),
        })
        .collect();
    while bytes.len() < len * case.dtype.width() {
        bytes.extend_from_slice(&pattern);
    }
    bytes.truncate(len * case.dtype.width());
    bytes
}

/// Owners of the buffer's elements.
pub(crate) fn owners(even: bool, len: usize, size: usize) -> Vec<Range<usize>> {
    if even {
        let each = len / size;
        return (0..size).map(|r| r * each..(r + 1) * each).collect();
    }
    let cut = |r: usize| len * r * r / (size * size);
    let mut ranges: Vec<_> = (0..size).map(|r| cut(r)..cut(r + 1)).collect();
    ranges.rotate_left(1);
    ranges
}

/// How many elements `from` sends to `to`.
fn pair(case: &Case, from: usize, to: usize, size: usize) -> usize {
    if (from + 2 * to) % 5 == 3 {
        return 0;
    }
    case.len * (1 + (from + 2 * to) % size) / size
}

/// Parts of these lengths, one element apart.
fn spread(lens: impl Iterator<Item = usize>) -> (Vec<Range<usize>>, usize) {
    let mut at = 1;
    let ranges = lens
        .map(|len| {
            let range = at..at + len;
            at = range.end + 1;
            range
        })
        .collect();
    (ranges, at)
}

fn parts_out(case: &Case, rank: usize, size: usize) -> (Vec<Range<usize>>, usize) {
    spread((0..size).map(|to| pair(case, rank, to, size)))
}

fn parts_in(case: &Case, rank: usize, size: usize) -> (Vec<Range<usize>>, usize) {
    spread((0..size).map(|from| pair(case, from, rank, size)))
}

/// What every rank's buffer holds in the end, by plain loops.
pub(crate) fn expected(case: &Case, rank: usize, size: usize) -> Vec<u8> {
    let width = case.dtype.width();
    let bytes = |r: &Range<usize>| r.start * width..r.end * width;
    let mut own = input(case, rank, case.len);
    match case.op {
        Op::AllReduce => sum(case, 0..case.len, size),
        Op::ReduceScatter { even } => {
            let range = owners(even, case.len, size)[rank].clone();
            let total = sum(case, range.clone(), size);
            own[bytes(&range)].copy_from_slice(&total);
            own
        }
        Op::AllGather { even } => {
            for (peer, range) in owners(even, case.len, size).iter().enumerate() {
                let theirs = input(case, peer, case.len);
                own[bytes(range)].copy_from_slice(&theirs[bytes(range)]);
            }
            own
        }
        Op::Broadcast { root } => input(case, root, case.len),
        Op::AllToAll => {
            let (ranges, len) = parts_in(case, rank, size);
            let mut recv = vec![0xa5; len * width];
            for (peer, range) in ranges.iter().enumerate() {
                let (theirs, len) = parts_out(case, peer, size);
                let send = input(case, peer, len);
                recv[bytes(range)].copy_from_slice(&send[bytes(&theirs[rank])]);
            }
            recv
        }
    }
}

fn sum(case: &Case, range: Range<usize>, size: usize) -> Vec<u8> {
    let width = case.dtype.width();
    let bytes = range.start * width..range.end * width;
    let parts: Vec<Vec<u8>> = (0..size).map(|r| input(case, r, case.len)).collect();
    let mut total = parts[0][bytes.clone()].to_vec();
    for part in &parts[1..] {
        add(&mut total, &part[bytes.clone()], case.dtype);
    }
    total
}

fn add(total: &mut [u8], part: &[u8], dtype: DType) {
    match dtype {
        DType::F32 => {
            let pairs = total.as_chunks_mut::<4>().0.iter_mut();
            for (a, b) in pairs.zip(part.as_chunks::<4>().0) {
                *a = (f32::from_ne_bytes(*a) + f32::from_ne_bytes(*b)).to_ne_bytes();
            }
        }
        DType::F64 => {
            let pairs = total.as_chunks_mut::<8>().0.iter_mut();
            for (a, b) in pairs.zip(part.as_chunks::<8>().0) {
                *a = (f64::from_ne_bytes(*a) + f64::from_ne_bytes(*b)).to_ne_bytes();
            }
        }
        other => panic!("{other} is not summed"),
    }
}

/// Runs a case over `comm` in this memory and gives the buffer's content afterwards.
pub(crate) fn run<A: Arena>(
    comm: &dyn espalier_comm::Communicator,
    case: &Case,
    arena: &A,
) -> Result<Vec<u8>> {
    let (rank, size) = (comm.rank(), comm.size());
    if case.op == Op::AllToAll {
        let (send_ranges, len) = parts_out(case, rank, size);
        let mut send = arena.put(&input(case, rank, len))?;
        let (recv_ranges, room) = parts_in(case, rank, size);
        let mut recv = arena.put(&vec![0xa5; room * case.dtype.width()])?;
        let call = Call::AllToAll {
            send: region(arena, &mut send, case.dtype, len),
            send_ranges,
            recv: region(arena, &mut recv, case.dtype, room),
            recv_ranges,
        };
        comm.issue(call).wait()?;
        return arena.get(&recv);
    }
    let mut held = arena.put(&input(case, rank, case.len))?;
    let buf = region(arena, &mut held, case.dtype, case.len);
    let call = match case.op {
        Op::AllReduce => Call::AllReduce { buf },
        Op::ReduceScatter { even } => Call::ReduceScatter {
            buf,
            ranges: owners(even, case.len, size),
        },
        Op::AllGather { even } => Call::AllGather {
            buf,
            ranges: owners(even, case.len, size),
        },
        Op::Broadcast { root } => Call::Broadcast { buf, root },
        Op::AllToAll => unreachable!("done above"),
    };
    comm.issue(call).wait()?;
    arena.get(&held)
}

fn region<A: Arena>(arena: &A, held: &mut A::Held, dtype: DType, len: usize) -> Region {
    let (at, memory) = arena.address(held);
    // SAFETY: `run` keeps what it holds until the operation has been waited for and touches nothing
    // meanwhile; both kinds of memory are aligned for eight bytes.
    #[allow(unsafe_code)]
    unsafe {
        match (dtype, memory) {
            (DType::U8, Memory::Host) => Region::new(at, len),
            (DType::BF16, Memory::Host) => Region::new(at.cast::<Bf16>(), len),
            (DType::F32, Memory::Host) => Region::new(at.cast::<f32>(), len),
            (DType::F64, Memory::Host) => Region::new(at.cast::<f64>(), len),
            (DType::U8, Memory::Device(d)) => Region::on_device(at, len, d),
            (DType::BF16, Memory::Device(d)) => Region::on_device(at.cast::<Bf16>(), len, d),
            (DType::F32, Memory::Device(d)) => Region::on_device(at.cast::<f32>(), len, d),
            (DType::F64, Memory::Device(d)) => Region::on_device(at.cast::<f64>(), len, d),
        }
    }
}
