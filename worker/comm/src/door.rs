//! Who is let in: where ranks have a secret, both sides of a connection prove that they know it before
//! either believes anything else that the other says.
//!
//! ```text
//! caller                                  called
//!   Hello{who, to whom, fresh bytes} ->
//!                                         <- Welcome, fresh bytes, proof
//!   proof                            ->
//!   sealed records                  <-->  sealed records
//! ```
//!
//! A proof is about all that was said before it, so none can be given twice, nor to another rank or
//! generation. Without a secret there are neither proofs nor records: bytes travel as they are.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::flight::Flight;
use crate::handshake::{Gate, Hello, Reply, Source};
use crate::seal::{LENGTH, Schedule, Seals, Side, fresh};
use crate::secret::Secret;

/// What a rank knows its peers by, and where it counts those who don't know it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trust<'a> {
    pub(crate) secret: Option<&'a Secret>,
    pub(crate) flight: &'a Flight,
}

/// A connection while ranks join: sealed once both sides have proved who they are.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    seals: Option<Box<Seals>>,
    /// A record that has not come whole.
    sealed: Vec<u8>,
    /// What was in the last record and is not read yet.
    plain: Vec<u8>,
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(crate) enum Turned {
    /// The peer's answer. Nobody has proved that it is the peer's.
    Away(Reply),
    /// Who answered does not know the secret.
    Impostor,
}

impl Wire {
    fn new(stream: TcpStream, seals: Option<Seals>) -> Wire {
        Wire {
            stream,
            seals: seals.map(Box::new),
            sealed: Vec::new(),
            plain: Vec::new(),
        }
    }

    /// The socket and how it is sealed, for what follows.
    pub(crate) fn into_parts(self) -> (TcpStream, Option<Box<Seals>>) {
        (self.stream, self.seals)
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(seals) = &mut self.seals else {
            return self.stream.read(buf);
        };
        while self.plain.is_empty() {
            // Never beyond the record: what follows belongs to whoever gets the socket next.
            let whole = match self.sealed.first_chunk::<LENGTH>() {
                None => LENGTH,
                Some(length) => seals.opener.length(*length).map_err(forged)?,
            };
            let have = self.sealed.len();
            if have == whole && whole > LENGTH {
                let opened = seals.opener.open(&mut self.sealed).map_err(forged)?;
                self.plain.extend_from_slice(opened);
                self.sealed.clear();
                break;
            }
            self.sealed.resize(whole, 0);
            let read = self.stream.read(&mut self.sealed[have..]);
            self.sealed.truncate(have + *read.as_ref().unwrap_or(&0));
            if read? == 0 {
                return Ok(0);
            }
        }
        let n = buf.len().min(self.plain.len());
        buf[..n].copy_from_slice(&self.plain[..n]);
        self.plain.drain(..n);
        Ok(n)
    }
}

impl Write for Wire {
    /// One record a call, at most as long as a record may be.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let Some(seals) = &mut self.seals else {
            return self.stream.write(buf);
        };
        let n = buf.len().min(crate::seal::RECORD);
        if n > 0 {
            let mut record = Vec::new();
            seals.sealer.seal([&buf[..n], &[]], &mut record);
            self.stream.write_all(&record)?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Source for Wire {
    fn patience(&self, time: Duration) -> io::Result<()> {
        self.stream.patience(time)
    }
}

fn forged(reason: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason)
}

/// Introduces this rank to the peer at the other end. The inner result is what came of it.
///
/// # Errors
///
/// The connection broke, or what came was no answer.
pub(crate) fn knock(
    mut stream: TcpStream,
    mut hello: Hello,
    trust: Trust<'_>,
    gate: Gate<'_>,
) -> io::Result<Result<Wire, Turned>> {
    if trust.secret.is_some() {
        hello.fresh = Some(fresh()?);
    }
    let mut said = hello.encode();
    stream.write_all(&said)?;
    let reply = Reply::receive(&mut stream, gate)?;
    if reply != Reply::Welcome {
        return Ok(Err(Turned::Away(reply)));
    }
    let Some(secret) = trust.secret else {
        return Ok(Ok(Wire::new(stream, None)));
    };
    let theirs: [u8; 32] = gate.array(&mut stream)?;
    let proof = gate.array(&mut stream)?;
    said.extend_from_slice(&theirs);
    let schedule = Schedule::new(secret, &said);
    if !schedule.proved(Side::Called, &proof) {
        trust.flight.reject();
        return Ok(Err(Turned::Impostor));
    }
    stream.write_all(&schedule.proof(Side::Caller))?;
    let seals = schedule.seals(Side::Caller, trust.flight.clone());
    Ok(Ok(Wire::new(stream, Some(seals))))
}

/// Lets a caller in whose introduction was found right: welcomes it and, with a secret, has it prove
/// that it knows it.
///
/// # Errors
///
/// The connection broke, or the caller does not know the secret.
pub(crate) fn let_in(
    mut stream: TcpStream,
    hello: &Hello,
    trust: Trust<'_>,
    gate: Gate<'_>,
) -> io::Result<Wire> {
    let mut answer = Reply::Welcome.encode();
    let Some(secret) = trust.secret else {
        stream.write_all(&answer)?;
        return Ok(Wire::new(stream, None));
    };
    let mine = fresh()?;
    let mut said = hello.encode();
    said.extend_from_slice(&mine);
    let schedule = Schedule::new(secret, &said);
    answer.extend_from_slice(&mine);
    answer.extend_from_slice(&schedule.proof(Side::Called));
    stream.write_all(&answer)?;
    let proof = gate.array(&mut stream)?;
    if !schedule.proved(Side::Caller, &proof) {
        trust.flight.reject();
        let Hello {
            from, generation, ..
        } = hello;
        return Err(io::Error::new(
            ErrorKind::PermissionDenied,
            format!(
                "a caller that named itself rank {from} did not prove that it knows the secret of generation {generation}"
            ),
        ));
    }
    let seals = schedule.seals(Side::Called, trust.flight.clone());
    Ok(Wire::new(stream, Some(seals)))
}
