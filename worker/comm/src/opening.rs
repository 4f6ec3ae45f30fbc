//! How an operation begins: a header to every peer, aligned so that payloads follow whole.

use crate::error::{Error, Result};
use crate::flow::{Outgoing, Place};
use crate::header::{HEADER_BYTES, Header};
use crate::mesh::{Link, Mesh, Until};

/// Payloads start at multiples of this in a link's stream, so that no element is ever split by
/// the end of a ring.
const ALIGN: u64 = 8;

/// The encoded header for each peer, after padding that aligns the payload.
pub(crate) fn heads(mesh: &Mesh, header: Header, payload: impl Fn(usize) -> usize) -> Vec<Vec<u8>> {
    let head = |(peer, link): (usize, &Option<Link>)| match link {
        None => Vec::new(),
        Some(link) => {
            let mut head = vec![0; padding(link.positions().0)];
            let payload = payload(peer) as u64;
            head.extend_from_slice(&Header { payload, ..header }.encode());
            head
        }
    };
    mesh.links.iter().enumerate().map(head).collect()
}

fn padding(moved: u64) -> usize {
    (moved.next_multiple_of(ALIGN) - moved) as usize
}

/// What to send to each peer; nothing to this rank itself.
pub(crate) fn outbox<'a>(
    mesh: &Mesh,
    heads: &'a [Vec<u8>],
    payload: impl Fn(usize) -> &'a [u8],
) -> Vec<Outgoing<'a>> {
    let entry = |peer: usize| {
        if peer == mesh.rank {
            Outgoing::default()
        } else {
            Outgoing::new(&heads[peer], payload(peer))
        }
    };
    (0..mesh.size).map(entry).collect()
}

/// Exchanges headers with all peers (payloads may already be under way) and checks that all mean
/// the same operation. Returns the peers' headers in rank order, with `ours` for this rank.
pub(crate) fn greet(
    mesh: &mut Mesh,
    ours: Header,
    out: &mut [Outgoing<'_>],
) -> Result<Vec<Header>> {
    let pads: Vec<Option<usize>> = mesh
        .links
        .iter()
        .map(|l| l.as_ref().map(|l| padding(l.positions().1)))
        .collect();
    let mut raw: Vec<Vec<u8>> = pads
        .iter()
        .map(|pad| vec![0; pad.map_or(0, |pad| pad + HEADER_BYTES)])
        .collect();
    let mut place = Place::new(raw.iter_mut().map(Vec::as_mut_slice));
    mesh.drive(ours.op, out, &mut place, Until::Received)?;
    let mut headers = Vec::with_capacity(mesh.size);
    for (peer, (pad, raw)) in pads.iter().zip(&raw).enumerate() {
        let Some(pad) = pad else {
            headers.push(ours);
            continue;
        };
        let Some(theirs) = Header::decode(&raw[*pad..]) else {
            let detail = format!("expected a header, found {:02x?}", &raw[*pad..]);
            return Err(Error::Protocol {
                peer,
                op: ours.op,
                detail,
            });
        };
        if !ours.agrees(&theirs) {
            let (ours, theirs) = (ours.to_string(), theirs.to_string());
            return Err(Error::Mismatch {
                rank: mesh.rank,
                peer,
                ours,
                theirs,
            });
        }
        headers.push(theirs);
    }
    Ok(headers)
}
