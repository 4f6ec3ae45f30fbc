//! Who asks: the status port, `/metrics` on the main one, a collector of spans.

use super::Metrics;
use crate::config::Config;
use crate::role::{Gate, Role};
use crate::serve::{Error, local_address};
use espalier_core::Time;
use espalier_telemetry::status::{self, StatusError, Subject};
use espalier_telemetry::{Format, Traces};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic_health::server::HealthReporter;

/// Now, as the machine counts time.
fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.unwrap_or_default().as_millis();
    Time(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// What the status port and `/metrics` ask.
pub(crate) struct Status {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) gate: Gate,
}

impl Subject for Status {
    fn ready(&self) -> Result<(), String> {
        let following = match &*self.gate.0.borrow() {
            Role::Following { leader } => leader.is_some(),
            Role::Leading(..) => false,
        };
        // A follower answers, too: it says who leads.
        match self.gate.lead() {
            Err(error) if !following => Err(error.message),
            _ => Ok(()),
        }
    }

    async fn metrics(&self, format: Format) -> String {
        let figures = match self.gate.lead() {
            // The lead may end while it is asked: then it is told of as the follower that it is.
            Ok(shared) => shared.driver.read(|machine| machine.figures(now())).await,
            Err(error) => Err(error),
        };
        self.metrics.render(figures.ok().as_ref(), format)
    }
}

/// Serves the status port if there is to be one; answers its address.
pub(crate) async fn serve_status(
    config: &Config,
    subject: &Arc<Status>,
    health: &HealthReporter,
    mut ending: watch::Receiver<bool>,
) -> Result<Option<SocketAddr>, Error> {
    let Some(wanted) = config.telemetry.status_listen else {
        return Ok(None);
    };
    let listener = status::bind(wanted).await?;
    let address = listener.local_addr().map_err(|source| StatusError {
        address: wanted,
        source,
    })?;
    let end = async move {
        // An error means that the coordinator was dropped: ends as well.
        let _ = ending.wait_for(|stop| *stop).await;
    };
    let served = status::serve(listener, subject.clone(), health.clone(), end);
    tokio::spawn(async move {
        // Jobs go on without it.
        if let Err(error) = served.await {
            tracing::error!("the status port failed: {error}");
        }
    });
    Ok(Some(address))
}

/// Where spans are sent, if anywhere.
pub(crate) fn traces(config: &Config, listener: &TcpListener) -> Result<Option<Traces>, Error> {
    let Some(endpoint) = &config.telemetry.otlp_endpoint else {
        return Ok(None);
    };
    let instance = match &config.advertise {
        Some(address) => address.clone(),
        None => local_address(config, listener)?.to_string(),
    };
    let traces = Traces::start(endpoint, "espalier-coordinator", &instance)?;
    Ok(Some(traces))
}
