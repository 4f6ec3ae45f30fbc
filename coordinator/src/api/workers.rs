//! `WorkerService`: one stream per worker, reports in, orders out.

use super::{Answers, Gate, Shared};
use crate::access::{Cut, Object, Principal};
use crate::data_key::Secrets;
use crate::driver::Connection;
use crate::logs::Line;
use crate::store::Lead;
use espalier_core::{ConnId, Event, Hello, Order, Outcome, PeerAddress, RunningJob, StopMode};
use espalier_proto::convert::{self, plan_to_wire};
use espalier_proto::v1::coordinator_message::Message as Outbound;
use espalier_proto::v1::worker_message::Message as Inbound;
use espalier_proto::v1::worker_service_server::WorkerService;
use espalier_proto::{ApiError, ErrorKind, Violations, Wire, time, v1};
use espalier_spec::plan::Profile;
use espalier_spec::recovery::HeldSnapshot;
use espalier_spec::report::{Checkpoint, Evaluation, Failure, Progress};
use espalier_spec::{Generation, JobId, Rank, Step, WorkerId};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tonic::{Request, Response, Status, Streaming};

/// How long a new stream may take to say Hello.
const HELLO: Duration = Duration::from_secs(10);

/// Bytes of a worker's name: as many as a host's may have.
const LONGEST_NAME: usize = 253;

pub(super) struct Workers(pub(super) Gate);

#[tonic::async_trait]
impl WorkerService for Workers {
    type ConnectStream = Answers<v1::CoordinatorMessage>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::WorkerMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        // Before the worker has said anything: it shall go on to the leader at once.
        self.0.lead()?;
        let caller = Principal::of(request.extensions())?;
        let extensions = request.extensions().clone();
        let mut inbound = request.into_inner();
        let hello = first_message(&mut inbound).await?;
        let name = hello.name.clone();
        Object::tell(&extensions, name.as_str());
        caller.may_work_as(name.as_str())?;
        let shared = self.0.lead()?;
        let (lead, secrets) = (shared.lead.clone(), shared.secrets.clone());
        let (connection, orders) = shared.driver.connect(hello).await?;
        let acknowledged = WatchStream::from_changes(connection.acknowledged.clone());
        // Errors of the reader end the stream as the driver's do.
        let (fault, faults) = mpsc::channel(1);
        tokio::spawn(async move {
            let conn = connection.conn;
            let cut = Cut::of(&extensions);
            if let Err(error) = read(&shared, &name, connection, inbound, cut).await {
                tracing::warn!(worker = %name, %conn, "ends a worker's stream: {error}");
                // The worker may have gone already.
                let _ = fault.try_send(Err(error));
            }
            // A coordinator that stops needs not know.
            let _ = shared
                .driver
                .report(Event::WorkerDisconnected { conn })
                .await;
        });
        let orders = ReceiverStream::new(orders);
        let faults = ReceiverStream::new(faults);
        let outbound = orders.merge(faults).map(move |message| {
            let message = message.map(|message| order(message, &lead, &secrets));
            message.map_err(Status::from)
        });
        let acknowledged = acknowledged.map(|sequence| Ok::<_, Status>(acknowledgement(sequence)));
        Ok(Response::new(Box::pin(outbound.merge(acknowledged))))
    }
}

/// Waits for the Hello.
async fn first_message(inbound: &mut Streaming<v1::WorkerMessage>) -> Result<Hello, Status> {
    let refuse =
        |message: &str| ApiError::new(ErrorKind::InvalidArgument, "HELLO_EXPECTED", message);
    let first = tokio::time::timeout(HELLO, inbound.message())
        .await
        .map_err(|_| {
            ApiError::new(
                ErrorKind::DeadlineExceeded,
                "HELLO_EXPECTED",
                format!("no Hello came within {HELLO:?}"),
            )
        })??;
    match first.and_then(|message| message.message) {
        Some(Inbound::Hello(message)) => Ok(hello(message)?),
        Some(_) => Err(refuse("the first message must be Hello").into()),
        None => Err(refuse("the stream ended before Hello").into()),
    }
}

/// Reports what the worker says until its stream or the driver's end of it closes, or it may say no more.
async fn read(
    shared: &Shared,
    worker: &WorkerId,
    mut connection: Connection,
    mut inbound: Streaming<v1::WorkerMessage>,
    mut cut: Cut,
) -> Result<(), ApiError> {
    loop {
        let message = tokio::select! {
            biased;
            _ = &mut connection.ended => return Ok(()),
            error = cut.comes() => return Err(error),
            message = inbound.message() => message,
        };
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(()),
            // Not ours to answer: the connection is lost, or the bytes were no message.
            Err(status) => {
                tracing::info!(%worker, conn = %connection.conn, "a worker's stream broke: {status}");
                return Ok(());
            }
        };
        let (conn, sequence) = (connection.conn, message.sequence);
        match message.message {
            Some(Inbound::Logs(lines)) => keep(shared, worker, lines).await?,
            Some(message) => {
                let event = event(conn, message)?;
                shared.driver.deliver(conn, sequence, event).await?;
            }
            None => {
                return Err(ApiError::field(
                    "message",
                    "is of a kind that this coordinator does not know; run the same version",
                ));
            }
        }
    }
}

/// Keeps log lines of a job that exists.
async fn keep(shared: &Shared, worker: &WorkerId, message: v1::LogLines) -> Result<(), ApiError> {
    let job = JobId(message.job);
    let uid = shared
        .driver
        .read(move |machine| machine.standing(&job).map(|(uid, ..)| uid.to_owned()))
        .await?;
    let Some(uid) = uid else { return Ok(()) };
    let lines = message.lines.into_iter().map(|line| Line {
        time: line.time.as_ref().map_or(0, time::millis),
        level: line.level,
        worker: worker.0.clone(),
        rank: line.rank,
        text: line.text,
    });
    let (logs, lines) = (shared.logs.clone(), lines.collect());
    // Best effort: a log line is never worth a stream.
    let _ = tokio::task::spawn_blocking(move || logs.job(&uid).append(lines)).await;
    Ok(())
}

fn hello(message: v1::Hello) -> Result<Hello, ApiError> {
    if message.name.is_empty() {
        return Err(ApiError::field("hello.name", "is required"));
    }
    let odd = |c: char| c.is_control() || c.is_whitespace();
    if message.name.len() > LONGEST_NAME || message.name.contains(odd) {
        let rule = format!("must be at most {LONGEST_NAME} bytes, without blanks");
        return Err(ApiError::field("hello.name", rule));
    }
    Ok(Hello {
        name: WorkerId(message.name),
        version: message.version,
        host: message.host,
        devices: message.devices,
        instance: message.instance,
        running: running(message.running),
        preempted: message.preempted,
    })
}

fn running(jobs: Vec<v1::RunningJob>) -> Vec<RunningJob> {
    let running = |job: v1::RunningJob| RunningJob {
        job: JobId(job.job),
        uid: job.job_uid,
        generation: Generation(job.generation),
        step: Step(job.step),
        ranks: job.ranks.into_iter().map(Rank).collect(),
    };
    jobs.into_iter().map(running).collect()
}

/// A message after the Hello as an event. Errors: a part is missing or makes no sense.
fn event(conn: ConnId, message: Inbound) -> Result<Event, ApiError> {
    Ok(match message {
        Inbound::Hello(_) => {
            return Err(ApiError::new(
                ErrorKind::InvalidArgument,
                "HELLO_REPEATED",
                "Hello is the first message of a stream and comes only once",
            ));
        }
        Inbound::Heartbeat(m) => Event::Heartbeat {
            conn,
            running: running(m.running),
        },
        Inbound::Prepared(m) => Event::Prepared {
            conn,
            job: JobId(m.job),
            generation: Generation(m.generation),
            addresses: m.addresses.into_iter().map(address).collect(),
            profile: part::<Profile>(m.profile, "prepared.profile")?,
            snapshots: m.snapshots.into_iter().map(held).collect(),
        },
        Inbound::Milestone(m) => Event::Reached {
            conn,
            milestone: convert::milestone(m.milestone())
                .ok_or_else(|| ApiError::field("milestone.milestone", "is required"))?,
            job: JobId(m.job),
            generation: Generation(m.generation),
            step: Step(m.step),
        },
        Inbound::Progress(m) => Event::Progress {
            conn,
            job: JobId(m.job),
            generation: Generation(m.generation),
            progress: part::<Progress>(m.progress, "progress.progress")?,
        },
        Inbound::Evaluation(m) => Event::Evaluated {
            conn,
            job: JobId(m.job),
            generation: Generation(m.generation),
            evaluation: part::<Evaluation>(m.evaluation, "evaluation.evaluation")?,
        },
        Inbound::Checkpoint(m) => Event::Checkpointed {
            conn,
            job: JobId(m.job),
            generation: Generation(m.generation),
            checkpoint: part::<Checkpoint>(m.checkpoint, "checkpoint.checkpoint")?,
        },
        Inbound::Stopped(m) => Event::Stopped {
            conn,
            job: JobId(m.job),
            generation: Generation(m.generation),
            outcome: outcome(m.outcome)?,
        },
        Inbound::Goodbye(m) => Event::Goodbye {
            conn,
            reason: m.reason,
        },
        Inbound::Logs(_) => {
            return Err(ApiError::new(
                ErrorKind::Internal,
                "ODD_MESSAGE",
                "logs are no event",
            ));
        }
    })
}

fn outcome(outcome: Option<v1::stopped::Outcome>) -> Result<Outcome, ApiError> {
    use v1::stopped::Outcome as Wired;
    match outcome {
        Some(Wired::ExportPath(path)) => Ok(Outcome::Exported(path)),
        Some(Wired::Ordered(_)) => Ok(Outcome::Ordered),
        Some(Wired::Failure(failure)) => Ok(Outcome::Failure(part::<Failure>(
            Some(failure),
            "stopped.failure",
        )?)),
        None => Err(ApiError::field("stopped.outcome", "is required")),
    }
}

/// A required part of a message; violations carry its path.
fn part<T: Wire>(message: Option<T::Message>, path: &str) -> Result<T, ApiError> {
    let message = message.ok_or_else(|| ApiError::field(path, "is required"))?;
    T::from_wire(message).map_err(|violations| {
        let mut violations = violations.0;
        for violation in &mut violations {
            violation.field = format!("{path}.{}", violation.field);
        }
        Violations(violations).into()
    })
}

fn held(held: v1::HeldSnapshot) -> HeldSnapshot {
    HeldSnapshot {
        rank: Rank(held.rank),
        step: Step(held.step),
    }
}

fn address(address: v1::PeerAddress) -> PeerAddress {
    PeerAddress {
        rank: Rank(address.rank),
        address: address.address,
        host_id: address.host_id,
    }
}

fn acknowledgement(sequence: u64) -> v1::CoordinatorMessage {
    let acknowledged = v1::Acknowledged { sequence };
    v1::CoordinatorMessage {
        message: Some(Outbound::Acknowledged(acknowledged)),
    }
}

fn order(order: Order, lead: &Lead, secrets: &Secrets) -> v1::CoordinatorMessage {
    let message = match order {
        Order::Welcome {
            heartbeat_interval_ms,
        } => Outbound::Welcome(v1::Welcome {
            heartbeat_interval: Some(time::duration(heartbeat_interval_ms as f64 / 1000.0)),
            term: lead.term,
            cluster: lead.cluster.clone(),
            acknowledges: true,
        }),
        Order::Prepare {
            job,
            uid,
            generation,
            spec,
            seats,
            spare,
        } => Outbound::Prepare(v1::Prepare {
            job: job.0,
            job_uid: uid,
            generation: generation.0,
            spec: Some(spec.to_wire()),
            seats: seats.iter().map(Wire::to_wire).collect(),
            spare,
        }),
        Order::Start {
            job,
            uid,
            generation,
            plan,
            addresses,
            resume,
            restore,
        } => Outbound::Start(v1::Start {
            job: job.0,
            generation: generation.0,
            secret: secrets.of(&uid, generation, &addresses),
            plan: Some(plan_to_wire(&plan)),
            addresses: addresses
                .into_iter()
                .map(|peer| v1::PeerAddress {
                    rank: peer.rank.0,
                    address: peer.address,
                    host_id: peer.host_id,
                })
                .collect(),
            resume: resume.as_ref().map(Wire::to_wire),
            restore: restore.as_ref().map(Wire::to_wire),
        }),
        Order::Stop {
            job,
            generation,
            mode,
        } => {
            let mode = match mode {
                StopMode::Checkpoint => v1::stop::Mode::Checkpoint,
                StopMode::Handover => v1::stop::Mode::Handover,
                StopMode::Abort => v1::stop::Mode::Abort,
            };
            Outbound::Stop(v1::Stop {
                job: job.0,
                generation: generation.0,
                mode: mode.into(),
            })
        }
    };
    v1::CoordinatorMessage {
        message: Some(message),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    // Promise: a worker's name is short and can be printed, whoever has chosen it.
    #[test]
    fn odd_names_are_refused() {
        let named = |name: &str| v1::Hello {
            name: name.to_owned(),
            ..v1::Hello::default()
        };
        assert_eq!(hello(named("gpu-1.rack")).unwrap().name.0, "gpu-1.rack");
        let long = "a".repeat(LONGEST_NAME + 1);
        for odd in ["", "a b", "a\nb", &long] {
            let error = hello(named(odd)).unwrap_err();
            assert_eq!(error.violations[0].field, "hello.name", "{odd:?}");
        }
    }
}
