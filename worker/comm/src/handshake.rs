//! The first bytes on every connection: who calls, for which job and generation, and the answer.
//! What follows them where ranks have a secret is in `door.rs`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::abort::AbortHandle;
use crate::segment::Offer;

const MAGIC: [u8; 8] = *b"ESPALIER";
/// Raised whenever what follows the magic changes in any way.
const VERSION: u16 = 3;
/// Longest string that is believed.
const MAX_TEXT: usize = 4096;
/// How often a blocked read looks whether it is still wanted.
const TICK: Duration = Duration::from_millis(50);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Control,
    Data,
}

/// The caller's introduction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) purpose: Purpose,
    pub(crate) job: String,
    pub(crate) generation: u64,
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) size: u32,
    /// Counts the caller's attempts: a data connection belongs to the control connection of the
    /// same attempt.
    pub(crate) attempt: u32,
    /// Where ranks have a secret: random bytes, others on each connection.
    pub(crate) fresh: Option<[u8; 32]>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Welcome,
    /// Not now: the answering side is not as far as the caller. Worth another try.
    Later(String),
    /// Never.
    Refused(String),
}

/// What a peer's bytes are read from.
pub(crate) trait Source: Read {
    /// The longest that a read may take.
    fn patience(&self, time: Duration) -> io::Result<()>;
}

impl Source for TcpStream {
    fn patience(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))
    }
}

/// Bytes that are all here.
impl Source for &[u8] {
    fn patience(&self, _time: Duration) -> io::Result<()> {
        Ok(())
    }
}

/// When to stop waiting for the other side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gate<'a> {
    pub(crate) deadline: Instant,
    pub(crate) abort: &'a AbortHandle,
    /// Set when the rendezvous is over, whatever its result.
    pub(crate) over: &'a AtomicBool,
}

impl Gate<'_> {
    pub(crate) fn open(&self) -> bool {
        self.abort.reason().is_none()
            && !self.over.load(Ordering::Relaxed)
            && Instant::now() < self.deadline
    }

    /// Time until the deadline, at most `limit`, at least 1 ms (sockets take no zero).
    pub(crate) fn left(&self, limit: Duration) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        left.min(limit).max(Duration::from_millis(1))
    }

    fn read_exact(&self, stream: &mut impl Source, buf: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            if !self.open() {
                return Err(io::Error::new(ErrorKind::TimedOut, "no answer"));
            }
            stream.patience(self.left(TICK))?;
            match stream.read(&mut buf[done..]) {
                Ok(0) => {
                    return Err(io::Error::new(
                        ErrorKind::UnexpectedEof,
                        "connection closed",
                    ));
                }
                Ok(n) => done += n,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    pub(crate) fn array<const N: usize>(&self, stream: &mut impl Source) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(stream, &mut bytes)?;
        Ok(bytes)
    }

    fn text(&self, stream: &mut impl Source) -> io::Result<String> {
        let len = usize::from(u16::from_le_bytes(self.array(stream)?));
        if len > MAX_TEXT {
            return Err(nonsense(format!(
                "a string of {len} bytes, at most {MAX_TEXT} expected"
            )));
        }
        let mut bytes = vec![0; len];
        self.read_exact(stream, &mut bytes)?;
        String::from_utf8(bytes).map_err(|_| nonsense("a string that is not UTF-8".into()))
    }
}

fn nonsense(found: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, found)
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(&(end as u16).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..end]);
}

impl Hello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.push(match self.purpose {
            Purpose::Control => 0,
            Purpose::Data => 1,
        });
        out.extend_from_slice(&self.generation.to_le_bytes());
        for number in [self.from, self.to, self.size, self.attempt] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        push_text(&mut out, &self.job);
        out.push(u8::from(self.fresh.is_some()));
        if let Some(fresh) = &self.fresh {
            out.extend_from_slice(fresh);
        }
        out
    }

    /// Reads an introduction; `InvalidData` says what is wrong with it.
    pub(crate) fn receive(stream: &mut impl Source, gate: Gate<'_>) -> io::Result<Hello> {
        let magic: [u8; 8] = gate.array(stream)?;
        if magic != MAGIC {
            return Err(nonsense("something that is no espalier rank".into()));
        }
        let version = u16::from_le_bytes(gate.array(stream)?);
        if version != VERSION {
            return Err(nonsense(format!(
                "protocol version {version}, this rank speaks {VERSION}; run the same build everywhere"
            )));
        }
        let purpose = match gate.array(stream)? {
            [0] => Purpose::Control,
            [1] => Purpose::Data,
            [other] => return Err(nonsense(format!("connection purpose {other}"))),
        };
        let generation = u64::from_le_bytes(gate.array(stream)?);
        let mut number = || gate.array(stream).map(u32::from_le_bytes);
        let (from, to, size, attempt) = (number()?, number()?, number()?, number()?);
        let job = gate.text(stream)?;
        let fresh = match gate.array(stream)? {
            [0] => None,
            [1] => Some(gate.array(stream)?),
            [other] => return Err(nonsense(format!("encryption of kind {other}"))),
        };
        Ok(Hello {
            purpose,
            job,
            generation,
            from,
            to,
            size,
            attempt,
            fresh,
        })
    }

    /// The answer of a rank that would introduce itself as `me` (only its
    /// job, generation, size, `from` and whether it encrypts are looked at).
    pub(crate) fn judge(&self, me: &Hello) -> Reply {
        if self.job != me.job {
            // Its name is not for strangers.
            return Reply::Refused(format!(
                "it works on another job than {:?}, the caller's",
                self.job
            ));
        }
        if self.generation < me.generation {
            return Reply::Refused(format!(
                "stale generation: it is at {}, the caller came with {}",
                me.generation, self.generation
            ));
        }
        if self.generation > me.generation {
            return Reply::Later(format!(
                "it is still at generation {}, the caller is at {}",
                me.generation, self.generation
            ));
        }
        let speaks = |fresh: bool| {
            if fresh {
                "encrypts"
            } else {
                "speaks plain text"
            }
        };
        if self.fresh.is_some() != me.fresh.is_some() {
            return Reply::Refused(format!(
                "it {}, the caller {}; all ranks of a generation must have its secret, or none",
                speaks(me.fresh.is_some()),
                speaks(self.fresh.is_some())
            ));
        }
        if self.size != me.size {
            return Reply::Refused(format!(
                "it knows {} ranks, the caller {}",
                me.size, self.size
            ));
        }
        if self.to != me.from {
            return Reply::Refused(format!("it is rank {}, not {}", me.from, self.to));
        }
        if self.from <= me.from || self.from >= me.size {
            return Reply::Refused(format!(
                "rank {} does not call rank {} in a world of {}",
                self.from, me.from, me.size
            ));
        }
        Reply::Welcome
    }
}

impl Reply {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (code, text) = match self {
            Reply::Welcome => (0, ""),
            Reply::Later(text) => (1, text.as_str()),
            Reply::Refused(text) => (2, text.as_str()),
        };
        let mut out = MAGIC.to_vec();
        out.push(code);
        push_text(&mut out, text);
        out
    }

    pub(crate) fn send(&self, stream: &mut impl Write) -> io::Result<()> {
        stream.write_all(&self.encode())
    }

    pub(crate) fn receive(stream: &mut impl Source, gate: Gate<'_>) -> io::Result<Reply> {
        let magic: [u8; 8] = gate.array(stream)?;
        if magic != MAGIC {
            return Err(nonsense(
                "an answer that is not from an espalier rank".into(),
            ));
        }
        let [code] = gate.array(stream)?;
        let text = gate.text(stream)?;
        match code {
            0 => Ok(Reply::Welcome),
            1 => Ok(Reply::Later(text)),
            2 => Ok(Reply::Refused(text)),
            other => Err(nonsense(format!("answer code {other}"))),
        }
    }
}

/// Offers a segment (or none) to the called side.
pub(crate) fn send_offer(stream: &mut impl Write, offer: Option<&Offer>) -> io::Result<()> {
    let mut out = Vec::new();
    push_text(&mut out, offer.map_or("", |o| &o.name));
    out.extend_from_slice(&offer.map_or([0; 16], |o| o.token));
    stream.write_all(&out)
}

/// Reads an offer.
pub(crate) fn receive_offer(stream: &mut impl Source, gate: Gate<'_>) -> io::Result<Option<Offer>> {
    let name = gate.text(stream)?;
    let token = gate.array(stream)?;
    Ok((!name.is_empty()).then_some(Offer { name, token }))
}
