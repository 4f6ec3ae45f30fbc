//! Connections as they come, their handshakes beside each other.

use crate::connection::{Connection, Wire};
use crate::keys::Keys;
use crate::limits::reason;
use crate::standing::{Standing, Watched};
use crate::turned_away::{HANDSHAKE, linger, wants_tls};
use crate::{Caller, Identity, Limits};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Sleep, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;

/// Pause after the system could not accept: it lacks file descriptors or memory.
const BREATH: Duration = Duration::from_millis(100);
/// Least time between two lines about refusals: strangers must not fill the log.
const BETWEEN_LINES: Duration = Duration::from_secs(1);

/// Connections that come to a listener in plain text. Must be called inside a tokio runtime.
#[must_use]
pub fn plain(listener: TcpListener, limits: Limits) -> Incoming {
    Incoming::new(listener, None, limits)
}

/// Connections that were let through. Dropped, it closes the listener and ends handshakes under way.
pub struct Incoming {
    listener: TcpListener,
    door: Arc<Door>,
    places: Arc<Semaphore>,
    /// Each ends with a connection, or with none if it is not let through.
    handshakes: JoinSet<Option<Connection>>,
    /// Those under way, the oldest first.
    under_way: VecDeque<Handshake>,
    pause: Option<Pin<Box<Sleep>>>,
}

/// A handshake under way.
struct Handshake {
    /// Whose it is.
    address: SocketAddr,
    task: AbortHandle,
}

impl Incoming {
    pub(crate) fn new(listener: TcpListener, keys: Option<Arc<Keys>>, limits: Limits) -> Self {
        let places = limits.connections.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            listener,
            places: Arc::new(Semaphore::new(places)),
            door: Arc::new(Door {
                keys,
                limits,
                start: Instant::now(),
                said: AtomicU64::new(0),
                unsaid: AtomicU64::new(0),
            }),
            handshakes: JoinSet::new(),
            under_way: VecDeque::new(),
            pause: None,
        }
    }

    fn begin(&mut self, stream: TcpStream, address: SocketAddr) {
        let door = Arc::clone(&self.door);
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let many = format!("{} connections are open", door.limits.connections);
            return door.refuse(address, reason::CONNECTIONS, &many);
        };
        if let Some(oldest) = self.make_room() {
            let many = format!(
                "{} handshakes are under way, and this one is the oldest",
                door.limits.handshakes
            );
            door.refuse(oldest, reason::HANDSHAKES, &many);
        }
        let handshake = async move { door.admit(stream, address, place).await };
        let task = self.handshakes.spawn(handshake);
        self.under_way.push_back(Handshake { address, task });
    }

    /// Ends the oldest handshake where as many as may be are under way; answers whose it was. A client that
    /// means it needs milliseconds: the oldest is one that only holds its place.
    fn make_room(&mut self) -> Option<SocketAddr> {
        self.under_way
            .retain(|handshake| !handshake.task.is_finished());
        if self.under_way.len() < self.door.limits.handshakes.max(1) {
            return None;
        }
        let oldest = self.under_way.pop_front()?;
        oldest.task.abort();
        Some(oldest.address)
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            while let Poll::Ready(Some(ended)) = this.handshakes.poll_join_next(cx) {
                // One that was aborted or panicked is nobody's connection.
                if let Ok(Some(connection)) = ended {
                    return Poll::Ready(Some(Ok(connection)));
                }
            }
            if let Some(pause) = &mut this.pause {
                if pause.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                this.pause = None;
            }
            match this.listener.poll_accept(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok((stream, address))) => this.begin(stream, address),
                Poll::Ready(Err(error)) if is_the_peers(&error) => {}
                Poll::Ready(Err(error)) => {
                    tracing::warn!("can't accept a connection: {error}");
                    this.pause = Some(Box::pin(sleep(BREATH)));
                }
            }
        }
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("listener", &self.listener)
            .field("limits", &self.door.limits)
            .finish_non_exhaustive()
    }
}

/// Whether a connection failed before it was accepted, and the next one may be well.
fn is_the_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// What handshakes share.
struct Door {
    /// None: plain text.
    keys: Option<Arc<Keys>>,
    limits: Limits,
    start: Instant,
    /// When a refusal was written to the log last, in milliseconds since the start; 0: never.
    said: AtomicU64,
    /// Refusals since then.
    unsaid: AtomicU64,
}

/// Who has got through its handshake.
struct Peer {
    wire: Wire,
    identity: Option<Identity>,
    /// Its certificate, if it has shown one.
    certificate: Option<Watched>,
}

/// Why a connection is not let through.
struct Refusal {
    reason: &'static str,
    detail: String,
}

impl Door {
    async fn admit(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        place: OwnedSemaphorePermit,
    ) -> Option<Connection> {
        let limit = self.limits.handshake_time;
        match tokio::time::timeout(limit, self.shake(stream)).await {
            Ok(Ok(Some(peer))) => {
                let standing = peer.certificate.as_ref().map(|it| it.standing.clone());
                let caller = Caller {
                    address,
                    identity: peer.identity,
                    encrypted: matches!(peer.wire, Wire::Tls(_)),
                    standing: standing.unwrap_or_else(Standing::lasting),
                };
                let connection = Connection::new(peer.wire, caller, peer.certificate, place);
                return Some(connection);
            }
            // It went away; probes do that.
            Ok(Ok(None)) => {}
            Ok(Err(refusal)) => self.refuse(address, refusal.reason, &refusal.detail),
            Err(_) => {
                let late = format!("no handshake within {limit:?}");
                self.refuse(address, reason::SLOW, &late);
            }
        }
        None
    }

    /// The connection and whom its certificate names; none if nothing came over it.
    async fn shake(&self, stream: TcpStream) -> Result<Option<Peer>, Refusal> {
        // Without it small messages wait for others; a connection that can't have it is broken anyway.
        let _ = stream.set_nodelay(true);
        let mut first = [0];
        if !matches!(stream.peek(&mut first).await, Ok(1)) {
            return Ok(None);
        }
        let Some(keys) = &self.keys else {
            return Ok(Some(Peer {
                wire: Wire::Plain(stream),
                identity: None,
                certificate: None,
            }));
        };
        if first != [HANDSHAKE] {
            // If it does not hear the answer, nobody else needs it.
            let _ = wants_tls(stream).await;
            return Err(Refusal {
                reason: reason::PLAIN_TEXT,
                detail: "it speaks plain text; this port speaks TLS".into(),
            });
        }
        let acceptor = TlsAcceptor::from(keys.config(self.limits.reload).await);
        match acceptor.accept(stream).into_fallible().await {
            Ok(stream) => {
                let certificates = stream.get_ref().1.peer_certificates();
                let leaf = certificates.and_then(|chain| chain.first());
                let identity = leaf.and_then(|leaf| Identity::of_certificate(leaf, &keys.domain));
                let shown = certificates.map(<[_]>::to_vec);
                let certificate =
                    shown.map(|chain| Watched::begin(Arc::clone(keys), chain, self.limits.reload));
                Ok(Some(Peer {
                    wire: Wire::Tls(Box::new(stream)),
                    identity,
                    certificate,
                }))
            }
            Err((error, stream)) => {
                // The alert says why; it must arrive.
                let _ = linger(stream).await;
                Err(Refusal {
                    reason: reason::HANDSHAKE,
                    detail: error.to_string(),
                })
            }
        }
    }

    fn refuse(&self, address: SocketAddr, reason: &'static str, detail: &str) {
        self.limits.refused.tell(reason);
        let now = u64::try_from(self.start.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let last = self.said.load(Ordering::Relaxed);
        let soon = last != 0 && now.saturating_sub(last) < BETWEEN_LINES.as_millis() as u64;
        if soon {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.said.store(now, Ordering::Relaxed);
        let unsaid = self.unsaid.swap(0, Ordering::Relaxed);
        tracing::warn!(
            reason,
            unsaid,
            "refused a connection from {address}: {detail}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: the log names the client whose handshake ends, not the one that comes in for it.
    #[tokio::test]
    async fn the_oldest_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits {
            handshakes: 2,
            ..Limits::default()
        };
        let mut incoming = plain(listener, limits);
        let mut silent = Vec::new();
        for _ in 0..2 {
            assert_eq!(incoming.make_room(), None);
            silent.push(TcpStream::connect(address).await.unwrap());
            let (stream, from) = incoming.listener.accept().await.unwrap();
            incoming.begin(stream, from);
        }
        let oldest = silent[0].local_addr().unwrap();
        assert_eq!(incoming.make_room(), Some(oldest));
        assert_eq!(incoming.make_room(), None);
    }
}
