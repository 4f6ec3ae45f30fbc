//! `espalier-operator`: settings, log, API server, work until a signal.

use clap::{CommandFactory, Parser};
use espalier_operator::settings::{Cli, Settings, Verb};
use espalier_operator::{crd, run};
use std::io::Write;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.verb {
        Verb::Crd => print_definition(),
        Verb::Run(settings) => {
            if let Err(error) = settings.validate() {
                // Exits with 2, like every flag that clap refuses.
                Cli::command()
                    .error(clap::error::ErrorKind::ValueValidation, error)
                    .exit();
            }
            work(&settings)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log is not there where only the definition is printed.
            let _ = writeln!(std::io::stderr(), "espalier-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_definition() -> anyhow::Result<()> {
    let text = crd::yaml()?;
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn work(settings: &Settings) -> anyhow::Result<()> {
    tracing_subscriber::registry()
        .with(espalier_telemetry::log::layer(settings.log_format))
        .init();
    // kube asks the process for its cryptography. An error means that it was said before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (stop, stopping) = watch::channel(false);
        // Before anything is opened: a signal that comes early must not be lost.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop.send_replace(true);
        });
        let client = kube::Client::try_default().await?;
        run::run(settings, client, stopping).await?;
        Ok(())
    })
}
