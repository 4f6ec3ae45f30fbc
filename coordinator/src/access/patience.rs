//! Connections that must get on: a client that sends its request a byte a minute holds nothing for long.
//!
//! A connection has some time to begin. Of HTTP/1 each request then has as much from its first byte to
//! the first byte of its answer; between requests, and while an answer is sent, nothing is asked. HTTP/2
//! is left to its own pings once it has begun: a peer that stops in the middle of a frame answers none.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

/// What every connection of HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection that is watched.
#[derive(Debug)]
pub struct Patient<T> {
    inner: T,
    timeout: Duration,
    deadline: Pin<Box<Sleep>>,
    /// Whether the deadline counts.
    armed: bool,
    spoken: Spoken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    /// So many bytes of the preface have come, and nothing else.
    Preface(usize),
    Http1,
    Http2,
}

impl<T> Patient<T> {
    /// Watches a connection that has just come about.
    pub fn new(inner: T, timeout: Duration) -> Self {
        Self {
            inner,
            timeout,
            deadline: Box::pin(tokio::time::sleep(timeout)),
            armed: true,
            spoken: Spoken::Preface(0),
        }
    }

    /// Some bytes have come.
    fn came(&mut self, bytes: &[u8]) {
        if let Spoken::Preface(known) = self.spoken {
            let rest = &PREFACE[known..];
            let length = rest.len().min(bytes.len());
            self.spoken = match rest[..length] == bytes[..length] {
                true if length == rest.len() => Spoken::Http2,
                true => Spoken::Preface(known + length),
                false => Spoken::Http1,
            };
        }
        match self.spoken {
            Spoken::Http2 => self.armed = false,
            // The time since the connection came about counts.
            Spoken::Preface(_) => {}
            Spoken::Http1 if self.armed => {}
            Spoken::Http1 => {
                self.deadline.as_mut().reset(Instant::now() + self.timeout);
                self.armed = true;
            }
        }
    }

    /// Some bytes have gone.
    fn went(&mut self) {
        if self.spoken == Spoken::Http1 {
            self.armed = false;
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.inner).poll_read(cx, buffer) {
            this.came(&buffer.filled()[before..]);
            return Poll::Ready(result);
        }
        if this.armed {
            ready!(this.deadline.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, bytes));
        this.went();
        Poll::Ready(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, parts));
        this.went();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl<T: Connected> Connected for Patient<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    const TIME: Duration = Duration::from_millis(20);

    fn pair() -> (Patient<DuplexStream>, DuplexStream) {
        let (server, client) = duplex(1024);
        (Patient::new(server, TIME), client)
    }

    async fn reads(server: &mut Patient<DuplexStream>) -> io::Result<usize> {
        server.read(&mut [0; 256]).await
    }

    async fn times_out(server: &mut Patient<DuplexStream>) {
        let error = reads(server).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    // Promise: who says nothing, or stops in the middle of what it says, is cut.
    #[tokio::test]
    async fn silence_and_halves_are_cut() {
        let (mut server, _client) = pair();
        times_out(&mut server).await;
        for half in [&b"GET / HT"[..], &b"PRI * HTTP/2.0\r\n"[..]] {
            let (mut server, mut client) = pair();
            client.write_all(half).await.unwrap();
            assert_eq!(reads(&mut server).await.unwrap(), half.len());
            times_out(&mut server).await;
        }
    }

    // Promise: between requests, while an answer goes out, and on HTTP/2 a client may be silent; its next
    // request has its time again.
    #[tokio::test]
    async fn others_may_be_silent() {
        let (mut server, mut client) = pair();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        reads(&mut server).await.unwrap();
        server.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        assert!(
            tokio::time::timeout(TIME * 2, reads(&mut server))
                .await
                .is_err()
        );
        client.write_all(b"G").await.unwrap();
        reads(&mut server).await.unwrap();
        times_out(&mut server).await;

        let (mut server, mut client) = pair();
        client.write_all(PREFACE).await.unwrap();
        reads(&mut server).await.unwrap();
        assert!(
            tokio::time::timeout(TIME * 2, reads(&mut server))
                .await
                .is_err()
        );
    }
}
