//! `espalier-coordinator`: settings, log, store, listener, driver, serve, end in order.

use clap::{CommandFactory, Parser};
use espalier_coordinator::config::{Config, VERSION};
use espalier_coordinator::serve::{Error, bind, start_configured, write_ready_file};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::Registry;
use tracing_subscriber::prelude::*;

fn main() -> ExitCode {
    let config = Config::parse();
    if let Err(error) = config.validate() {
        // Exits with 2, like every flag that clap refuses.
        Config::command()
            .error(clap::error::ErrorKind::ValueValidation, error)
            .exit();
    }
    let log = espalier_telemetry::log::layer::<Registry>(config.log_format);
    tracing_subscriber::registry().with(log).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(&config)).map_err(anyhow::Error::from),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: &Config) -> Result<(), Error> {
    // Before anything is opened: a signal that comes early must not be lost.
    let stopped = stop_signal()?;
    let listener = bind(config.listen).await?;
    let coordinator = start_configured(config, listener).await?;
    let address = coordinator.address();
    if let Some(status) = coordinator.status_address() {
        tracing::info!("tells how it is on {status}");
    }
    if let Some(path) = &config.ready_file {
        write_ready_file(path, address)?;
    }
    let asks = config.access.knows_tokens() || config.asks_for_certificates();
    if !address.ip().is_loopback() && !config.encrypts() {
        tracing::warn!("serves plain text to the network: anyone on it can read what is said");
    }
    if !address.ip().is_loopback() && !asks {
        tracing::warn!("asks nobody who they are: anyone who reaches {address} can run jobs");
    }
    let tls = config.tls.is_on();
    tracing::info!(version = VERSION, tls, data_dir = %config.data_dir.display(), "listening on {address}");
    coordinator.serve_until(stopped).await
}

fn stop_signal() -> Result<impl Future<Output = ()>, Error> {
    let listen = |kind| {
        signal(kind).map_err(|source| Error::File {
            path: "signal handler".into(),
            source,
        })
    };
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
