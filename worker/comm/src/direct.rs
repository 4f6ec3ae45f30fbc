//! An all-reduce in which every rank reaches every other one's memory.
//!
//! Each rank owns a slice: it reads that slice of all ranks, sums it in rank order, and writes the
//! sum to all of them. Nobody else touches the slice meanwhile, so ranks need to meet only at the
//! beginning (all buffers are lent and hold what is to be summed) and at the end (all are given
//! back).
//!
//! A buffer is lent together with the header that opens the operation, if it is all of a
//! [`SharedMemory`](crate::SharedMemory) that every peer has mapped. The header says so; if all
//! headers do, all ranks know that all ranks know, and go ahead. Else the loans are given back
//! unused and the bytes take the usual ways.
//!
//! A rank that fails before everything was given back can't know whether a slow peer will still
//! write. Its addresses get fresh memory before the operation ends.

use std::ops::Range;

use crate::call::OpId;
use crate::error::{Error, Result};
use crate::flow::{Outgoing, Place};
use crate::fold;
use crate::header::Header;
use crate::lent;
use crate::memory::DType;
use crate::mesh::{Lane, Link, Mesh, Until};
use crate::opening::{greet, heads};
use crate::slices::{even_split, in_bytes};

/// Shorter buffers take the usual ways.
const LEAST: usize = 64 * 1024;

/// Bytes of a slice after which a rank looks whether it was aborted.
const STEP: usize = 1024 * 1024;

/// Does the whole operation if all ranks can; true if they could. Else, if `greeted` is set, headers
/// have been exchanged.
pub(crate) fn all_reduce(
    mesh: &mut Mesh,
    header: Header,
    bytes: &mut [u8],
    dtype: DType,
    greeted: &mut bool,
) -> Result<bool> {
    let can = |link: &Link| matches!(&link.lane, Lane::Shm(shm) if shm.knows_all_of(bytes));
    if bytes.len() < LEAST || mesh.size < 2 || !mesh.links.iter().flatten().all(can) {
        return Ok(false);
    }
    *greeted = true;
    let header = Header {
        direct: true,
        ..header
    };
    let done = lend(mesh, header, bytes, dtype);
    done.map_err(|error| match lent::renew(bytes) {
        Ok(()) => error,
        Err(reason) => Error::Kept {
            op: header.op,
            cause: error.to_string(),
            reason,
        },
    })
}

fn lend(mesh: &mut Mesh, header: Header, bytes: &mut [u8], dtype: DType) -> Result<bool> {
    let heads = heads(mesh, header, |_| 0);
    let mut out: Vec<Outgoing<'_>> = heads.iter().map(|h| Outgoing::new(h, &[])).collect();
    for (peer, link) in mesh.links.iter_mut().enumerate() {
        let lent = match link.as_mut().map(|link| &mut link.lane) {
            None => continue,
            Some(Lane::Shm(shm)) => shm.lend_ahead(bytes, heads[peer].len()),
            Some(Lane::Tcp(_)) => false,
        };
        if !lent {
            return Err(Error::system("lend memory", "a peer does not know it"));
        }
        out[peer].lend_besides(bytes.len());
    }
    let theirs = greet(mesh, header, &mut out)?;
    let all = theirs.iter().all(|h| h.direct);
    let ranges = even_split(bytes.len() / dtype.width(), mesh.size);
    let own = in_bytes(&ranges[mesh.rank], dtype);
    if all {
        sum(mesh, header.op, bytes, own.clone(), dtype)?;
    }
    give_back(mesh, header.op, &theirs, bytes.len())?;
    let mut nothing = Place::new((0..mesh.size).map(|_| <&mut [u8]>::default()));
    mesh.drive(header.op, &mut out, &mut nothing, Until::Finished)?;
    for (peer, link) in mesh.links.iter_mut().enumerate() {
        // Each link carried the peer's slice as it was, and this rank's slice as a sum.
        let slices = own.len() + in_bytes(&ranges[peer], dtype).len();
        if let Some(link) = link {
            link.count_loan(bytes.len(), if all { slices } else { 0 });
        }
    }
    Ok(all)
}

/// Sums the slice `own` of all ranks and writes it to all.
fn sum(mesh: &mut Mesh, op: OpId, bytes: &mut [u8], own: Range<usize>, dtype: DType) -> Result<()> {
    for (peer, link) in mesh.links.iter_mut().enumerate() {
        if let Some(link) = link {
            expect_loan(link, peer, op, bytes.len())?;
        }
    }
    for start in own.clone().step_by(STEP) {
        mesh.abort.check(op)?;
        let step = start..own.end.min(start + STEP);
        let mut mine = Some(&mut bytes[step.clone()]);
        let mut parts = Vec::with_capacity(mesh.size);
        for (peer, link) in mesh.links.iter_mut().enumerate() {
            let part = match link.as_mut().map(|link| &mut link.lane) {
                None => mine.take(),
                Some(Lane::Shm(shm)) => shm.loan_mut(step.start, step.len()),
                Some(Lane::Tcp(_)) => None,
            };
            let lost = || Error::Protocol {
                peer,
                op,
                detail: "its loan is gone".into(),
            };
            parts.push(part.ok_or_else(lost)?);
        }
        fold::everywhere(&mut parts, dtype);
    }
    Ok(())
}

/// Gives the loans of `len` bytes back that came with these headers.
pub(crate) fn give_back(mesh: &mut Mesh, op: OpId, theirs: &[Header], len: usize) -> Result<()> {
    for (peer, link) in mesh.links.iter_mut().enumerate() {
        if let Some(link) = link.as_mut().filter(|_| theirs[peer].direct) {
            expect_loan(link, peer, op, len)?;
            if let Lane::Shm(shm) = &mut link.lane {
                shm.give_back(&mut link.control);
            }
        }
    }
    Ok(())
}

/// The loan that a header announced is known once the header has arrived.
fn expect_loan(link: &mut Link, peer: usize, op: OpId, len: usize) -> Result<()> {
    let found = match &mut link.lane {
        Lane::Shm(shm) => shm.loan(peer),
        Lane::Tcp(_) => Ok(None),
    };
    if found == Ok(Some(len)) {
        return Ok(());
    }
    let detail = format!("expected a loan of {len} bytes, found {found:?}");
    Err(Error::Protocol { peer, op, detail })
}
