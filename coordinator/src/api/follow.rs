//! Streams that follow a job: its events and progress, its log.
//!
//! Each has a task of its own that reads the newest state when there is news and waits for its
//! client alone. Events are kept by the machine, so a slow client gets all of them late; progress
//! and notices are conflated.

use super::jobs::not_found;
use super::{Answers, Shared, view};
use crate::driver::stopped;
use crate::logs::Line;
use espalier_core::{JobEvent, JobView, Machine};
use espalier_proto::v1::watch_job_response::Update;
use espalier_proto::{ApiError, Wire, time, v1};
use espalier_spec::JobId;
use espalier_spec::report::Progress;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Answers that wait for a slow client.
const BUFFER: usize = 16;
/// Events or lines taken at once.
const CHUNK: usize = 256;

/// What a watcher reads at once.
struct Look {
    ended: bool,
    last: u64,
    events: Vec<JobEvent>,
    progress: Option<Progress>,
}

/// Follows a job's events after `after`, and its progress.
pub(super) fn events(
    shared: &Shared,
    job: &JobView,
    after: u64,
    notices: watch::Receiver<()>,
    permit: OwnedSemaphorePermit,
) -> Answers<v1::WatchJobResponse> {
    let (sender, receiver) = mpsc::channel(BUFFER);
    let (shared, name, uid) = (shared.clone(), job.name.clone(), job.uid.clone());
    tokio::spawn(async move {
        let _permit = permit;
        if let Err(error) = send_events(&shared, name, uid, after, notices, &sender).await {
            // A client that has gone needs no error.
            let _ = sender.send(Err(Status::from(error))).await;
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

async fn send_events(
    shared: &Shared,
    name: JobId,
    uid: String,
    mut after: u64,
    mut notices: watch::Receiver<()>,
    client: &mpsc::Sender<Result<v1::WatchJobResponse, Status>>,
) -> Result<(), ApiError> {
    let mut shown = None;
    let send = async |update| {
        let response = v1::WatchJobResponse {
            update: Some(update),
        };
        client.send(Ok(response)).await.is_ok()
    };
    loop {
        let wanted = (name.clone(), uid.clone());
        let look = shared
            .driver
            .read(move |machine| look(machine, &wanted, after))
            .await?;
        let look = look.ok_or_else(|| not_found(&name))?;
        for event in &look.events {
            after = event.sequence;
            if !send(Update::Event(view::event(event))).await {
                return Ok(());
            }
        }
        if let Some(progress) = &look.progress
            && look.progress != shown
        {
            if !send(Update::Progress(progress.to_wire())).await {
                return Ok(());
            }
            shown = look.progress;
        }
        if after < look.last {
            continue;
        }
        if look.ended || !news(shared, client, &mut notices).await? {
            return Ok(());
        }
    }
}

fn look(machine: &Machine, (name, uid): &(JobId, String), after: u64) -> Option<Look> {
    let job = machine.job(name).filter(|job| job.uid == *uid)?;
    let events = machine.events(name, after)?;
    Some(Look {
        ended: job.state.is_final(),
        last: job.last_sequence,
        events: events.iter().take(CHUNK).cloned().collect(),
        progress: machine.progress(name).cloned(),
    })
}

/// Follows a job's log from its newest `tail` lines on (0: all that are kept); to the end of the
/// job if there are notices, else only to the log's end.
pub(super) async fn logs(
    shared: &Shared,
    job: &JobView,
    tail: u32,
    notices: Option<watch::Receiver<()>>,
    permit: OwnedSemaphorePermit,
) -> Result<Answers<v1::LogLine>, ApiError> {
    let (logs, uid) = (shared.logs.clone(), job.uid.clone());
    let open = tokio::task::spawn_blocking(move || logs.job(&uid)).await;
    let log = open.map_err(|_| stopped())?;
    let count = if tail == 0 {
        usize::MAX
    } else {
        usize::try_from(tail).unwrap_or(usize::MAX)
    };
    let mut from = log.tail(count);
    let mut lines_changed = log.subscribe();
    let (client, receiver) = mpsc::channel(BUFFER);
    let (shared, name, uid) = (shared.clone(), job.name.clone(), job.uid.clone());
    tokio::spawn(async move {
        let _permit = permit;
        let mut notices = notices;
        loop {
            // Asked before the lines are read: lines written before the end are sent.
            let ended = match &notices {
                None => Ok(true),
                Some(_) => {
                    let wanted = (name.clone(), uid.clone());
                    let look = move |machine: &Machine| look(machine, &wanted, u64::MAX);
                    shared
                        .driver
                        .read(look)
                        .await
                        .map(|look| look.is_none_or(|look| look.ended))
                }
            };
            loop {
                let (lines, next) = log.read(from, CHUNK);
                from = next;
                if lines.is_empty() {
                    break;
                }
                for line in lines {
                    if client.send(Ok(wire_line(line))).await.is_err() {
                        return;
                    }
                }
            }
            let more = match (ended, &mut notices) {
                (Err(error), _) => Err(error),
                (Ok(false), Some(notices)) => tokio::select! {
                    more = news(&shared, &client, notices) => more,
                    _ = lines_changed.changed() => Ok(true),
                },
                _ => return,
            };
            match more {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    // A client that has gone needs no error.
                    let _ = client.send(Err(Status::from(error))).await;
                    return;
                }
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

/// Waits for a notice. False: the client has gone. An error: the coordinator stops.
pub(super) async fn news<T>(
    shared: &Shared,
    client: &mpsc::Sender<T>,
    notices: &mut watch::Receiver<()>,
) -> Result<bool, ApiError> {
    let mut stop = shared.stop.clone();
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => Err(stopped()),
        () = client.closed() => Ok(false),
        // The sender lives as long as someone may notify; without it nothing more will come.
        changed = notices.changed() => changed.map(|()| true).map_err(|_| stopped()),
    }
}

fn wire_line(line: Line) -> v1::LogLine {
    v1::LogLine {
        time: Some(time::timestamp(line.time)),
        level: line.level,
        worker: line.worker,
        rank: line.rank,
        text: line.text,
    }
}
