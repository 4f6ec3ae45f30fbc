//! All links of a rank and the loop that moves bytes on them: every peer, both directions, one
//! thread, with deadline and abort.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::abort::AbortHandle;
use crate::call::OpId;
use crate::control::{Control, Farewell};
use crate::error::{Error, Result};
use crate::flight::Flight;
use crate::flow::{Intake, Outgoing};
use crate::pulse::Pulse;
use crate::shm::ShmLink;
use crate::tcp::TcpLink;

/// How often to look at the rings again before giving the CPU away, and how often to give it
/// away before sleeping. A sleep costs about 10 microseconds on each side; ranks compute on the
/// same cores, so neither number may be large. Looking at a socket is a system call already, so
/// a rank that has no rings only yields.
const SPINS: u32 = 64;
const YIELDS: u32 = 32;

/// How often to look at the clock for the next sign of life while bytes move.
const PULSE_TURNS: u32 = 64;

/// How bytes travel to one peer.
#[derive(Debug)]
pub(crate) enum Lane {
    Shm(ShmLink),
    Tcp(TcpLink),
}

/// One peer: its lane and the control connection beside it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) lane: Lane,
    pub(crate) control: Control,
    /// Bytes moved since the beginning.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Bytes of loans that nobody moved.
    unmoved: u64,
    /// Set when bytes were received that can't be believed.
    spoiled: bool,
    /// Set when nothing more will come on the lane.
    drained: bool,
    /// The peer's last sign of life; none before its first.
    heard: Option<Instant>,
}

/// This rank's links, one per peer.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) rank: usize,
    pub(crate) size: usize,
    /// In rank order, None for this rank.
    pub(crate) links: Vec<Option<Link>>,
    pub(crate) abort: AbortHandle,
    pub(crate) timeout: Duration,
    pub(crate) flight: Flight,
    pub(crate) pulse: Pulse,
}

/// When [`Mesh::drive`] is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Everything wanted has arrived; sending may go on in the next call.
    Received,
    /// And everything has been sent.
    Finished,
}

impl Link {
    pub(crate) fn new(lane: Lane, control: Control) -> Link {
        Link {
            lane,
            control,
            sent: 0,
            received: 0,
            unmoved: 0,
            spoiled: false,
            drained: false,
            heard: None,
        }
    }

    /// Takes what has arrived on the control connection.
    pub(crate) fn listen(&mut self) {
        if self.control.read() {
            self.heard = Some(Instant::now());
        }
    }

    /// Whether the peer has left in order, but its last bytes may still be on their way here: they travel
    /// on another connection than its good-bye, which can be faster. What is in a ring is here.
    fn may_bring_more(&self) -> bool {
        matches!(self.lane, Lane::Tcp(_)) && self.control.ended() && !self.drained
    }

    /// Positions that payloads are aligned to, outgoing and incoming: those in the ring, where
    /// there is one, since the end of a ring must not split an element.
    pub(crate) fn positions(&self) -> (u64, u64) {
        match &self.lane {
            Lane::Shm(shm) => shm.positions(),
            Lane::Tcp(_) => (self.sent, self.received),
        }
    }

    /// Says that of a loan of `len` bytes only `moved` ones were moved, but in both directions.
    pub(crate) fn count_loan(&mut self, len: usize, moved: usize) {
        let unmoved = len.saturating_sub(moved) as u64;
        self.sent = self.sent.saturating_sub(unmoved);
        self.received += moved as u64;
        self.unmoved += unmoved;
    }

    /// Moves what can be moved now, in both directions.
    fn turn(&mut self, peer: usize, out: &mut Outgoing<'_>, intake: &mut dyn Intake) -> usize {
        let Link {
            lane,
            control,
            sent,
            received,
            spoiled,
            drained,
            unmoved: _,
            heard,
        } = self;
        let mut moved = 0;
        // Each direction on its own: a peer that closed can have left bytes to be read.
        let done = match lane {
            Lane::Shm(shm) => shm.send(out, control),
            Lane::Tcp(tcp) if control.gone().is_none() => tcp.send(out),
            Lane::Tcp(_) => Ok(0),
        };
        match done {
            Ok(n) => {
                *sent += n as u64;
                moved += n;
            }
            Err(reason) => control.lost(&reason),
        }
        let done = match lane {
            Lane::Shm(shm) => shm.recv(peer, intake, control),
            Lane::Tcp(tcp) => tcp.recv(peer, intake),
        };
        match done {
            Ok(0) => {}
            Ok(n) => {
                *heard = Some(Instant::now());
                *received += n as u64;
                moved += n;
            }
            Err(reason) => {
                control.lost(&reason);
                *drained = true;
                *spoiled = match lane {
                    Lane::Shm(_) => true,
                    Lane::Tcp(tcp) => tcp.forged(),
                };
            }
        }
        moved
    }
}

impl Mesh {
    /// Moves bytes until `until`. `out` has one entry per rank.
    pub(crate) fn drive(
        &mut self,
        op: OpId,
        out: &mut [Outgoing<'_>],
        intake: &mut dyn Intake,
        until: Until,
    ) -> Result<()> {
        let rings = self
            .links
            .iter()
            .flatten()
            .any(|l| matches!(l.lane, Lane::Shm(_)));
        let spins = if rings { SPINS } else { 0 };
        let mut idle = 0u32;
        let mut stalled: Option<Instant> = None;
        let mut awaited = None;
        let mut turns = 0u32;
        loop {
            self.abort.check(op)?;
            turns = turns.wrapping_add(1);
            // Peers that are left waiting by a long transfer to others hear of this rank, too.
            if turns.is_multiple_of(PULSE_TURNS) {
                self.pulse();
            }
            let mut moved = 0;
            let mut unsent = 0;
            for (peer, (link, out)) in self.links.iter_mut().zip(out.iter_mut()).enumerate() {
                if let Some(link) = link {
                    moved += link.turn(peer, out, intake);
                    unsent += out.left();
                }
            }
            if let Some((peer, reason)) =
                self.gone(|peer| self.links[peer].as_ref().is_some_and(|l| l.spoiled))
            {
                return Err(Error::PeerLost { peer, op, reason });
            }
            if moved > 0 {
                idle = 0;
                if stalled.take().is_some() {
                    awaited = None;
                    self.flight.moved();
                }
            }
            if intake.done() && (until == Until::Received || unsent == 0) {
                return Ok(());
            }
            if moved > 0 {
                continue;
            }
            self.blame_the_gone(op, out, intake)?;
            idle += 1;
            if idle <= spins {
                std::hint::spin_loop();
            } else if idle <= spins + YIELDS {
                std::thread::yield_now();
            } else {
                let since = *stalled.get_or_insert_with(Instant::now);
                let waited = since.elapsed();
                let peer = self.waits_for(out, intake);
                if awaited != Some(peer) {
                    awaited = Some(peer);
                    self.flight.waits(op, peer, since);
                }
                if waited >= self.timeout {
                    return Err(Error::Deadline {
                        peer,
                        op,
                        waited,
                        limit: self.timeout,
                    });
                }
                let limit = self.pulse.limit(self.timeout - waited);
                self.sleep(op, out, intake, limit)?;
                self.pulse();
            }
        }
    }

    /// Gives all peers a sign of life when it is due, and takes those for gone that have given none for too
    /// long.
    pub(crate) fn pulse(&mut self) {
        let now = Instant::now();
        if !self.pulse.is_due(now) {
            return;
        }
        for link in self.links.iter_mut().flatten() {
            if link.control.gone().is_some() {
                // Its last bytes are waited for no longer than a sign of life would be.
                if link.may_bring_more() && self.pulse.silent(link.heard, now).is_some() {
                    link.drained = true;
                }
                continue;
            }
            link.control.wake();
            // What has arrived while this rank itself was stopped counts first.
            link.listen();
            if let Some(reason) = self.pulse.silent(link.heard, Instant::now()) {
                link.control.lost(&reason);
            }
        }
    }

    /// Fails if a peer that something is still needed from (or for) is gone, and can't bring it any more.
    fn blame_the_gone(&self, op: OpId, out: &[Outgoing<'_>], intake: &dyn Intake) -> Result<()> {
        let comes = |peer: usize| {
            let link = self.links[peer].as_ref();
            link.is_some_and(Link::may_bring_more)
        };
        let needed = |peer: usize| out[peer].left() > 0 || (intake.want(peer) > 0 && !comes(peer));
        match self.gone(needed) {
            None => Ok(()),
            Some((peer, reason)) => Err(Error::PeerLost { peer, op, reason }),
        }
    }

    /// The rank to blame if any peer is gone, and why.
    pub(crate) fn first_gone(&self) -> Option<(usize, String)> {
        self.gone(|_| true)
    }

    fn gone(&self, counts: impl Fn(usize) -> bool) -> Option<(usize, String)> {
        let gone = || {
            self.links.iter().enumerate().filter_map(|(peer, link)| {
                let farewell = link.as_ref()?.control.gone()?;
                counts(peer).then_some((peer, farewell))
            })
        };
        // Who died without a word is the cause; who said goodbye may only pass on the news.
        let (peer, Farewell { culprit, reason }) = gone()
            .find(|(_, f)| f.culprit.is_none())
            .or_else(|| gone().next())?;
        Some(match *culprit {
            Some(culprit) if culprit != self.rank => {
                (culprit, format!("rank {peer} reports: {reason}"))
            }
            _ => (peer, reason.clone()),
        })
    }

    /// The first peer that something is expected from; else the first that does not take bytes.
    fn waits_for(&self, out: &[Outgoing<'_>], intake: &dyn Intake) -> usize {
        let peers = || (0..self.size).filter(|&p| p != self.rank);
        peers()
            .find(|&p| intake.want(p) > 0)
            .or_else(|| peers().find(|&p| out[p].left() > 0))
            .unwrap_or(self.rank)
    }

    /// Sleeps until a peer moves, goes, the handle is aborted, or `limit` is over.
    fn sleep(
        &mut self,
        op: OpId,
        out: &[Outgoing<'_>],
        intake: &dyn Intake,
        limit: Duration,
    ) -> Result<()> {
        let mut quiet = true;
        for (peer, link) in self.links.iter_mut().enumerate() {
            if let Some(Link {
                lane: Lane::Shm(shm),
                control,
                ..
            }) = link
            {
                match shm.doze(peer, intake.want(peer) > 0, out[peer].left() > 0) {
                    Ok(still) => quiet &= still,
                    Err(reason) => {
                        control.lost(&reason);
                        quiet = false;
                    }
                }
            }
        }
        if quiet {
            let mut fds = vec![PollFd::from_borrowed_fd(self.abort.event(), PollFlags::IN)];
            for (peer, link) in self.links.iter().enumerate() {
                let here = |link: &&Link| link.control.gone().is_none();
                let Some(link) = link.as_ref().filter(|l| here(l) || l.may_bring_more()) else {
                    continue;
                };
                let here = here(&link);
                if here {
                    fds.push(PollFd::from_borrowed_fd(link.control.fd(), PollFlags::IN));
                }
                if let Lane::Tcp(tcp) = &link.lane {
                    let mut flags = PollFlags::empty();
                    flags.set(PollFlags::IN, intake.want(peer) > 0);
                    flags.set(PollFlags::OUT, here && out[peer].left() > 0);
                    if !flags.is_empty() {
                        fds.push(PollFd::from_borrowed_fd(tcp.fd(), flags));
                    }
                }
            }
            wait(&mut fds, Some(limit))
                .map_err(|e| Error::system(format!("poll for peers during {op}"), e))?;
        }
        for link in self.links.iter_mut().flatten() {
            if let Lane::Shm(shm) = &mut link.lane {
                shm.wake();
            }
            if quiet {
                link.listen();
            }
        }
        Ok(())
    }

    /// Tells all peers why this rank leaves, and closes all links.
    pub(crate) fn close(&mut self, farewell: &Farewell) {
        for link in self.links.iter_mut() {
            if let Some(mut link) = link.take() {
                link.control.say_goodbye(farewell);
            }
        }
    }

    /// Bytes (sent, received, and of the sent ones those lent) on all links so far.
    pub(crate) fn moved(&self) -> [u64; 3] {
        self.links.iter().flatten().fold([0; 3], |[s, r, t], link| {
            let lent = match &link.lane {
                Lane::Shm(shm) => shm.lent() - link.unmoved,
                Lane::Tcp(_) => 0,
            };
            [s + link.sent, r + link.received, t + lent]
        })
    }
}

/// poll(2), with a limit rounded by the kernel's clock; interruptions count as "look again".
pub(crate) fn wait(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> std::io::Result<()> {
    let limit = limit.map(|d| Timespec {
        tv_sec: d.as_secs().min(i64::MAX as u64) as i64,
        tv_nsec: i64::from(d.subsec_nanos()),
    });
    match poll(fds, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Kind;
    use crate::flow::Place;
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};

    const OP: OpId = OpId {
        seq: 0,
        kind: Kind::Barrier,
    };

    /// Both ends of a connection.
    fn wire() -> [TcpStream; 2] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let ours = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        [ours, listener.accept().expect("accept").0]
    }

    /// Rank 0 of two, and the ends of its peer: data, control.
    fn mesh() -> (Mesh, [TcpStream; 2]) {
        let ([data, their_data], [control, their_control]) = (wire(), wire());
        let lane = Lane::Tcp(TcpLink::new((data, None)).expect("lane"));
        let link = Link::new(lane, Control::new((control, None)).expect("control"));
        let mesh = Mesh {
            rank: 0,
            size: 2,
            links: vec![None, Some(link)],
            abort: AbortHandle::new().expect("handle"),
            timeout: Duration::from_secs(60),
            flight: Flight::new(),
            pulse: Pulse::new(Duration::ZERO),
        };
        (mesh, [their_data, their_control])
    }

    /// Takes 4 bytes from the peer, to which there are `left` to be sent.
    fn take(mesh: &mut Mesh, left: &[u8]) -> Result<[u8; 4]> {
        let mut bytes = [0; 4];
        let mut intake = Place::new([<&mut [u8]>::default(), &mut bytes[..]]);
        let mut out = [Outgoing::default(), Outgoing::new(left, &[])];
        mesh.drive(OP, &mut out, &mut intake, Until::Finished)?;
        Ok(bytes)
    }

    // Promise: who has sent everything and leaves is no loss, though its good-bye overtakes its bytes.
    #[test]
    fn a_good_bye_overtakes_no_bytes() {
        let (mut mesh, [mut data, control]) = mesh();
        control.shutdown(Shutdown::Both).expect("close");
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            data.write_all(&[1, 2, 3, 4]).expect("write");
        });
        assert_eq!(take(&mut mesh, &[]).expect("all has come"), [1, 2, 3, 4]);
        writer.join().expect("thread");
    }

    // Promise: who leaves without having sent everything is lost as soon as that is known, and so is, at
    // once, who takes no more bytes.
    #[test]
    fn who_leaves_too_early_is_lost() {
        let lost =
            |error: Error| assert!(matches!(error, Error::PeerLost { peer: 1, .. }), "{error}");
        let (mut mesh, [mut data, control]) = self::mesh();
        drop(control);
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            data.write_all(&[1, 2]).expect("write");
        });
        lost(take(&mut mesh, &[]).expect_err("half of it"));
        writer.join().expect("thread");
        let (mut mesh, [data, control]) = self::mesh();
        control.shutdown(Shutdown::Both).expect("close");
        // Until the end of the control connection has come.
        let link = mesh.links[1].as_mut().expect("a link");
        while link.control.gone().is_none() {
            link.listen();
        }
        let began = Instant::now();
        lost(take(&mut mesh, &[0; 4]).expect_err("nobody takes them"));
        assert!(began.elapsed() < Duration::from_secs(30));
        drop(data);
    }
}
