//! How one coordinator process bears a large cluster: simulated workers and watchers over real gRPC.
//!
//! Workers are tasks of this process with a stream each; they share `--connections` TCP connections, since
//! HTTP/2 carries many streams and ports of one address are few. They send heartbeats as often as the
//! coordinator asks for, prepare and start what they are given, and report progress of jobs whose rank 0 they
//! are. The protocol answers no heartbeat, so its round trip is taken as that of a `GetWorker` of the worker's own
//! name, sent right after the heartbeat on the same connection: both wait in the same queue of the driver.
//!
//! Prints one line of JSON and a row of a Markdown table.
#![allow(clippy::print_stdout)] // figures are what it is for

mod process;
mod worker;

use anyhow::{Context, ensure};
use clap::Parser;
use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_proto::{ApiError, v1};
use process::Process;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use worker::Seen;

/// Longest wait for any one thing.
const PATIENCE: Duration = Duration::from_secs(300);
/// Until a watch that nobody reads has filled its buffers with a report a second, and the coordinator's patience
/// of 30 s is over.
const SLOW: Duration = Duration::from_secs(60);
/// Calls of one kind at once.
const AT_ONCE: usize = 64;
/// The job of many ranks.
const WIDE: &str = "wide";

/// Simulated workers, jobs and watchers against one coordinator.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Workers with one rank each
    #[arg(long, default_value_t = 10_000)]
    workers: usize,
    /// Jobs of one rank each
    #[arg(long, default_value_t = 1_000)]
    jobs: usize,
    /// Ranks of one job more
    #[arg(long, default_value_t = 1_000)]
    ranks: usize,
    /// Seconds that are measured
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// TCP connections that workers share
    #[arg(long, default_value_t = 100)]
    connections: usize,
    /// Watches that are read
    #[arg(long, default_value_t = 200)]
    watchers: usize,
    /// Watches that are never read
    #[arg(long, default_value_t = 50)]
    slow_watchers: usize,
    /// One heartbeat in so many is measured
    #[arg(long, default_value_t = 10)]
    probe_every: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(
        args.jobs + args.ranks <= args.workers,
        "--workers {} is less than --jobs {} and --ranks {} together",
        args.workers,
        args.jobs,
        args.ranks
    );
    ensure!(
        args.connections > 0 && args.probe_every > 0,
        "--connections and --probe-every are at least 1"
    );
    process::raise_open_files();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(run(&args))
}

async fn run(args: &Args) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let watches = args.watchers + args.slow_watchers + 16;
    let coordinator = Process::start(folder.path(), watches).await?;
    let measured = measure(args, &coordinator).await;
    measured.with_context(|| process::log(folder.path()))
}

async fn measure(args: &Args, coordinator: &Process) -> anyhow::Result<()> {
    let mut channels = Vec::with_capacity(args.connections);
    for _ in 0..args.connections {
        channels.push(coordinator.endpoint()?.connect().await?);
    }
    let seen = Arc::new(Seen::default());

    let begun = Instant::now();
    let mut workers = join_all(args, &channels, &seen).await?;
    let join_seconds = begun.elapsed().as_secs_f64();
    eprintln!("{} workers joined in {join_seconds:.1} s", args.workers);

    let begun = Instant::now();
    create_jobs(args, &channels, &seen).await?;
    let jobs_seconds = begun.elapsed().as_secs_f64();
    eprintln!("{} jobs run after {jobs_seconds:.1} s", args.jobs);

    let mut readers = JoinSet::new();
    for index in 0..args.watchers {
        let name = format!("job-{}", index % args.jobs.max(1));
        let mut stream = watch(&channels[index % channels.len()], &name).await?;
        readers.spawn(async move {
            let mut read = 0_u64;
            while let Ok(Some(_)) = stream.message().await {
                read += 1;
            }
            read
        });
    }
    let before = coordinator.usage()?;
    let begun = Instant::now();
    seen.measuring.store(true, Relaxed);
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    seen.measuring.store(false, Relaxed);
    let passed = begun.elapsed().as_secs_f64();
    let after = coordinator.usage()?;
    let beats = seen.beats.load(Relaxed) as f64 / passed;
    let mut trips = seen.taken();
    trips.sort_unstable();
    let cpu = (after.cpu_seconds - before.cpu_seconds) / passed;

    let ready = wide(args, &channels, &seen).await?;
    let dropped = slow_watchers(args, coordinator).await?;
    let peak = coordinator.usage()?.peak_mb;
    let lost = workers.try_join_next().is_some();
    let figures = serde_json::json!({
        "workers": args.workers, "jobs": args.jobs, "connections": args.connections,
        "join_seconds": join_seconds, "jobs_seconds": jobs_seconds, "heartbeats_per_second": beats,
        "round_trips": trips.len(), "round_trip_p50_ms": quantile(&trips, 0.5),
        "round_trip_p99_ms": quantile(&trips, 0.99), "cpu_share_of_one_core": cpu,
        "rss_mb": after.rss_mb, "peak_rss_mb": peak, "ranks": args.ranks, "all_running_ms": ready.0,
        "last_start_ms": ready.1, "slow_watchers": args.slow_watchers, "slow_watchers_dropped": dropped,
        "a_stream_was_lost": lost,
    });
    println!("{figures}");
    println!(
        "| workers | jobs | heartbeats/s | round trip p50 / p99, ms | CPU of one core | memory, MB (most) | \
         {} ranks: all prepared / last start, ms | slow watchers dropped |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n\
         | {} | {} | {beats:.0} | {:.2} / {:.2} | {:.0} % | {:.0} ({peak:.0}) | {:.0} / {:.0} | {dropped} of {} |",
        args.ranks,
        args.workers,
        args.jobs,
        quantile(&trips, 0.5),
        quantile(&trips, 0.99),
        100.0 * cpu,
        after.rss_mb,
        ready.0,
        ready.1,
        args.slow_watchers,
    );
    ensure!(
        !lost,
        "a worker's stream ended while it was measured: {}",
        seen.last_error()
    );
    Ok(())
}

/// Starts all workers, some at a time, and waits until the coordinator has welcomed them.
async fn join_all(
    args: &Args,
    channels: &[Channel],
    seen: &Arc<Seen>,
) -> anyhow::Result<JoinSet<()>> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut workers = JoinSet::new();
    for index in 0..args.workers {
        let permit = places.clone().acquire_owned().await?;
        let channel = channels[index % channels.len()].clone();
        let (seen, probe_every) = (seen.clone(), args.probe_every);
        workers.spawn(async move {
            let name = format!("w{index:05}");
            if let Err(error) = worker::live(name, index, channel, &seen, probe_every, permit).await
            {
                seen.failed(&error);
            }
        });
    }
    until("all workers to join", || {
        seen.joined.load(Relaxed) >= args.workers
    })
    .await
    .with_context(|| seen.last_error())?;
    Ok(workers)
}

/// Creates the small jobs and waits until all of them run.
async fn create_jobs(args: &Args, channels: &[Channel], seen: &Arc<Seen>) -> anyhow::Result<()> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut calls = JoinSet::new();
    for index in 0..args.jobs {
        let permit = places.clone().acquire_owned().await?;
        let channel = channels[index % channels.len()].clone();
        calls.spawn(async move {
            let _permit = permit;
            create(channel, &format!("job-{index}"), 1).await
        });
    }
    while let Some(call) = calls.join_next().await {
        call??;
    }
    until("all jobs to run", || {
        seen.started.load(Relaxed) >= args.jobs
    })
    .await
}

/// Milliseconds from the creation of a job of many ranks until all of its workers had prepared it (its event), and
/// until the last of them was told to start.
async fn wide(args: &Args, channels: &[Channel], seen: &Seen) -> anyhow::Result<(f64, f64)> {
    let wanted = seen.started.load(Relaxed) + args.ranks;
    let begun = Instant::now();
    create(channels[0].clone(), WIDE, args.ranks).await?;
    let mut events = watch(&channels[0], WIDE).await?;
    let running = async {
        while let Some(update) = events.message().await? {
            if let Some(v1::watch_job_response::Update::Event(event)) = update.update
                && event.state() == v1::job::State::Running
            {
                return anyhow::Ok(());
            }
        }
        anyhow::bail!("the job of {} ranks ended before it ran", args.ranks)
    };
    tokio::time::timeout(PATIENCE, running).await??;
    let running = begun.elapsed();
    until("all ranks to be started", || {
        seen.started.load(Relaxed) >= wanted
    })
    .await?;
    let millis = |time: Duration| 1000.0 * time.as_secs_f64();
    Ok((millis(running), millis(begun.elapsed())))
}

/// Opens watches that nobody reads, with the smallest window: how many of them end with an error after which they
/// may be taken up again.
async fn slow_watchers(args: &Args, coordinator: &Process) -> anyhow::Result<usize> {
    // One of a kilobyte: the first event with a plan is larger.
    let endpoint = coordinator.endpoint()?.initial_stream_window_size(1024_u32);
    let channel = endpoint
        .initial_connection_window_size(1_u32 << 30)
        .connect()
        .await?;
    let mut streams = Vec::new();
    for _ in 0..args.slow_watchers {
        streams.push(watch(&channel, WIDE).await?);
    }
    // What the job reports meanwhile waits for them.
    tokio::time::sleep(SLOW).await;
    let mut dropped = 0;
    for mut stream in streams {
        let end = async {
            loop {
                match stream.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return false,
                    Err(status) => return ApiError::from(status).reason == "SLOW_WATCHER",
                }
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(2), end).await;
        dropped += usize::from(ended.unwrap_or(false));
    }
    Ok(dropped)
}

async fn watch(channel: &Channel, name: &str) -> anyhow::Result<Streaming<v1::WatchJobResponse>> {
    let request = v1::WatchJobRequest {
        name: name.to_owned(),
        after_sequence: 0,
    };
    let mut client = JobServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
    Ok(client.watch_job(request).await?.into_inner())
}

async fn create(channel: Channel, name: &str, ranks: usize) -> anyhow::Result<()> {
    let ranks = u32::try_from(ranks)?;
    let task = v1::Task {
        name: "topic".into(),
        head: v1::task::Head::SingleLabel.into(),
        data: Some(v1::Data {
            train: vec!["/data/topic.csv".into()],
            ..Default::default()
        }),
        ..Default::default()
    };
    let spec = v1::JobSpec {
        name: name.to_owned(),
        backbone: Some(v1::Backbone {
            path: "/models/small".into(),
            ..Default::default()
        }),
        tasks: vec![task],
        training: Some(v1::Training {
            steps: Some(1_000_000_000),
            batch_size: ranks.max(32),
            ..Default::default()
        }),
        resources: Some(v1::Resources {
            ranks: Some(ranks),
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = v1::CreateJobRequest {
        spec: Some(spec),
        ..Default::default()
    };
    JobServiceClient::new(channel).create_job(request).await?;
    Ok(())
}

/// Looks every few milliseconds, at most for [`PATIENCE`].
async fn until(what: &str, look: impl Fn() -> bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !look() {
        ensure!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Milliseconds that this share of the sorted microseconds does not exceed; NaN of none.
fn quantile(sorted: &[u32], share: f64) -> f64 {
    let place = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(place.saturating_sub(1))
        .map_or(f64::NAN, |micros| f64::from(*micros) / 1000.0)
}

/// How an endpoint of the coordinator is reached.
pub(crate) fn endpoint(address: &str) -> anyhow::Result<Endpoint> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true))
}
