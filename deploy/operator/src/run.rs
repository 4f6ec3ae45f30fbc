//! Puts the parts together: waits for the lease, works while it holds, ends in order.

use crate::coordinator::{Coordinator, SettingError, TokenFrom};
use crate::health::Health;
use crate::lease::Elector;
use crate::reconcile::{Context, again, reconcile};
use crate::resource::TrainingJob;
use crate::scaler::Scaler;
use crate::settings::Settings;
use crate::watches::Watches;
use espalier_telemetry::Traces;
use espalier_telemetry::status::{self, StatusError};
use espalier_telemetry::trace::TraceError;
use espalier_tls::TlsError;
use futures::StreamExt;
use kube::runtime::controller::{Config, Controller, Error as ControllerError};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::watcher;
use kube::{Api, Client};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;

/// Resources that are worked on at once.
const CONCURRENCY: u16 = 16;

/// Why the operator could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Certificates that can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address that is none.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// No status port.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// Nobody can say any more whether this operator leads.
    #[error(
        "the election of the operator that works has broken off: {0}; it must be started again"
    )]
    Election(#[from] tokio::task::JoinError),
    /// Spans can't be sent.
    #[error(transparent)]
    Trace(#[from] TraceError),
}

/// Works as the operator until `stop` turns true.
///
/// # Errors
/// Certificates, the coordinator's or the collector's address or the status port can't be used, or the
/// election broke off.
pub async fn run(
    settings: &Settings,
    client: Client,
    stop: watch::Receiver<bool>,
) -> Result<(), Error> {
    let token = match &settings.token_file {
        Some(path) => TokenFrom::File(path.clone()),
        None => TokenFrom::Nowhere,
    };
    let coordinator = Coordinator::new(&settings.coordinator, settings.tls.load()?, token)?;
    let health = Arc::new(Health::default());
    if let Some(address) = settings.status_listen {
        let listener = status::bind(address).await?;
        let (reporter, _) = tonic_health::server::health_reporter();
        let serve = status::serve(listener, health.clone(), reporter, ended(stop.clone()));
        tokio::spawn(async move {
            if let Err(error) = serve.await {
                tracing::error!("the status port has failed: {error}");
            }
        });
    }
    let namespace = settings
        .namespace
        .clone()
        .unwrap_or_else(|| client.default_namespace().to_owned());
    let me = identity(settings);
    let traces = match &settings.otlp_endpoint {
        Some(endpoint) => Some(Traces::start(endpoint, "espalier-operator", &me)?),
        None => None,
    };
    let elector = Elector::new(
        client.clone(),
        (&namespace, &settings.lease),
        &me,
        settings.timing,
        health.clone(),
    );
    let (leads, mut leading) = watch::channel(false);
    let election = tokio::spawn(elector.run(leads, stop.clone()));
    loop {
        let leads = tokio::select! {
            leads = becomes(&mut leading, true) => leads,
            () = ended(stop.clone()) => false,
        };
        if !leads {
            break;
        }
        tracing::info!(%me, "leads");
        health.leads(true);
        let watched = (&health, traces.as_ref());
        let working = work(settings, &client, &coordinator, (&namespace, &me), watched);
        // What is under way when it ends is left as it is: the next one sees where it stands.
        let goes_on = tokio::select! {
            () = working => true,
            told = becomes(&mut leading, false) => {
                tracing::warn!(%me, "leads no more");
                told
            }
            () = ended(stop.clone()) => false,
        };
        health.leads(false);
        if !goes_on {
            break;
        }
    }
    tracing::info!("stops");
    // Where it is told to stop it only gives the lease back.
    let elected = election.await;
    if let Some(traces) = traces {
        // It blocks. Spans that can't be sent by now are lost.
        let _ = tokio::task::spawn_blocking(move || traces.end()).await;
    }
    elected?;
    Ok(())
}

/// Works on all resources, and scales the workers, for ever.
async fn work(
    settings: &Settings,
    client: &Client,
    coordinator: &Coordinator,
    (namespace, me): (&str, &str),
    (health, traces): (&Arc<Health>, Option<&Traces>),
) {
    let resources: Api<TrainingJob> = match &settings.watch_namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let (news, heard) = mpsc::unbounded_channel();
    let reporter = Reporter {
        controller: "espalier.dev/operator".to_owned(),
        instance: Some(me.to_owned()),
    };
    let context = Arc::new(Context {
        client: client.clone(),
        coordinator: coordinator.clone(),
        recorder: Recorder::new(client.clone(), reporter),
        watches: Watches::new(coordinator.clone(), news),
        health: health.clone(),
        traces: traces.cloned(),
        devices_per_worker: settings.devices_per_worker,
    });
    let controller = Controller::new(resources, watcher::Config::default())
        .with_config(Config::default().concurrency(CONCURRENCY))
        .reconcile_on(UnboundedReceiverStream::new(heard))
        .run(reconcile, again, context)
        .for_each(|done| {
            match done {
                Ok(_) => {}
                // It has gone while it waited for its turn.
                Err(ControllerError::ObjectNotFound(_)) => {}
                Err(ControllerError::ReconcilerFailed(error, _)) if error.passes() => {}
                Err(error) => {
                    // What failed at a resource was counted there.
                    if !matches!(error, ControllerError::ReconcilerFailed(..)) {
                        health.unseen();
                    }
                    tracing::warn!("{error}");
                }
            }
            std::future::ready(())
        });
    let scaling = async {
        match settings.bounds() {
            None => std::future::pending().await,
            Some(bounds) => {
                let scaler = Scaler::new(
                    client.clone(),
                    (namespace, &settings.worker_set),
                    coordinator.clone(),
                    bounds,
                    settings.devices_per_worker,
                    settings.patience(),
                );
                scaler.run(health).await;
            }
        }
    };
    tokio::select! {
        () = controller => {}
        () = scaling => {}
    }
}

/// Who this operator is: no two at once may be the same.
fn identity(settings: &Settings) -> String {
    let host = || std::env::var("HOSTNAME").unwrap_or_else(|_| "operator".to_owned());
    let name = settings.identity.clone().unwrap_or_else(host);
    format!("{name}_{}", uuid::Uuid::new_v4())
}

/// Waits until a value is this one. False: nobody can say so any more.
async fn becomes(value: &mut watch::Receiver<bool>, wanted: bool) -> bool {
    value.wait_for(|value| *value == wanted).await.is_ok()
}

async fn ended(mut stop: watch::Receiver<bool>) {
    // An error means that whoever could stop it has gone: it ends as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: an operator to whom nobody can say any more that it does not lead does not go on as if it did.
    #[tokio::test]
    async fn nobody_says() {
        let (says, mut leading) = watch::channel(true);
        assert!(becomes(&mut leading, true).await);
        drop(says);
        assert!(!becomes(&mut leading, false).await);
    }
}
