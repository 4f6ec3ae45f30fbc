//! The life of a coordinator among others: follows, is elected, leads, is replaced, follows.
//!
//! A lead begins with reading all that is stored and ends with everything that was made of it: the
//! machine, its streams and its answers. Nothing of a lead that is over can be mistaken for the
//! state of the cluster. Losing the store ends a lead, too: whoever sees it first again takes over.

use crate::api;
use crate::config::Config;
use crate::data_key::Secrets;
use crate::election::{Election, Won};
use crate::etcd::{Etcd, Keys};
use crate::metrics::Metrics;
use crate::role::Role;
use crate::serve::{Error, open};
use crate::store::EtcdStore;
use espalier_telemetry::Traces;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// How long a lead that is over may take to tell workers and watchers.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long a lead may take to end in order when the coordinator is told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// What a coordinator needs to lead.
pub(crate) struct Leadership {
    pub(crate) config: Config,
    pub(crate) election: Election,
    pub(crate) etcd: Etcd,
    pub(crate) keys: Keys,
    /// The cluster's UUID.
    pub(crate) cluster: String,
    /// What ranks know each other by.
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) roles: watch::Sender<Role>,
    pub(crate) health: HealthReporter,
    pub(crate) watches: Arc<Semaphore>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) traces: Option<Traces>,
}

impl Leadership {
    /// Follows and leads in turn until `stop` turns true.
    ///
    /// # Errors
    ///
    /// What is stored makes no sense, or etcd refuses: what no other coordinator could do better.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) -> Result<(), Error> {
        loop {
            let campaign = self.election.campaign(|leader| self.follow(leader));
            let won = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
                won = campaign => won?,
            };
            self.metrics.elected(won.term.unsigned_abs());
            tracing::info!(
                term = won.term,
                "elected to lead the cluster {}",
                self.config.cluster
            );
            let mut hold = tokio::spawn(self.election.clone().hold(won.clone()));
            let (end, ending) = watch::channel(false);
            let mut lead = Box::pin(self.lead(&won, ending));
            let (patience, early) = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => (GRACE, None),
                _ = &mut hold => (FAREWELL, None),
                result = &mut lead => (FAREWELL, Some(result)),
            };
            let stopped = *stop.borrow();
            self.follow(None);
            api::report_health(&self.health, ServingStatus::NotServing).await;
            let result = match early {
                Some(result) => result,
                None => {
                    end.send_replace(true);
                    // One that waits for the store is left to itself: it can't write any more.
                    let over = tokio::time::timeout(patience, &mut lead).await;
                    over.unwrap_or(Ok(()))
                }
            };
            drop(lead);
            hold.abort();
            self.election.resign(won.term).await;
            match result {
                _ if stopped => return Ok(()),
                Ok(()) => tracing::info!(term = won.term, "leads no longer"),
                Err(error) if error.ends_lead() => {
                    tracing::warn!(term = won.term, "leads no longer: {error}; jobs go on");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Another coordinator leads, or none does.
    fn follow(&self, leader: Option<String>) {
        self.roles.send_if_modified(|role| {
            if let Role::Following { leader: known } = role
                && *known == leader
            {
                return false;
            }
            match &leader {
                Some(leader) => tracing::info!("{leader} leads"),
                None => tracing::info!("no coordinator leads"),
            }
            self.metrics.leader_changed();
            *role = Role::Following { leader };
            true
        });
    }

    /// One lead, from reading what is stored to its end.
    async fn lead(&self, won: &Won, ending: watch::Receiver<bool>) -> Result<(), Error> {
        let identity = (won.term, self.cluster.clone());
        let (etcd, keys, runtime) = (self.etcd.clone(), self.keys.clone(), Handle::current());
        let store = move || EtcdStore::open(runtime, etcd, keys, identity);
        let store = tokio::task::spawn_blocking(store).await??;
        let watches = self.watches.clone();
        let told = (self.metrics.clone(), self.traces.clone());
        let secrets = self.secrets.clone();
        let ends = (watches, ending.clone());
        let (driver, shared) = open(&self.config, Box::new(store), secrets, ends, told).await?;
        if *ending.borrow() {
            return Ok(());
        }
        let role = Role::Leading(Box::new(shared), Some(won.lease.clone()));
        self.roles.send_replace(role);
        api::report_health(&self.health, ServingStatus::Serving).await;
        tracing::info!(term = won.term, "leads");
        let driver = driver.bound_by(won.lease.clone());
        driver.run(ending).await.map_err(Error::from)
    }
}
