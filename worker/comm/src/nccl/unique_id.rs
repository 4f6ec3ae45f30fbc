//! How ranks learn the unique id that NCCL meets by, and whether all of them can.

use super::library::ID_BYTES;
use crate::cpu::CpuCommunicator;
use crate::error::{Error, Result};
use crate::ext::CommunicatorExt;
use crate::{Communicator, call::Kind, call::OpId};

/// What a rank brings: its version of NCCL, and on rank 0 the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Card {
    pub(crate) version: String,
    pub(crate) id: Option<[u8; ID_BYTES]>,
}

const CAN: u8 = b'y';
const CANNOT: u8 = b'n';

/// Tells all ranks whether this one can take part, and gives rank 0's id if all can. Collective: a
/// rank that cannot must say so too, or the others would wait for it.
///
/// # Errors
/// This rank's own reason; [`Error::Unfit`] with the first other rank that cannot, or that has another
/// version; whatever the links say.
pub(crate) fn agree(cpu: &CpuCommunicator, mine: &Result<Card>) -> Result<[u8; ID_BYTES]> {
    let parts = cpu.all_gather_bytes(compose(mine))?;
    let mine = mine.as_ref().map_err(Clone::clone)?;
    judge(cpu.rank(), &mine.version, &parts)
}

fn compose(mine: &Result<Card>) -> Vec<u8> {
    match mine {
        Err(e) => [&[CANNOT], e.to_string().as_bytes()].concat(),
        Ok(Card { version, id }) => {
            let id = id.as_ref().map_or(&[][..], |id| &id[..]);
            [&[CAN, id.len() as u8], id, version.as_bytes()].concat()
        }
    }
}

fn judge(rank: usize, version: &str, parts: &[Vec<u8>]) -> Result<[u8; ID_BYTES]> {
    let odd = |peer: usize, detail: String| Error::Protocol {
        peer,
        // The set-up is the first thing that happens on a fresh communicator.
        op: OpId {
            seq: 0,
            kind: Kind::AllGatherBytes,
        },
        detail,
    };
    let mut id = None;
    for (peer, part) in parts.iter().enumerate() {
        match part.split_first() {
            Some((&CANNOT, reason)) => {
                let reason = String::from_utf8_lossy(reason).into_owned();
                return Err(Error::Unfit { peer, reason });
            }
            Some((&CAN, [len, rest @ ..])) if rest.len() >= usize::from(*len) => {
                let (theirs, text) = rest.split_at(usize::from(*len));
                let text = String::from_utf8_lossy(text);
                if text != version {
                    return Err(Error::Unfit {
                        peer,
                        reason: format!(
                            "it has NCCL {text}, rank {rank} has {version}; install the same everywhere"
                        ),
                    });
                }
                if peer == 0 {
                    id = theirs.try_into().ok();
                }
            }
            _ => {
                return Err(odd(
                    peer,
                    format!("expected its NCCL card, found {part:02x?}"),
                ));
            }
        }
    }
    id.ok_or_else(|| odd(0, "rank 0 sent no unique id".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(version: &str, id: Option<u8>) -> Vec<u8> {
        compose(&Ok(Card {
            version: version.into(),
            id: id.map(|b| [b; ID_BYTES]),
        }))
    }

    #[test]
    fn all_or_nobody() {
        // Promise: rank 0's id is taken only if every rank can take part with one version of NCCL;
        // otherwise the error names the rank that can't and its reason.
        let good = [card("2.28.9", Some(7)), card("2.28.9", None)];
        assert_eq!(judge(1, "2.28.9", &good).expect("all can"), [7; ID_BYTES]);
        let other = [card("2.28.9", Some(7)), card("2.27.3", None)];
        let error = judge(0, "2.28.9", &other).expect_err("versions differ");
        assert_eq!(error.peer(), Some(1));
        assert!(error.to_string().contains("2.27.3"), "{error}");
        let cannot = compose(&Err(Error::system("load", "no such file")));
        let error = judge(0, "2.28.9", &[card("2.28.9", Some(7)), cannot]).expect_err("one can't");
        assert!(matches!(error, Error::Unfit { peer: 1, .. }), "{error}");
        assert!(error.to_string().contains("no such file"), "{error}");
        for nonsense in [vec![], vec![9], vec![CAN, 200, 1], card("2.28.9", None)] {
            let parts = [nonsense, card("2.28.9", None)];
            let error = judge(1, "2.28.9", &parts).expect_err("nonsense");
            assert!(matches!(error, Error::Protocol { peer: 0, .. }), "{error}");
        }
    }
}
