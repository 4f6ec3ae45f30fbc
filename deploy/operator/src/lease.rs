//! Which of several operators works: the one that holds a `Lease` of Kubernetes.
//!
//! As Kubernetes' own controllers do it: the holder renews the lease every [`Timing::retry`] and stops working
//! if it could not for [`Timing::renew`]; another takes it over when it has seen no renewal for
//! [`Timing::lease`]. How long ago a renewal was is told by the own clock since it was seen, so that clocks
//! need not agree. Every write names the version that it is based on: of two, one gets a conflict.

use crate::health::Health;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::core::ObjectMeta;
use kube::{Api, Client, Error};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// How long a lease lasts, and how it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Without a renewal for so long, it is anybody's.
    pub lease: Duration,
    /// A holder that could not renew it for so long stops working; less than `lease`.
    pub renew: Duration,
    /// Pause between two tries.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            renew: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// What a look at the lease says to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It is held: say so again.
    Renew,
    /// It is nobody's: take it.
    Take,
    /// Somebody else's.
    Wait,
}

/// `still`: nobody has renewed it for as long as it lasts.
fn turn(spec: &LeaseSpec, me: &str, still: bool) -> Turn {
    match spec.holder_identity.as_deref() {
        Some(holder) if holder == me => Turn::Renew,
        None | Some("") => Turn::Take,
        Some(_) if still => Turn::Take,
        Some(_) => Turn::Wait,
    }
}

/// Tries to hold the lease.
pub struct Elector {
    leases: Api<Lease>,
    name: String,
    me: String,
    timing: Timing,
    health: Arc<Health>,
    /// The lease as it was last seen, and since when.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Elector {
    /// One that holds nothing yet.
    #[must_use]
    pub fn new(
        client: Client,
        (namespace, name): (&str, &str),
        me: &str,
        timing: Timing,
        health: Arc<Health>,
    ) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            name: name.to_owned(),
            me: me.to_owned(),
            timing,
            health,
            seen: None,
        }
    }

    /// Holds the lease whenever it can, until `stop` turns true; then it gives it back. `leading` says
    /// whether it may be relied on.
    pub async fn run(mut self, leading: watch::Sender<bool>, mut stop: watch::Receiver<bool>) {
        let mut renewed: Option<Instant> = None;
        loop {
            let began = Instant::now();
            // A call that hangs must not outlast what its answer would be about.
            let left = renewed.map_or(self.timing.renew, |at| {
                (at + self.timing.renew).saturating_duration_since(began)
            });
            match timeout(left, self.attempt()).await {
                Ok(Ok(holds)) => {
                    self.health.reached();
                    renewed = holds.then_some(began);
                }
                Ok(Err(error)) => {
                    tracing::warn!(lease = self.name, "can't look after the lease: {error}");
                }
                Err(_) => tracing::warn!(lease = self.name, "the API server does not answer"),
            }
            if renewed.is_some_and(|at| at.elapsed() >= self.timing.renew) {
                renewed = None;
            }
            let holds = renewed.is_some();
            leading.send_if_modified(|before| std::mem::replace(before, holds) != holds);
            tokio::select! {
                () = sleep(self.timing.retry) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        leading.send_replace(false);
        if renewed.is_some() {
            // Where that hangs, it runs out.
            match timeout(self.timing.renew, self.give_back()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(lease = self.name, "can't give the lease back: {error}");
                }
                Err(_) => tracing::warn!(lease = self.name, "the API server does not answer"),
            }
        }
    }

    /// Looks at the lease once and does what there is to do. True: it is held now.
    ///
    /// # Errors
    /// The API server's; where somebody else was faster, that is none.
    pub async fn attempt(&mut self) -> Result<bool, Error> {
        let Some(lease) = self.leases.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.taken(&LeaseSpec::default())),
            };
            let created = self.leases.create(&PostParams::default(), &lease).await;
            return own(created);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let now = Instant::now();
        let since = match &self.seen {
            Some((seen, since)) if *seen == spec => *since,
            _ => {
                self.seen = Some((spec.clone(), now));
                now
            }
        };
        let lasts = spec
            .lease_duration_seconds
            .and_then(|s| u64::try_from(s).ok());
        let lasts = lasts.map_or(self.timing.lease, Duration::from_secs);
        let next = match turn(&spec, &self.me, now - since >= lasts) {
            Turn::Wait => return Ok(false),
            Turn::Take => self.taken(&spec),
            Turn::Renew => {
                let next = LeaseSpec {
                    renew_time: Some(MicroTime(Timestamp::now())),
                    ..spec
                };
                // A conflict here does not say that the lease is another's: the next look does.
                return self.replace(lease, next).await.map(|_| true);
            }
        };
        own(self.replace(lease, next).await)
    }

    async fn give_back(&mut self) -> Result<(), Error> {
        let lease = self.leases.get(&self.name).await?;
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(self.me.as_str()) {
            return Ok(());
        }
        let next = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            ..spec
        };
        self.replace(lease, next).await.map(|_| ())
    }

    async fn replace(&self, mut lease: Lease, spec: LeaseSpec) -> Result<Lease, Error> {
        lease.spec = Some(spec);
        self.leases
            .replace(&self.name, &PostParams::default(), &lease)
            .await
    }

    /// The lease in one's own hands.
    fn taken(&self, before: &LeaseSpec) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        // Whole seconds, and at least one: that is what the API takes.
        let lasts = i32::try_from(self.timing.lease.as_secs()).unwrap_or(i32::MAX);
        let transitions = before.lease_transitions.unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: Some(lasts.max(1)),
            lease_transitions: Some(transitions.saturating_add(1)),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }
}

/// Whether a write came through; somebody who was faster is no error.
fn own(written: Result<Lease, Error>) -> Result<bool, Error> {
    match written {
        Ok(_) => Ok(true),
        Err(Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: Option<&str>) -> LeaseSpec {
        LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            ..LeaseSpec::default()
        }
    }

    // Promise: a lease is taken only from nobody, or from one who was not heard of for as long as it lasts.
    #[test]
    fn turns() {
        assert_eq!(turn(&held_by(None), "a", false), Turn::Take);
        assert_eq!(turn(&held_by(Some("")), "a", false), Turn::Take);
        assert_eq!(turn(&held_by(Some("a")), "a", true), Turn::Renew);
        assert_eq!(turn(&held_by(Some("b")), "a", false), Turn::Wait);
        assert_eq!(turn(&held_by(Some("b")), "a", true), Turn::Take);
    }

    // Promise: who can't renew stops before another may begin.
    #[test]
    fn times() {
        let timing = Timing::default();
        assert!(timing.retry < timing.renew && timing.renew < timing.lease);
    }
}
