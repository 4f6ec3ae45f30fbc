//! The TCP connection beside every link: liveness, wake-ups and last words.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use crate::seal::{LENGTH, Seals};

/// Why a peer is gone, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Farewell {
    /// The rank that the peer itself blames, if another one.
    pub(crate) culprit: Option<usize>,
    /// In words.
    pub(crate) reason: String,
}

/// Non-blocking control connection to one peer.
#[derive(Debug)]
pub(crate) struct Control {
    stream: TcpStream,
    inbox: Vec<u8>,
    gone: Option<Farewell>,
    /// It is gone because the peer ended the connection: nothing was noticed elsewhere.
    ended: bool,
    /// Where ranks have a secret.
    sealed: Option<Box<Sealed>>,
}

/// How a control connection is sealed.
#[derive(Debug)]
struct Sealed {
    seals: Box<Seals>,
    /// Records, and a part of one, that have come.
    arrived: Vec<u8>,
    /// What of a record the kernel had no room for.
    leaving: Vec<u8>,
}

const WAKE: u8 = b'w';
const BYE: u8 = b'g';
/// BYE, culprit (u32, `NOBODY` for none), length of the reason (u16).
const BYE_BYTES: usize = 7;
/// Most bytes of a reason.
const MOST_WORDS: usize = 1000;
const NOBODY: u32 = u32::MAX;

impl Control {
    /// Takes over a connected socket, and how it is sealed.
    pub(crate) fn new(
        (stream, seals): (TcpStream, Option<Box<Seals>>),
    ) -> std::io::Result<Control> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        // A peer whose whole machine vanished never closes: probe after 5 s, give up 6 s later.
        // (Reading then fails, which counts as gone.) The deadline would notice too, only later.
        let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
        let _ = rustix::net::sockopt::set_tcp_keepidle(&stream, std::time::Duration::from_secs(5));
        let _ = rustix::net::sockopt::set_tcp_keepintvl(&stream, std::time::Duration::from_secs(2));
        let _ = rustix::net::sockopt::set_tcp_keepcnt(&stream, 3);
        Ok(Control {
            stream,
            inbox: Vec::new(),
            gone: None,
            ended: false,
            sealed: seals.map(|seals| {
                Box::new(Sealed {
                    seals,
                    arrived: Vec::new(),
                    leaving: Vec::new(),
                })
            }),
        })
    }

    /// Readable when the peer woke us, said goodbye or died.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Why the peer is gone; None while it lives.
    pub(crate) fn gone(&self) -> Option<&Farewell> {
        self.gone.as_ref()
    }

    /// Whether the peer itself ended the connection. What it sent on another one before may still be on
    /// its way: the two are not in step.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Records a loss noticed elsewhere, preferring the peer's own last words.
    pub(crate) fn lost(&mut self, reason: &str) {
        self.read();
        if self.gone.is_none() {
            self.gone = Some(Farewell {
                culprit: None,
                reason: reason.to_string(),
            });
        }
    }

    /// Wakes a peer that sleeps on a ring; to any other it is a sign of life.
    pub(crate) fn wake(&mut self) {
        // A full socket holds unread wake-ups, a broken one shows when it is read.
        match &mut self.sealed {
            None => {
                let _ = self.stream.write(&[WAKE]);
            }
            Some(sealed) => {
                if sealed.flush(&mut self.stream) {
                    sealed.send(&mut self.stream, &[WAKE]);
                }
            }
        }
    }

    /// Takes what has arrived: wake-ups (nothing to do), last words, the end. Says whether anything has.
    pub(crate) fn read(&mut self) -> bool {
        let mut chunk = [0u8; 512];
        let mut heard = false;
        while self.gone.is_none() {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.ended = true;
                    self.gone = Some(self.last_words("its process ended or closed the link"));
                }
                Ok(n) => {
                    heard = true;
                    let taken = match &mut self.sealed {
                        None => {
                            self.inbox.extend_from_slice(&chunk[..n]);
                            Ok(())
                        }
                        Some(sealed) => sealed.take(&chunk[..n], &mut self.inbox),
                    };
                    self.skip_wakes();
                    if let Some(reason) = taken.err().or_else(|| self.nonsense()) {
                        // Not its last words: whoever writes here may have made them up.
                        self.gone = Some(Farewell {
                            culprit: None,
                            reason,
                        });
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    // A sign of life that crosses its good-bye makes a reset of its close.
                    self.ended = self.words().is_some();
                    self.gone = Some(self.last_words(&format!("connection broke: {e}")));
                }
            }
        }
        heard
    }

    /// Tells the peer why this rank leaves, and closes. Never blocks.
    pub(crate) fn say_goodbye(&mut self, farewell: &Farewell) {
        let mut end = farewell.reason.len().min(MOST_WORDS);
        while !farewell.reason.is_char_boundary(end) {
            end -= 1;
        }
        let text = &farewell.reason.as_bytes()[..end];
        let culprit = farewell
            .culprit
            .and_then(|c| u32::try_from(c).ok())
            .unwrap_or(NOBODY);
        let mut message = vec![BYE];
        message.extend_from_slice(&culprit.to_le_bytes());
        message.extend_from_slice(&(end as u16).to_le_bytes());
        message.extend_from_slice(text);
        self.read();
        // Best effort: closing alone already tells the peer that this rank is gone.
        match &mut self.sealed {
            None => {
                let _ = self.stream.write_all(&message);
            }
            Some(sealed) => sealed.send(&mut self.stream, &message),
        }
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    fn skip_wakes(&mut self) {
        let wakes = self.inbox.iter().take_while(|&&b| b == WAKE).count();
        self.inbox.drain(..wakes);
    }

    /// What is wrong with what has come, if anything is: the rest would be kept for ever.
    fn nonsense(&self) -> Option<String> {
        let first = *self.inbox.first()?;
        if first != BYE {
            return Some(format!(
                "it broke the protocol: expected a sign of life or a good-bye, found {first:#04x}"
            ));
        }
        let length = self.inbox.get(5..BYE_BYTES);
        let length = length.and_then(|length| <[u8; 2]>::try_from(length).ok());
        let length = length.map_or(0, |length| usize::from(u16::from_le_bytes(length)));
        let longest = length.max(self.inbox.len().saturating_sub(BYE_BYTES));
        (longest > MOST_WORDS).then(|| {
            format!(
                "it broke the protocol: expected a good-bye of at most {MOST_WORDS} bytes, found {longest}"
            )
        })
    }

    /// What it said before it left, if all of that has come.
    fn words(&self) -> Option<Farewell> {
        let head = self.inbox.get(..BYE_BYTES).filter(|h| h[0] == BYE)?;
        let culprit = u32::from_le_bytes(head[1..5].try_into().ok()?);
        let len = usize::from(u16::from_le_bytes(head[5..7].try_into().ok()?));
        let text = self.inbox.get(BYE_BYTES..BYE_BYTES + len)?;
        let culprit = (culprit != NOBODY).then_some(culprit as usize);
        Some(Farewell {
            culprit,
            reason: String::from_utf8_lossy(text).into_owned(),
        })
    }

    fn last_words(&self, otherwise: &str) -> Farewell {
        self.words().unwrap_or_else(|| Farewell {
            culprit: None,
            reason: otherwise.to_string(),
        })
    }
}

impl Sealed {
    /// Sends what is left of earlier records. False if the kernel has no room for all of it.
    fn flush(&mut self, stream: &mut TcpStream) -> bool {
        while !self.leaving.is_empty() {
            match stream.write(&self.leaving) {
                Ok(n) if n > 0 => {
                    self.leaving.drain(..n);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                _ => return false,
            }
        }
        true
    }

    /// Sends a record after what is left of earlier ones, as far as the kernel takes it.
    fn send(&mut self, stream: &mut TcpStream, bytes: &[u8]) {
        self.seals.sealer.seal([bytes, &[]], &mut self.leaving);
        self.flush(stream);
    }

    /// Takes what has arrived and puts what was in whole records into `inbox`.
    fn take(&mut self, bytes: &[u8], inbox: &mut Vec<u8>) -> Result<(), String> {
        self.arrived.extend_from_slice(bytes);
        while let Some(length) = self.arrived.first_chunk::<LENGTH>() {
            let whole = self.seals.opener.length(*length)?;
            if self.arrived.len() < whole {
                break;
            }
            let opened = self.seals.opener.open(&mut self.arrived[..whole])?;
            inbox.extend_from_slice(opened);
            self.arrived.drain(..whole);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// What a peer counts as that sends this and stays.
    fn after(bytes: &[u8]) -> Farewell {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let ours = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (mut theirs, _) = listener.accept().expect("accept");
        let mut control = Control::new((ours, None)).expect("control");
        theirs.write_all(bytes).expect("write");
        while control.gone().is_none() {
            control.read();
        }
        assert!(!control.ended());
        control.gone().cloned().expect("gone")
    }

    // Promise: what is neither a sign of life nor a good-bye of bounded length is a loss at once, and is not
    // kept.
    #[test]
    fn nonsense_is_a_loss() {
        let mut long = vec![BYE];
        long.extend_from_slice(&NOBODY.to_le_bytes());
        long.extend_from_slice(&u16::MAX.to_le_bytes());
        let mut more = vec![WAKE, BYE];
        more.resize(2 + BYE_BYTES + MOST_WORDS, 0);
        for (bytes, words) in [
            (&b"wwx"[..], "found 0x78"),
            (&long[..], "found 65535"),
            (&more[..], "found 1001"),
        ] {
            let Farewell { culprit, reason } = after(bytes);
            assert!(reason.contains(words), "{reason}");
            assert_eq!(culprit, None);
        }
    }

    // Promise: a good-bye of the most words is heard.
    #[test]
    fn a_long_good_bye_is_heard() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let ours = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let theirs = listener.accept().expect("accept").0;
        let mut control = Control::new((ours, None)).expect("control");
        let mut theirs = Control::new((theirs, None)).expect("control");
        theirs.wake();
        theirs.say_goodbye(&Farewell {
            culprit: Some(3),
            reason: "x".repeat(2 * MOST_WORDS),
        });
        while control.gone().is_none() {
            control.read();
        }
        let Farewell { culprit, reason } = control.gone().cloned().expect("gone");
        assert_eq!((culprit, reason.len()), (Some(3), MOST_WORDS));
        assert!(control.ended());
    }
}
