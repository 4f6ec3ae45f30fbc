//! Streams that follow a job: its events and progress, its log.
//!
//! Each has a task of its own that reads the newest state when there is news and waits for its
//! client alone. Events are kept by the machine, so a slow client gets all of them late; progress
//! and notices are conflated. One that takes nothing at all for [`PATIENCE`] is dropped with an
//! error after which it may go on where it was: nothing is kept for it, and its place is free.

use super::jobs::not_found;
use super::{Answers, Shared, view};
use crate::driver::stopped;
use crate::logs::Line;
use espalier_core::{JobEvent, JobView, Machine};
use espalier_proto::v1::watch_job_response::Update;
use espalier_proto::{ApiError, ErrorKind, Wire, time, v1};
use espalier_spec::JobId;
use espalier_spec::report::Progress;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Answers that wait for a slow client.
const BUFFER: usize = 16;
/// Events or lines taken at once.
const CHUNK: usize = 256;

/// How long a client may take no answer while some wait for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What a stream is fed through, and what its client reads.
pub(super) struct Feed<T> {
    pub(super) client: mpsc::Sender<Result<T, Status>>,
    /// Takes the one error that ends the stream; it comes through though answers wait.
    pub(super) fault: mpsc::Sender<Result<T, Status>>,
}

impl<T: Send + 'static> Feed<T> {
    /// A feed, and the stream that it feeds.
    pub(super) fn new() -> (Self, Answers<T>) {
        let (client, answers) = mpsc::channel(BUFFER);
        let (fault, faults) = mpsc::channel(1);
        let answers = ReceiverStream::new(answers).merge(ReceiverStream::new(faults));
        (Self { client, fault }, Box::pin(answers))
    }

    /// Ends the stream with an error.
    pub(super) fn fail(&self, error: ApiError) {
        // A client that has gone needs no error.
        let _ = self.fault.try_send(Err(Status::from(error)));
    }
}

/// Hands an answer to a client. False: it has gone. An error: it took none for `patience`.
pub(super) async fn hand<T>(
    client: &mpsc::Sender<Result<T, Status>>,
    answer: T,
    patience: Duration,
) -> Result<bool, ApiError> {
    match tokio::time::timeout(patience, client.send(Ok(answer))).await {
        Ok(sent) => Ok(sent.is_ok()),
        Err(_) => Err(ApiError::new(
            ErrorKind::Unavailable,
            "SLOW_WATCHER",
            format!(
                "the client took nothing for {patience:?} while news waited; watch again from the                  last event that it got"
            ),
        )),
    }
}

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
    let (feed, answers) = Feed::new();
    let (shared, name, uid) = (shared.clone(), job.name.clone(), job.uid.clone());
    tokio::spawn(async move {
        let _permit = permit;
        let sent = send_events(&shared, name, uid, after, notices, &feed.client).await;
        if let Err(error) = sent {
            feed.fail(error);
        }
    });
    answers
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
        hand(client, response, PATIENCE).await
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
            if !send(Update::Event(view::event(event))).await? {
                return Ok(());
            }
        }
        if let Some(progress) = &look.progress
            && look.progress != shown
        {
            if !send(Update::Progress(progress.to_wire())).await? {
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
    // Not the whole view of the job: its spec and plan may be large, and watchers look often.
    let (_, ended, last) = machine.standing(name).filter(|(own, ..)| own == uid)?;
    let events = machine.events(name, after)?;
    Some(Look {
        ended,
        last,
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
    let (feed, answers) = Feed::new();
    let (shared, name, uid) = (shared.clone(), job.name.clone(), job.uid.clone());
    tokio::spawn(async move {
        let _permit = permit;
        let client = &feed.client;
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
                    match hand(client, wire_line(line), PATIENCE).await {
                        Ok(true) => {}
                        Ok(false) => return,
                        Err(error) => return feed.fail(error),
                    }
                }
            }
            let more = match (ended, &mut notices) {
                (Err(error), _) => Err(error),
                (Ok(false), Some(notices)) => tokio::select! {
                    more = news(&shared, client, notices) => more,
                    _ = lines_changed.changed() => Ok(true),
                },
                _ => return,
            };
            match more {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return feed.fail(error),
            }
        }
    });
    Ok(answers)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    // Promise: a client that takes nothing is dropped with an error that it may resume after, which
    // reaches it though answers wait; no more than the buffer is kept for it.
    #[tokio::test]
    async fn a_client_that_takes_nothing_is_dropped() {
        let (feed, mut answers) = Feed::new();
        let patience = Duration::from_millis(5);
        let mut handed = 0;
        let error = loop {
            match hand(&feed.client, handed, patience).await {
                Ok(true) => handed += 1,
                Ok(false) => panic!("the client is still there"),
                Err(error) => break error,
            }
        };
        assert_eq!(handed, BUFFER);
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert_eq!(error.reason, "SLOW_WATCHER");
        feed.fail(error);
        drop(feed);
        let mut read = Vec::new();
        let status = loop {
            match answers.next().await.unwrap() {
                Ok(number) => read.push(number),
                Err(status) => break status,
            }
        };
        assert_eq!(ApiError::from(&status).reason, "SLOW_WATCHER");
        assert_eq!(read, (0..read.len()).collect::<Vec<_>>());
    }

    // Promise: a client that has gone is noticed at once.
    #[tokio::test]
    async fn a_client_that_has_gone_is_no_error() {
        let (feed, answers) = Feed::new();
        drop(answers);
        assert!(!hand(&feed.client, 1, PATIENCE).await.unwrap());
    }
}
