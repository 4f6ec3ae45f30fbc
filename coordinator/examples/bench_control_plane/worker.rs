//! A simulated worker: one stream, no ranks behind it.

use anyhow::{Context, bail};
use espalier_coordinator::config::VERSION;
use espalier_proto::time;
use espalier_proto::v1::cluster_service_client::ClusterServiceClient;
use espalier_proto::v1::worker_service_client::WorkerServiceClient;
use espalier_proto::v1::{self, coordinator_message::Message as Order, worker_message::Message};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// What all workers have seen together.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Workers that were welcomed.
    pub(crate) joined: AtomicUsize,
    /// Orders to start.
    pub(crate) started: AtomicUsize,
    /// Whether heartbeats are counted and measured.
    pub(crate) measuring: AtomicBool,
    /// Heartbeats that were counted.
    pub(crate) beats: AtomicUsize,
    /// Microseconds.
    trips: Mutex<Vec<u32>>,
    error: Mutex<String>,
}

impl Seen {
    /// The round trips so far.
    pub(crate) fn taken(&self) -> Vec<u32> {
        std::mem::take(&mut *self.trips.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps why a worker ended.
    pub(crate) fn failed(&self, error: &anyhow::Error) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = format!("{error:#}");
    }

    /// Why the last worker that ended did.
    pub(crate) fn last_error(&self) -> String {
        let error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        match error.as_str() {
            "" => "no worker failed".to_owned(),
            error => error.to_owned(),
        }
    }
}

/// A job that it was given.
struct Given {
    running: v1::RunningJob,
    /// It has rank 0.
    is_head: bool,
    started: bool,
}

/// Joins, then lives until its stream ends. `permit` is given back once it was welcomed.
pub(crate) async fn live(
    name: String,
    index: usize,
    channel: Channel,
    seen: &Arc<Seen>,
    probe_every: usize,
    permit: OwnedSemaphorePermit,
) -> anyhow::Result<()> {
    let (reports, outbound) = mpsc::channel(64);
    let hello = v1::Hello {
        name: name.clone(),
        version: VERSION.into(),
        host: "simulated".into(),
        devices: vec!["cpu".into()],
        running: Vec::new(),
        instance: "first".into(),
        preempted: false,
    };
    say(&reports, Message::Hello(hello)).await?;
    let mut client = WorkerServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
    let stream = client.connect(ReceiverStream::new(outbound)).await;
    let mut orders = stream.with_context(|| name.clone())?.into_inner();
    let first = orders.message().await?.and_then(|message| message.message);
    let Some(Order::Welcome(welcome)) = first else {
        bail!("{name} expected Welcome, got {first:?}");
    };
    let every = welcome
        .heartbeat_interval
        .as_ref()
        .map_or(1.0, time::seconds);
    seen.joined.fetch_add(1, Relaxed);
    drop(permit);
    // Real workers start at different times, too.
    let offset = Duration::from_secs_f64(every * (index % 997) as f64 / 997.0);
    let begin = tokio::time::Instant::now() + offset;
    let mut beats = tokio::time::interval_at(begin, Duration::from_secs_f64(every));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut given, mut beat) = (Vec::<Given>::new(), index);
    loop {
        tokio::select! {
            order = orders.message() => match order?.and_then(|message| message.message) {
                Some(order) => obey(&name, order, &mut given, &reports, seen).await?,
                None => bail!("{name}: the coordinator ended the stream"),
            },
            _ = beats.tick() => {
                beat += 1;
                let measured = seen.measuring.load(Relaxed);
                let sent = Instant::now();
                let running = given.iter().map(|job| job.running.clone()).collect();
                say(&reports, Message::Heartbeat(v1::Heartbeat { running })).await?;
                if measured {
                    seen.beats.fetch_add(1, Relaxed);
                    if beat.is_multiple_of(probe_every) {
                        tokio::spawn(probe(channel.clone(), name.clone(), sent, seen.clone()));
                    }
                }
                for job in given.iter_mut().filter(|job| job.started && job.is_head) {
                    job.running.step += 10;
                    say(&reports, progress(&job.running)).await?;
                }
            }
        }
    }
}

/// Asks for the worker itself, and notes how long ago its heartbeat was sent when the answer is here.
async fn probe(channel: Channel, name: String, sent: Instant, seen: Arc<Seen>) {
    let mut client = ClusterServiceClient::new(channel);
    match client.get_worker(v1::GetWorkerRequest { name }).await {
        Ok(_) => {
            let micros = u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX);
            let mut trips = seen.trips.lock().unwrap_or_else(PoisonError::into_inner);
            trips.push(micros);
        }
        Err(status) => seen.failed(&status.into()),
    }
}

async fn obey(
    name: &str,
    order: Order,
    given: &mut Vec<Given>,
    reports: &mpsc::Sender<v1::WorkerMessage>,
    seen: &Seen,
) -> anyhow::Result<()> {
    match order {
        Order::Welcome(_) | Order::Acknowledged(_) => {}
        Order::Prepare(prepare) => {
            let own = prepare.seats.iter().filter(|seat| seat.worker == name);
            let ranks: Vec<u32> = own.map(|seat| seat.rank).collect();
            let addresses = ranks.iter().map(|rank| v1::PeerAddress {
                rank: *rank,
                address: format!("10.0.0.1:{rank}"),
                host_id: name.to_owned(),
            });
            let prepared = v1::Prepared {
                job: prepare.job.clone(),
                generation: prepare.generation,
                addresses: addresses.collect(),
                profile: Some(profile()),
                snapshots: Vec::new(),
            };
            given.push(Given {
                is_head: ranks.contains(&0),
                running: v1::RunningJob {
                    job: prepare.job,
                    job_uid: prepare.job_uid,
                    generation: prepare.generation,
                    step: 0,
                    ranks,
                },
                started: false,
            });
            say(reports, Message::Prepared(prepared)).await?;
        }
        Order::Start(start) => {
            let job = given.iter_mut().find(|job| {
                job.running.job == start.job && job.running.generation == start.generation
            });
            if let Some(job) = job {
                job.started = true;
                seen.started.fetch_add(1, Relaxed);
            }
        }
        Order::Stop(stop) => {
            given.retain(|job| {
                job.running.job != stop.job || job.running.generation != stop.generation
            });
            let ordered = v1::stopped::StoppedAsOrdered {};
            let stopped = v1::Stopped {
                job: stop.job,
                generation: stop.generation,
                outcome: Some(v1::stopped::Outcome::Ordered(ordered)),
            };
            say(reports, Message::Stopped(stopped)).await?;
        }
    }
    Ok(())
}

async fn say(reports: &mpsc::Sender<v1::WorkerMessage>, message: Message) -> anyhow::Result<()> {
    let message = v1::WorkerMessage {
        message: Some(message),
        sequence: 0,
    };
    reports
        .send(message)
        .await
        .context("the stream takes no more reports")
}

fn progress(running: &v1::RunningJob) -> Message {
    let progress = v1::Progress {
        step: running.step,
        total_steps: 1_000_000_000,
        samples: running.step * 32,
        losses: [("topic".to_owned(), 0.5)].into(),
        ..Default::default()
    };
    Message::Progress(v1::ProgressReport {
        job: running.job.clone(),
        generation: running.generation,
        progress: Some(progress),
    })
}

fn profile() -> v1::Profile {
    v1::Profile {
        blocks: vec![v1::profile::Block {
            name: "layer.0".into(),
            trainable: 1_000_000,
            total: 1_000_000,
        }],
        tasks: vec![v1::profile::TaskCost {
            name: "topic".into(),
            train_samples: 100_000,
            share: 1.0,
            sample_cost: 20.0,
        }],
        fetched: String::new(),
    }
}
