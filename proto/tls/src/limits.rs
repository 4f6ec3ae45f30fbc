//! How much strangers may cost a server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Why a connection was not let through; [`Refused`] is told these words.
pub mod reason {
    /// As many connections are open as may be.
    pub const CONNECTIONS: &str = "connections";
    /// Many handshakes were under way, and this one was the oldest.
    pub const HANDSHAKES: &str = "handshakes";
    /// Nothing came, or the handshake was not finished in time.
    pub const SLOW: &str = "handshake_timeout";
    /// The handshake failed: no certificate, a wrong one, or no TLS that this server speaks.
    pub const HANDSHAKE: &str = "handshake";
    /// Plain text came to a port that speaks TLS.
    pub const PLAIN_TEXT: &str = "plain_text";
}

/// Limits of the connections to a server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long a connection may take to say its first word and to finish its handshake.
    pub handshake_time: Duration,
    /// Handshakes that may be under way; one more ends the oldest.
    pub handshakes: usize,
    /// Connections that may be open, those under way included; one more is closed at once.
    pub connections: usize,
    /// How long new certificates on disk may go unnoticed by new connections.
    pub reload: Duration,
    /// Who hears of connections that were not let through.
    pub refused: Refused,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_time: Duration::from_secs(10),
            handshakes: 512,
            connections: 16_384,
            reload: Duration::from_secs(2),
            refused: Refused::default(),
        }
    }
}

/// Somebody who counts refusals.
#[derive(Clone, Default)]
pub struct Refused(Option<Arc<dyn Fn(&'static str) + Send + Sync>>);

impl Refused {
    /// Tells `count` of each refusal, by one of the words in [`reason`].
    pub fn to(count: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(count)))
    }

    pub(crate) fn tell(&self, reason: &'static str) {
        if let Some(count) = &self.0 {
            count(reason);
        }
    }
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Some(_) => "Refused(counted)",
            None => "Refused",
        })
    }
}
