//! Between the stream's messages and what the agent and its jobs speak of.

use super::host::{Hosted, StartOrder};
use super::report::{Content, Outcome, Report};
use espalier_comm::Secret;
use espalier_proto::v1::worker_message::Message;
use espalier_proto::{Wire, convert, time, v1};
use espalier_spec::plan::Seat;
use espalier_spec::recovery::{HeldSnapshot, Restore};
use espalier_spec::report::{Checkpoint, Failure};
use espalier_spec::{JobId, JobSpec, WorkerId};
use std::time::UNIX_EPOCH;

pub(super) fn message(message: Message) -> v1::WorkerMessage {
    v1::WorkerMessage {
        message: Some(message),
        sequence: 0,
    }
}

/// Writes that a job runs.
pub(super) fn running(job: &str, hosted: &Hosted) -> v1::RunningJob {
    v1::RunningJob {
        job: job.to_owned(),
        job_uid: hosted.uid.clone(),
        generation: hosted.generation.0,
        step: hosted.control.step(),
        ranks: hosted.ranks.iter().map(|rank| rank.0).collect(),
    }
}

/// Reads the job of an order to prepare.
pub(super) fn spec(spec: Option<v1::JobSpec>) -> Result<JobSpec, String> {
    let spec = spec.ok_or_else(|| "the order to prepare has no job".to_owned())?;
    JobSpec::from_wire(spec).map_err(|e| format!("the order to prepare has a bad job: {e}"))
}

/// Name of the directory of a job. Whatever a coordinator says, it leads nowhere else.
pub(super) fn folder(job: &str, uid: &str) -> Result<String, String> {
    let short: String = uid.chars().take(8).collect();
    let folder = format!("{job}-{short}");
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match folder.chars().all(plain) {
        true => Ok(folder),
        false => Err(format!(
            "the order to prepare names the job {job:?} ({uid:?}), expected letters, digits, `-`, `_` and `.`"
        )),
    }
}

pub(super) fn seat(seat: v1::Seat) -> Seat {
    let worker = WorkerId(seat.worker);
    Seat {
        rank: espalier_spec::Rank(seat.rank),
        worker,
        device: seat.device,
    }
}

/// Reads the order to train.
pub(super) fn start(start: v1::Start) -> Result<StartOrder, String> {
    let plan = start
        .plan
        .ok_or_else(|| "the order to start has no plan".to_owned())?;
    let job = JobId(start.job);
    let plan = convert::plan_from_wire(&job, plan).map_err(|e| e.to_string())?;
    let resume = start
        .resume
        .map(Checkpoint::from_wire)
        .transpose()
        .map_err(|e| e.to_string())?;
    let restore = start
        .restore
        .map(Restore::from_wire)
        .transpose()
        .map_err(|e| e.to_string())?;
    let addresses = start.addresses.into_iter().map(Into::into).collect();
    let secret = secret(&start.secret)?;
    Ok(StartOrder {
        plan,
        addresses,
        resume,
        restore,
        secret,
    })
}

/// What ranks are to know each other by; none if they are to speak plain text.
fn secret(bytes: &[u8]) -> Result<Option<Secret>, String> {
    if bytes.is_empty() {
        return Ok(None);
    }
    match Secret::from_slice(bytes) {
        Some(secret) => Ok(Some(secret)),
        None => Err(format!(
            "the order to start has a secret of {} bytes, expected 32 or none",
            bytes.len()
        )),
    }
}

/// Writes what a job says.
pub(super) fn report(report: Report, worker: &str) -> v1::WorkerMessage {
    let job = report.job.0;
    let generation = report.generation.0;
    message(match report.content {
        Content::Prepared {
            addresses,
            profile,
            snapshots,
        } => {
            let address = |a: super::report::Address| v1::PeerAddress {
                rank: a.rank.0,
                address: a.address,
                host_id: a.host_id,
            };
            let addresses = addresses.into_iter().map(address).collect();
            let profile = Some(profile.to_wire());
            let held = |held: HeldSnapshot| v1::HeldSnapshot {
                rank: held.rank.0,
                step: held.step.0,
            };
            let snapshots = snapshots.into_iter().map(held).collect();
            Message::Prepared(v1::Prepared {
                job,
                generation,
                addresses,
                profile,
                snapshots,
            })
        }
        Content::Reached(milestone, step) => Message::Milestone(v1::MilestoneReport {
            job,
            generation,
            milestone: convert::milestone_to_wire(milestone).into(),
            step: step.0,
        }),
        Content::Progress(progress) => {
            let progress = Some(progress.to_wire());
            Message::Progress(v1::ProgressReport {
                job,
                generation,
                progress,
            })
        }
        Content::Evaluation(evaluation) => {
            let evaluation = Some(evaluation.to_wire());
            Message::Evaluation(v1::EvaluationReport {
                job,
                generation,
                evaluation,
            })
        }
        Content::Checkpoint(checkpoint) => {
            let checkpoint = Some(checkpoint.to_wire());
            Message::Checkpoint(v1::CheckpointReport {
                job,
                generation,
                checkpoint,
            })
        }
        Content::Stopped(outcome) => {
            let outcome = match outcome {
                Outcome::Exported(path) => v1::stopped::Outcome::ExportPath(path),
                Outcome::Ordered => v1::stopped::Outcome::Ordered(v1::stopped::StoppedAsOrdered {}),
                Outcome::Failed(failure) => v1::stopped::Outcome::Failure(failure.to_wire()),
            };
            Message::Stopped(v1::Stopped {
                job,
                generation,
                outcome: Some(outcome),
            })
        }
        Content::Log(line) => {
            let since = line.time.duration_since(UNIX_EPOCH).unwrap_or_default();
            let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
            let line = v1::LogLine {
                time: Some(time::timestamp(millis)),
                level: line.level.to_owned(),
                worker: worker.to_owned(),
                rank: line.rank.map(|rank| rank.0),
                text: line.text,
            };
            Message::Logs(v1::LogLines {
                job,
                lines: vec![line],
            })
        }
    })
}

/// Whether two messages are about one job.
pub(super) fn same_job(one: &v1::WorkerMessage, other: &v1::WorkerMessage) -> bool {
    let job = |m: &v1::WorkerMessage| match &m.message {
        Some(Message::Progress(progress)) => Some(progress.job.clone()),
        _ => None,
    };
    job(one).is_some() && job(one) == job(other)
}

pub(super) fn internal(message: String) -> Failure {
    Failure {
        code: "internal".to_owned(),
        message,
        retryable: false,
        lost: None,
    }
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: no order makes a worker write beside its own directory of jobs.
    #[test]
    fn folders_lead_nowhere_else() {
        let uid = "0b5b0f6e-7d0c-4a3e-9d55-0c9d7f1f6a11";
        assert_eq!(folder("news", uid).unwrap(), "news-0b5b0f6e");
        for (job, uid) in [
            ("../news", uid),
            ("a/b", uid),
            ("/etc", uid),
            ("news", "/../../x"),
            ("new\0s", uid),
            ("", "/"),
        ] {
            let error = folder(job, uid).unwrap_err();
            assert!(error.contains("expected"), "{error}");
        }
    }

    // Promise: what is no secret is refused, never taken for the order to speak plain text; an error does not
    // show it.
    #[test]
    fn secrets_are_whole_or_absent() {
        assert_eq!(secret(&[]), Ok(None));
        assert_eq!(secret(&[7; 32]), Ok(Some(Secret::new([7; 32]))));
        for len in [1, 31, 33] {
            let error = secret(&vec![7; len]).unwrap_err();
            assert!(error.contains(&format!("{len} bytes")), "{error}");
        }
    }
}
