//! A connection that was let through, and who is at its other end.

use crate::standing::Watched;
use crate::{Identity, Standing};
use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// How long a connection stays open once its certificate holds no longer: those who serve it say so first.
const FAREWELL: Duration = Duration::from_secs(3);

/// Who calls; in the extensions of every request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Where from.
    pub address: SocketAddr,
    /// Whom the certificate names, which was verified; none if it names nobody or there is none.
    pub identity: Option<Identity>,
    /// Whether nobody on the way can read along.
    pub encrypted: bool,
    /// Whether the certificate still holds.
    pub standing: Standing,
}

/// What bytes travel over.
#[derive(Debug)]
pub(crate) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// When a connection ends by itself.
enum End {
    /// Its caller has shown no certificate.
    Never,
    /// When this does: soon after the certificate holds no longer.
    With(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// It has.
    Came,
}

/// A connection to a server. It ends soon after its caller's certificate holds no longer.
pub struct Connection {
    wire: Wire,
    caller: Caller,
    end: End,
    _certificate: Option<Watched>,
    /// Its place among those that may be open.
    _place: OwnedSemaphorePermit,
}

impl Connection {
    pub(crate) fn new(
        wire: Wire,
        caller: Caller,
        certificate: Option<Watched>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let end = certificate.as_ref().map(|certificate| {
            let mut standing = certificate.standing.clone();
            let end: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
                standing.voided().await;
                sleep(FAREWELL).await;
            });
            end
        });
        Self {
            wire,
            caller,
            end: end.map_or(End::Never, End::With),
            _certificate: certificate,
            _place: place,
        }
    }

    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if let End::With(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            self.end = End::Came;
        }
        matches!(self.end, End::Came)
    }

    /// Who calls.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("wire", &self.wire)
            .field("caller", &self.caller)
            .finish_non_exhaustive()
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(cx) {
            let why = "the peer's certificate has ended, or its CA is no longer trusted";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)));
        }
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Wire::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Wire::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Wire::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            Wire::Plain(stream) => stream.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
