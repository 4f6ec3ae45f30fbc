//! The collectives, written once over links of any kind.
//!
//! Every operation opens with a header to every peer. Then bytes go straight from the memory they
//! are in to the memory they are for: every rank talks to every other one directly, so a byte
//! crosses one link once, and sums can be taken in rank order.

use crate::call::Call;
use crate::direct;
use crate::error::{Error, Result};
use crate::flow::{Outgoing, Place, Then};
use crate::fold::Fold;
use crate::header::Header;
use crate::memory::{DType, zeroed};
use crate::mesh::{Mesh, Until};
use crate::opening::{greet, heads, outbox};
use crate::pending::Outcome;
use crate::slices::{even_split, in_bytes, split};

/// Up to this many bytes an all-reduce sends everything to everybody (one round trip instead of
/// two). The bits are the same: every rank sums in rank order either way.
const SMALL: usize = 16 * 1024;

/// Bytes per rank that a larger all-reduce sums at once: they go out to all while they are still in
/// the cache of who summed them.
const PIECE: usize = 256 * 1024;

/// Runs one checked operation to its end.
pub(crate) fn run(mesh: &mut Mesh, seq: u64, call: &mut Call) -> Result<Outcome> {
    let header = Header::of(seq, call);
    match call {
        Call::AllReduce { buf } => {
            let dtype = buf.dtype();
            all_reduce(mesh, header, buf.bytes_mut(), dtype)?;
        }
        Call::ReduceScatter { buf, ranges } => {
            let dtype = buf.dtype();
            let mut pieces = split(buf.bytes_mut(), ranges, dtype);
            reduce_scatter(mesh, header, &mut pieces, dtype)?;
        }
        Call::AllGather { buf, ranges } => {
            let dtype = buf.dtype();
            let mut pieces = split(buf.bytes_mut(), ranges, dtype);
            let own: &[u8] = &*std::mem::take(&mut pieces[mesh.rank]);
            let heads = heads(mesh, header, |_| own.len());
            let mut out = outbox(mesh, &heads, |_| own);
            greet(mesh, header, &mut out)?;
            mesh.drive(
                header.op,
                &mut out,
                &mut Place::new(pieces),
                Until::Finished,
            )?;
        }
        Call::AllToAll {
            send,
            send_ranges,
            recv,
            recv_ranges,
        } => {
            let dtype = send.dtype();
            let pieces = split(recv.bytes_mut(), recv_ranges, dtype);
            let ours = |peer: usize| &send.bytes()[in_bytes(&send_ranges[peer], dtype)];
            all_to_all(mesh, header, ours, pieces)?;
        }
        Call::Broadcast { buf, root } => broadcast(mesh, header, buf.bytes_mut(), *root)?,
        Call::Barrier => {
            let heads = heads(mesh, header, |_| 0);
            let mut out = outbox(mesh, &heads, |_| &[]);
            greet(mesh, header, &mut out)?;
            let nothing = (0..mesh.size).map(|_| <&mut [u8]>::default());
            mesh.drive(
                header.op,
                &mut out,
                &mut Place::new(nothing),
                Until::Finished,
            )?;
        }
        Call::AllGatherBytes { mine } => {
            let mine = std::mem::take(mine);
            let mut parts = bytes(mesh, header, |_| mine.as_slice())?;
            parts[mesh.rank] = mine;
            return Ok(Outcome { parts });
        }
        Call::AllToAllBytes { parts: ours } => {
            let own = std::mem::take(&mut ours[mesh.rank]);
            let mut parts = bytes(mesh, header, |peer| ours[peer].as_slice())?;
            parts[mesh.rank] = own;
            return Ok(Outcome { parts });
        }
    }
    Ok(Outcome::default())
}

fn all_reduce(mesh: &mut Mesh, header: Header, bytes: &mut [u8], dtype: DType) -> Result<()> {
    if bytes.len() <= SMALL {
        let mine = bytes.to_vec();
        let heads = heads(mesh, header, |_| mine.len());
        let mut out = outbox(mesh, &heads, |_| &mine);
        greet(mesh, header, &mut out)?;
        let mut fold = Fold::new(bytes, dtype, mesh.rank, mesh.size);
        return mesh.drive(header.op, &mut out, &mut fold, Until::Finished);
    }
    let mut greeted = false;
    if direct::all_reduce(mesh, header, bytes, dtype, &mut greeted)? {
        return Ok(());
    }
    // Piece after piece: while the sums of one go back to all, the next one is summed.
    let owed = |peer: usize| -> usize {
        let pieces = bytes.chunks(PIECE * mesh.size);
        pieces
            .map(|p| even_split(p.len() / dtype.width(), mesh.size)[peer].len())
            .sum::<usize>()
            * dtype.width()
    };
    let heads = heads(mesh, header, owed);
    let mut summed: Vec<&mut [u8]> = (0..mesh.size).map(|_| <&mut [u8]>::default()).collect();
    let len = bytes.len();
    for piece in bytes
        .chunks_mut(PIECE * mesh.size)
        .chain([<&mut [u8]>::default()])
    {
        let ranges = even_split(piece.len() / dtype.width(), mesh.size);
        let mut parts = split(piece, &ranges, dtype);
        let own = std::mem::take(&mut parts[mesh.rank]);
        let back: &[u8] = &*std::mem::take(&mut summed[mesh.rank]);
        let first = |peer: usize| if greeted { back } else { &heads[peer] };
        let mut out: Vec<Outgoing<'_>> = (0..mesh.size)
            .map(|peer| match peer == mesh.rank {
                true => Outgoing::default(),
                false => Outgoing::new(first(peer), &*parts[peer]),
            })
            .collect();
        if !greeted {
            let theirs = greet(mesh, header, &mut out)?;
            direct::give_back(mesh, header.op, &theirs, len)?;
        }
        let mut intake = Then {
            first: Place::new(summed),
            second: Fold::new(&mut *own, dtype, mesh.rank, mesh.size),
        };
        mesh.drive(header.op, &mut out, &mut intake, Until::Finished)?;
        drop(out);
        parts[mesh.rank] = own;
        (summed, greeted) = (parts, true);
    }
    Ok(())
}

/// Sums `pieces[rank]` over all ranks; the other pieces are sent to their owners.
fn reduce_scatter(
    mesh: &mut Mesh,
    header: Header,
    pieces: &mut [&mut [u8]],
    dtype: DType,
) -> Result<()> {
    let own = std::mem::take(&mut pieces[mesh.rank]);
    let heads = heads(mesh, header, |peer| pieces[peer].len());
    let mut out = outbox(mesh, &heads, |peer| &*pieces[peer]);
    greet(mesh, header, &mut out)?;
    let mut fold = Fold::new(&mut *own, dtype, mesh.rank, mesh.size);
    mesh.drive(header.op, &mut out, &mut fold, Until::Finished)?;
    drop(out);
    pieces[mesh.rank] = own;
    Ok(())
}

fn all_to_all<'a>(
    mesh: &mut Mesh,
    header: Header,
    ours: impl Fn(usize) -> &'a [u8],
    mut pieces: Vec<&mut [u8]>,
) -> Result<()> {
    let own = std::mem::take(&mut pieces[mesh.rank]);
    let heads = heads(mesh, header, |peer| ours(peer).len());
    let mut out = outbox(mesh, &heads, |peer| ours(peer));
    let theirs = greet(mesh, header, &mut out)?;
    for (peer, (theirs, piece)) in theirs.iter().zip(&pieces).enumerate() {
        if peer != mesh.rank && theirs.payload != piece.len() as u64 {
            return Err(Error::Mismatch {
                rank: mesh.rank,
                peer,
                ours: format!("{} expecting {} bytes from it", header.op, piece.len()),
                theirs: theirs.to_string(),
            });
        }
    }
    // `Call::check` has seen that the lengths agree.
    own.copy_from_slice(ours(mesh.rank));
    mesh.drive(
        header.op,
        &mut out,
        &mut Place::new(pieces),
        Until::Finished,
    )
}

fn broadcast(mesh: &mut Mesh, header: Header, bytes: &mut [u8], root: usize) -> Result<()> {
    if mesh.rank == root {
        let bytes: &[u8] = bytes;
        let heads = heads(mesh, header, |_| bytes.len());
        let mut out = outbox(mesh, &heads, |_| bytes);
        greet(mesh, header, &mut out)?;
        let nothing = (0..mesh.size).map(|_| <&mut [u8]>::default());
        return mesh.drive(
            header.op,
            &mut out,
            &mut Place::new(nothing),
            Until::Finished,
        );
    }
    let heads = heads(mesh, header, |_| 0);
    let mut out = outbox(mesh, &heads, |_| &[]);
    greet(mesh, header, &mut out)?;
    let mut slots: Vec<&mut [u8]> = (0..mesh.size).map(|_| <&mut [u8]>::default()).collect();
    slots[root] = bytes;
    mesh.drive(header.op, &mut out, &mut Place::new(slots), Until::Finished)
}

/// Exchanges byte strings whose lengths only the senders know. This rank's own stays empty.
fn bytes<'a>(
    mesh: &mut Mesh,
    header: Header,
    ours: impl Fn(usize) -> &'a [u8],
) -> Result<Vec<Vec<u8>>> {
    let heads = heads(mesh, header, |peer| ours(peer).len());
    let mut out = outbox(mesh, &heads, |peer| ours(peer));
    let theirs = greet(mesh, header, &mut out)?;
    let mut parts = Vec::with_capacity(mesh.size);
    for (peer, theirs) in theirs.iter().enumerate() {
        let len = if peer == mesh.rank { 0 } else { theirs.payload };
        parts.push(room(len).map_err(|reason| {
            Error::system(
                format!("take {len} bytes of rank {peer} in {}", header.op),
                reason,
            )
        })?);
    }
    let mut place = Place::new(parts.iter_mut().map(Vec::as_mut_slice));
    mesh.drive(header.op, &mut out, &mut place, Until::Finished)?;
    Ok(parts)
}

/// Zeroed memory; an absurd length is an error, not an abort.
fn room(len: u64) -> std::result::Result<Vec<u8>, String> {
    zeroed(usize::try_from(len).map_err(|e| e.to_string())?)
}
