//! Sealed records on a data connection: whole runs of bytes are sealed into one buffer and written
//! from there, and read into one buffer and opened in it.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;

use crate::flow::{Intake, Outgoing};
use crate::seal::{LENGTH, LONGEST, RECORD, Seals};
use crate::tcp::{TURN, would_block};

/// Records that are sealed or read at once.
const BATCH: usize = TURN / RECORD;

/// Both directions of a data connection.
#[derive(Debug)]
pub(crate) struct SealedLane {
    seals: Box<Seals>,
    /// Records on their way out, and how much of them the kernel has.
    leaving: Vec<u8>,
    gone: usize,
    /// Where each of them ends, and how many bytes are in it: bytes count as sent when all of
    /// their record is.
    records: VecDeque<(usize, usize)>,
    /// What has come: opened bytes that nobody wanted yet, then records.
    inbox: Vec<u8>,
    opened: Range<usize>,
    sealed: Range<usize>,
    forged: bool,
}

impl SealedLane {
    pub(crate) fn new(seals: Box<Seals>) -> SealedLane {
        SealedLane {
            seals,
            leaving: Vec::with_capacity(BATCH * LONGEST),
            gone: 0,
            records: VecDeque::with_capacity(BATCH),
            inbox: vec![0; BATCH * LONGEST],
            opened: 0..0,
            sealed: 0..0,
            forged: false,
        }
    }

    /// Whether something came that the peer has not sealed.
    pub(crate) fn forged(&self) -> bool {
        self.forged
    }

    /// Sends what fits now; see `TcpLink::send`.
    pub(crate) fn send(
        &mut self,
        stream: &mut TcpStream,
        out: &mut Outgoing<'_>,
    ) -> Result<usize, String> {
        if self.gone == self.leaving.len() {
            self.seal(out);
            if self.leaving.is_empty() {
                return Ok(0);
            }
        }
        match stream.write(&self.leaving[self.gone..]) {
            Ok(n) => {
                self.gone += n;
                let mut sent = 0;
                while let Some((end, bytes)) = self.records.front().copied()
                    && end <= self.gone
                {
                    self.records.pop_front();
                    sent += bytes;
                }
                out.advance(sent);
                Ok(sent)
            }
            Err(e) if would_block(&e) => Ok(0),
            Err(e) => Err(format!("connection broke while sending: {e}")),
        }
    }

    /// Seals what comes next.
    fn seal(&mut self, out: &Outgoing<'_>) {
        self.leaving.clear();
        self.gone = 0;
        let [mut head, mut payload] = out.rest();
        while self.records.len() < BATCH && head.len() + payload.len() > 0 {
            let of_head = head.len().min(RECORD);
            let of_payload = payload.len().min(RECORD - of_head);
            let parts = [&head[..of_head], &payload[..of_payload]];
            self.seals.sealer.seal(parts, &mut self.leaving);
            self.records
                .push_back((self.leaving.len(), of_head + of_payload));
            (head, payload) = (&head[of_head..], &payload[of_payload..]);
        }
    }

    /// Receives what is there; see `TcpLink::recv`.
    pub(crate) fn recv(
        &mut self,
        stream: &mut TcpStream,
        peer: usize,
        intake: &mut dyn Intake,
    ) -> Result<usize, String> {
        let mut total = 0;
        let mut drained = false;
        while total < TURN && intake.want(peer) > 0 {
            if self.opened.is_empty() && !self.open()? {
                if drained {
                    break;
                }
                match self.fill(stream)? {
                    Some(all) => drained = all,
                    None => break,
                }
                continue;
            }
            // Not `put`: a record may end inside of an element.
            let space = intake.space(peer);
            let n = space.len().min(self.opened.len());
            let from = self.opened.start;
            space[..n].copy_from_slice(&self.inbox[from..from + n]);
            intake.filled(peer, n);
            self.opened.start += n;
            total += n;
        }
        Ok(total)
    }

    /// Opens the next record, if all of it is here.
    fn open(&mut self) -> Result<bool, String> {
        let waiting = &mut self.inbox[self.sealed.clone()];
        let Some(length) = waiting.first_chunk::<LENGTH>() else {
            return Ok(false);
        };
        let opened = match self.seals.opener.length(*length) {
            Ok(whole) if waiting.len() < whole => return Ok(false),
            Ok(whole) => {
                let opened = self.seals.opener.open(&mut waiting[..whole]);
                opened.map(|plain| (whole, plain.len()))
            }
            Err(reason) => Err(reason),
        };
        let (whole, plain) = opened.inspect_err(|_| self.forged = true)?;
        let from = self.sealed.start + LENGTH;
        self.opened = from..from + plain;
        self.sealed.start += whole;
        Ok(true)
    }

    /// Reads more; none if there is nothing now, else whether there was less than there is room for.
    /// Nothing may be opened.
    fn fill(&mut self, stream: &mut TcpStream) -> Result<Option<bool>, String> {
        if self.sealed.is_empty() {
            self.sealed = 0..0;
        } else if self.inbox.len() - self.sealed.start < LONGEST {
            // At most a part of one record.
            let have = self.sealed.len();
            self.inbox.copy_within(self.sealed.clone(), 0);
            self.sealed = 0..have;
        }
        let room = &mut self.inbox[self.sealed.end..];
        match stream.read(room) {
            Ok(0) if self.sealed.is_empty() => Err("its process ended or closed the link".into()),
            Ok(0) => Err("the connection was cut inside of a record".into()),
            Ok(n) => {
                let all = n < room.len();
                self.sealed.end += n;
                Ok(Some(all))
            }
            Err(e) if would_block(&e) => Ok(None),
            Err(e) => Err(format!("connection broke while receiving: {e}")),
        }
    }
}
