//! Connections to a status port: few at once, and none that is silent for long.
//!
//! Nobody is asked here who they are, so anybody who reaches the port could hold it. The newest always comes
//! in, since it may be kubelet's: where as many are open as may be, the oldest ends.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

/// Pause after the system could not accept: it lacks file descriptors or memory.
const BREATH: Duration = Duration::from_millis(100);

/// How much of a status port its callers may take up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections that may be open.
    pub(crate) connections: usize,
    /// How long one may send nothing. Longer than Prometheus pauses between two scrapes.
    pub(crate) silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            silence: Duration::from_secs(150),
        }
    }
}

/// Connections as they come.
pub(crate) struct Guests {
    listener: TcpListener,
    limits: Limits,
    /// What keeps each open connection open, the oldest first.
    open: VecDeque<oneshot::Sender<()>>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Guests {
    pub(crate) fn new(listener: TcpListener, limits: Limits) -> Self {
        Self {
            listener,
            limits,
            open: VecDeque::new(),
            pause: None,
        }
    }

    fn welcome(&mut self, stream: TcpStream) -> Guest {
        // Without it small answers wait for others; a connection that can't have it is broken anyway.
        let _ = stream.set_nodelay(true);
        self.open.retain(|guest| !guest.is_closed());
        if self.open.len() >= self.limits.connections.max(1) {
            drop(self.open.pop_front());
        }
        let (open, end) = oneshot::channel();
        self.open.push_back(open);
        Guest {
            stream,
            end,
            over: false,
            silence: self.limits.silence,
            deadline: Box::pin(sleep(self.limits.silence)),
        }
    }
}

impl Stream for Guests {
    type Item = io::Result<Guest>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            match ready!(this.listener.poll_accept(cx)) {
                Ok((stream, _)) => return Poll::Ready(Some(Ok(this.welcome(stream)))),
                // An error would end the port, which may be well again.
                Err(error) => {
                    tracing::debug!("the status port can't accept a connection: {error}");
                    this.pause = Some(Box::pin(sleep(BREATH)));
                }
            }
        }
    }
}

/// One connection.
pub(crate) struct Guest {
    stream: TcpStream,
    /// Completes when another one needs the place.
    end: oneshot::Receiver<()>,
    over: bool,
    silence: Duration,
    deadline: Pin<Box<Sleep>>,
}

impl Guest {
    /// Whether it had to make room.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        // Once it has completed it must not be asked again.
        if !self.over {
            self.over = Pin::new(&mut self.end).poll(cx).is_ready();
        }
        self.over
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_over(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, buffer) {
            this.deadline.as_mut().reset(Instant::now() + this.silence);
            return Poll::Ready(read);
        }
        ready!(this.deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Connected for Guest {
    type ConnectInfo = <TcpStream as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_stream::StreamExt;

    async fn port(connections: usize, silence: Duration) -> Guests {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let limits = Limits {
            connections,
            silence,
        };
        Guests::new(listener, limits)
    }

    async fn visit(guests: &mut Guests) -> (TcpStream, Guest) {
        let address = guests.listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let guest = guests.next().await.unwrap().unwrap();
        (client, guest)
    }

    async fn hears(guest: &mut Guest) -> io::Result<usize> {
        guest.read(&mut [0; 16]).await
    }

    // Promise: a port that is full lets in the newest and ends the oldest, and who has gone takes no place.
    #[tokio::test]
    async fn the_newest_comes_in() {
        let mut guests = port(2, Duration::from_secs(60)).await;
        drop(visit(&mut guests).await);
        let (_first, mut oldest) = visit(&mut guests).await;
        let (mut second, mut younger) = visit(&mut guests).await;
        second.write_all(b"x").await.unwrap();
        assert_eq!(hears(&mut younger).await.unwrap(), 1);
        let (mut third, mut newest) = visit(&mut guests).await;
        let error = hears(&mut oldest).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        for (client, guest) in [(&mut second, &mut younger), (&mut third, &mut newest)] {
            client.write_all(b"x").await.unwrap();
            assert_eq!(hears(guest).await.unwrap(), 1);
        }
    }

    // Promise: who is silent for too long is cut, and who speaks has its time again.
    #[tokio::test]
    async fn silence_is_cut() {
        let mut guests = port(2, Duration::from_millis(200)).await;
        let (mut client, mut guest) = visit(&mut guests).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(hears(&mut guest).await.unwrap(), 1);
        let error = hears(&mut guest).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
