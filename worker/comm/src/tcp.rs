//! A link over one TCP connection.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use crate::flow::{Intake, Outgoing};
use crate::seal::Seals;
use crate::tcp_sealed::SealedLane;

/// Most bytes per call and turn: large enough that system calls don't count, small enough that
/// both directions and all peers get their turn and arriving bytes are combined while in cache.
pub(crate) const TURN: usize = 256 * 1024;

/// Kernel buffers asked for per direction.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// Data connection to one peer, non-blocking.
#[derive(Debug)]
pub(crate) struct TcpLink {
    stream: TcpStream,
    /// Where ranks have a secret.
    sealed: Option<Box<SealedLane>>,
}

impl TcpLink {
    /// Takes over a connected socket, and how it is sealed.
    pub(crate) fn new(
        (stream, seals): (TcpStream, Option<Box<Seals>>),
    ) -> std::io::Result<TcpLink> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        // The kernel grants what it allows; less only costs speed.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&stream, SOCKET_BUFFER);
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&stream, SOCKET_BUFFER);
        let sealed = seals.map(|seals| Box::new(SealedLane::new(seals)));
        Ok(TcpLink { stream, sealed })
    }

    /// Whether something came that the peer has not sent.
    pub(crate) fn forged(&self) -> bool {
        self.sealed.as_ref().is_some_and(|sealed| sealed.forged())
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Sends what fits now. `Err` means that the connection is lost.
    pub(crate) fn send(&mut self, out: &mut Outgoing<'_>) -> Result<usize, String> {
        if let Some(sealed) = &mut self.sealed {
            return sealed.send(&mut self.stream, out);
        }
        let [head, payload] = out.rest();
        let payload = &payload[..payload.len().min(TURN)];
        if head.is_empty() && payload.is_empty() {
            return Ok(0);
        }
        match self
            .stream
            .write_vectored(&[IoSlice::new(head), IoSlice::new(payload)])
        {
            Ok(n) => {
                out.advance(n);
                Ok(n)
            }
            Err(e) if would_block(&e) => Ok(0),
            Err(e) => Err(format!("connection broke while sending: {e}")),
        }
    }

    /// Receives what is there. `Err` means that the connection is lost.
    pub(crate) fn recv(&mut self, peer: usize, intake: &mut dyn Intake) -> Result<usize, String> {
        if let Some(sealed) = &mut self.sealed {
            return sealed.recv(&mut self.stream, peer, intake);
        }
        let mut total = 0;
        while total < TURN && intake.want(peer) > 0 {
            let space = intake.space(peer);
            let len = space.len().min(TURN);
            match self.stream.read(&mut space[..len]) {
                Ok(0) => return Err("its process ended or closed the link".into()),
                Ok(n) => {
                    intake.filled(peer, n);
                    total += n;
                    if n < len {
                        break;
                    }
                }
                Err(e) if would_block(&e) => break,
                Err(e) => return Err(format!("connection broke while receiving: {e}")),
            }
        }
        Ok(total)
    }
}

pub(crate) fn would_block(e: &std::io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
