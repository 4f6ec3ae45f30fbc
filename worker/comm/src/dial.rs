//! Calling peers and answering calls, on threads of their own while ranks join.

use std::io;
use std::net::TcpStream;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crate::bootstrap::{PeerAddr, Rendezvous};
use crate::control::Control;
use crate::door::{Trust, Turned, Wire, knock, let_in};
use crate::error::Error;
use crate::handshake::{Gate, Hello, Purpose, Reply, receive_offer, send_offer};
use crate::mesh::{Lane, Link};
use crate::segment::Posted;
use crate::shm;
use crate::tcp::TcpLink;

/// Pause between calls to a peer that is not ready.
const RETRY: Duration = Duration::from_millis(20);
/// How long one connection attempt may take before the next one starts.
const ATTEMPT: Duration = Duration::from_millis(500);
/// How long a caller may take to say who it is.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// What came of a call or a caller.
pub(crate) enum Event {
    /// A link to a peer is complete.
    Linked(usize, Box<Link>),
    /// One of the two connections that make a TCP link, from this caller and attempt.
    Half(usize, u32, Purpose, Wire),
    /// A lower rank will not have this one.
    Failed(Error),
    /// What went wrong last with a peer that is still tried.
    Trouble(usize, String),
}

/// Calls a lower rank until it answers.
pub(crate) fn call(
    rendezvous: &Rendezvous,
    peer: &PeerAddr,
    trust: Trust<'_>,
    gate: Gate<'_>,
    events: &Sender<Event>,
) {
    for attempt in 0.. {
        if !gate.open() {
            return;
        }
        let outcome = match call_once(rendezvous, peer, trust, gate, attempt) {
            Ok(Ok(link)) => Event::Linked(peer.rank, Box::new(link)),
            Ok(Err(Turned::Impostor)) => Event::Failed(Error::Unauthenticated {
                peer: peer.rank,
                addr: peer.addr,
                generation: rendezvous.generation,
            }),
            // Who refuses has not proved that it is the peer: it shall not end the job.
            Ok(Err(Turned::Away(Reply::Refused(reason)))) if trust.secret.is_some() => {
                Event::Trouble(peer.rank, format!("somebody there refused: {reason}"))
            }
            Ok(Err(Turned::Away(Reply::Refused(reason)))) => Event::Failed(Error::Refused {
                peer: peer.rank,
                addr: peer.addr,
                reason,
            }),
            Ok(Err(Turned::Away(Reply::Later(reason)))) => Event::Trouble(peer.rank, reason),
            Ok(Err(Turned::Away(Reply::Welcome))) => continue,
            // Cut off by the end of the rendezvous: what was heard before says more.
            Err(_) if !gate.open() => return,
            Err(e) => Event::Trouble(peer.rank, e.to_string()),
        };
        let again = matches!(outcome, Event::Trouble(..));
        // The other end lives as long as the rendezvous; if it is over, nobody cares.
        let _ = events.send(outcome);
        if !again {
            return;
        }
        std::thread::sleep(RETRY);
    }
}

fn call_once(
    rendezvous: &Rendezvous,
    peer: &PeerAddr,
    trust: Trust<'_>,
    gate: Gate<'_>,
    attempt: u32,
) -> io::Result<Result<Link, Turned>> {
    let dial = |purpose: Purpose| -> io::Result<Result<Wire, Turned>> {
        let stream = TcpStream::connect_timeout(&peer.addr, gate.left(ATTEMPT))?;
        // A proof and an offer are two writes: the second must not wait until the first is acknowledged, which a
        // peer puts off for 40 ms.
        stream.set_nodelay(true)?;
        let hello = rendezvous.hello(purpose, peer.rank, attempt);
        knock(stream, hello, trust, gate)
    };
    let mut control = match dial(Purpose::Control)? {
        Ok(control) => control,
        Err(turned) => return Ok(Err(turned)),
    };
    let near = rendezvous.peers[rendezvous.rank].host_id == peer.host_id;
    let made = if near && rendezvous.shared_memory {
        shm::create()
            .inspect_err(|reason| no_shared_memory(peer.rank, reason))
            .map_or((None, None), |(link, posted)| (Some(link), Some(posted)))
    } else {
        (None, None)
    };
    let (offered, posted) = made;
    send_offer(&mut control, posted.as_ref().map(Posted::offer).as_ref())?;
    let reply = Reply::receive(&mut control, gate)?;
    // The other side has mapped it by now, or never will.
    drop(posted);
    let lane = match (offered, reply) {
        (Some(link), Reply::Welcome) => Lane::Shm(link),
        (offered, reply) => {
            if let (Some(_), Reply::Refused(reason)) = (offered, reply) {
                no_shared_memory(peer.rank, &reason);
            }
            match dial(Purpose::Data)? {
                Ok(data) => Lane::Tcp(TcpLink::new(data.into_parts())?),
                Err(turned) => return Ok(Err(turned)),
            }
        }
    };
    Ok(Ok(Link::new(lane, Control::new(control.into_parts())?)))
}

/// Hears a caller out. Whoever it is, only its own connection is at stake.
pub(crate) fn answer(
    rendezvous: &Rendezvous,
    stream: TcpStream,
    trust: Trust<'_>,
    gate: Gate<'_>,
    events: &Sender<Event>,
) {
    let from = stream
        .peer_addr()
        .map_or_else(|_| "somewhere".into(), |a| a.to_string());
    let mut named = None;
    let answered = answer_caller(rendezvous, stream, trust, gate, &mut named);
    match answered {
        Ok(event) => {
            let _ = events.send(event);
        }
        Err(reason) => {
            // What is missing when time is over may be what was turned away.
            if let Some(peer) = named {
                let trouble = format!("a caller that named itself rank {peer}: {reason}");
                let _ = events.send(Event::Trouble(peer, trouble));
            }
            tracing::warn!(
                rank = rendezvous.rank, %from, %reason, "turned a connection away"
            );
        }
    }
}

/// `named`: the rank that the caller gave for its own, once that was found possible.
fn answer_caller(
    rendezvous: &Rendezvous,
    mut stream: TcpStream,
    trust: Trust<'_>,
    gate: Gate<'_>,
    named: &mut Option<usize>,
) -> io::Result<Event> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    // A stranger that says nothing shall not take the place of a peer for long.
    let soon = Gate {
        deadline: gate.deadline.min(Instant::now() + INTRODUCTION),
        ..gate
    };
    let hello = match Hello::receive(&mut stream, soon) {
        Ok(hello) => hello,
        Err(e) => {
            if e.kind() == io::ErrorKind::InvalidData {
                Reply::Refused(format!("it received {e}")).send(&mut stream)?;
            }
            return Err(e);
        }
    };
    let me = Hello {
        fresh: trust.secret.map(|_| [0; 32]),
        ..rendezvous.hello(Purpose::Control, rendezvous.rank, 0)
    };
    let verdict = hello.judge(&me);
    if let Reply::Later(reason) | Reply::Refused(reason) = &verdict {
        verdict.send(&mut stream)?;
        return Err(io::Error::other(format!(
            "rank {} told: {reason}",
            hello.from
        )));
    }
    let peer = hello.from as usize;
    *named = Some(peer);
    let mut wire = let_in(stream, &hello, trust, soon)?;
    if hello.purpose == Purpose::Data {
        return Ok(Event::Half(peer, hello.attempt, hello.purpose, wire));
    }
    let lane = match receive_offer(&mut wire, gate)? {
        None => {
            Reply::Welcome.send(&mut wire)?;
            None
        }
        Some(_) if !rendezvous.shared_memory => {
            Reply::Refused("the other side is configured for TCP".into()).send(&mut wire)?;
            None
        }
        Some(offer) => match shm::attach(&offer) {
            Ok(link) => {
                Reply::Welcome.send(&mut wire)?;
                Some(Lane::Shm(link))
            }
            Err(reason) => {
                no_shared_memory(peer, &reason);
                Reply::Refused(reason).send(&mut wire)?;
                None
            }
        },
    };
    Ok(match lane {
        Some(lane) => {
            let control = Control::new(wire.into_parts())?;
            Event::Linked(peer, Box::new(Link::new(lane, control)))
        }
        None => Event::Half(peer, hello.attempt, hello.purpose, wire),
    })
}

fn no_shared_memory(peer: usize, reason: &str) {
    tracing::warn!(peer, %reason, "no shared memory with this rank of the same host, using TCP");
}
