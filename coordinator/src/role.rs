//! Whether this coordinator leads, and what it answers if it does not.

use crate::api::Shared;
use espalier_proto::route::{LEADER, NOT_LEADER};
use espalier_proto::{ApiError, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What this coordinator is to its cluster.
pub(crate) enum Role {
    /// It leads: with the parts of its lead, as long as the lease holds (none: for ever).
    Leading(Box<Shared>, Option<Lease>),
    /// Another one leads, or none does.
    Following {
        /// Address of the leader.
        leader: Option<String>,
    },
}

/// Lets calls pass while this coordinator leads.
#[derive(Clone)]
pub(crate) struct Gate(pub(crate) watch::Receiver<Role>);

impl Gate {
    /// The parts of the lead.
    ///
    /// # Errors
    ///
    /// `UNAVAILABLE`: another coordinator leads, its address comes along if it is known; or the
    /// store was not heard of for so long that another one may.
    pub(crate) fn lead(&self) -> Result<Shared, ApiError> {
        match &*self.0.borrow() {
            Role::Leading(shared, lease) if lease.as_ref().is_none_or(Lease::holds) => {
                Ok(Shared::clone(shared))
            }
            Role::Leading(..) => Err(not_leader(
                "this coordinator has lost sight of its store; jobs go on, try again",
            )),
            Role::Following { leader: None } => Err(not_leader(
                "no coordinator leads now; jobs go on, try again in a moment",
            )),
            Role::Following {
                leader: Some(leader),
            } => Err(
                not_leader(&format!("this coordinator does not lead, {leader} does"))
                    .with(LEADER, leader),
            ),
        }
    }
}

fn not_leader(message: &str) -> ApiError {
    ApiError::new(ErrorKind::Unavailable, NOT_LEADER, message)
}

/// How long this process may take itself for the leader: by its own clock, from before it said
/// so last. Whoever takes over waits longer, from after it has seen that.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    base: Instant,
    /// Microseconds after `base`.
    until: Arc<AtomicU64>,
}

impl Lease {
    /// One that holds for `ttl` from `start` on.
    pub(crate) fn new(start: Instant, ttl: Duration) -> Self {
        let lease = Self {
            base: start,
            until: Arc::default(),
        };
        lease.renew(start, ttl);
        lease
    }

    /// Holds for `ttl` from `start` on.
    pub(crate) fn renew(&self, start: Instant, ttl: Duration) {
        let until = micros(start.duration_since(self.base) + ttl);
        self.until.fetch_max(until, Ordering::AcqRel);
    }

    /// Whether it holds now.
    pub(crate) fn holds(&self) -> bool {
        micros(self.base.elapsed()) < self.until.load(Ordering::Acquire)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: a lease ends by itself, and an old sign of life does not shorten it.
    #[test]
    fn leases() {
        let now = Instant::now();
        let lease = Lease::new(now, Duration::ZERO);
        assert!(!lease.holds());
        lease.renew(now, Duration::from_secs(3600));
        lease.renew(now, Duration::ZERO);
        assert!(lease.holds());
    }

    // Promise: who does not lead says who does, for programs too.
    #[test]
    fn followers() {
        let following = |leader: Option<&str>| {
            let leader = leader.map(str::to_owned);
            let (_sender, receiver) = watch::channel(Role::Following { leader });
            Gate(receiver).lead().err().unwrap()
        };
        let error = following(Some("http://b:7443"));
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert_eq!(error.metadata[LEADER], "http://b:7443");
        assert!(error.message.contains("http://b:7443"), "{error}");
        let error = following(None);
        assert_eq!(error.reason, NOT_LEADER);
        assert!(error.metadata.is_empty());
    }
}
