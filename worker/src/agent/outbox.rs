//! What is to be said to the coordinator, and what was said and may not have reached its store.
//!
//! Reports that last are numbered and kept until a coordinator acknowledges them; on the next stream they are
//! sent again, before anything newer. They tell how generations were prepared, how far they came and how they
//! ended, and of evaluations and checkpoints. Progress and log lines are sent once. A coordinator of an older
//! version acknowledges nothing: it is sent everything once.
//!
//! Room is bounded. Beyond it log lines are dropped, oldest first; where there are none, evaluations, checkpoints
//! and milestones; and where there are none of these either, whatever is oldest.

use super::wire;
use espalier_proto::v1;
use espalier_proto::v1::worker_message::Message;
use std::collections::{BTreeMap, VecDeque};

/// Messages that are kept: those that wait and those that are not acknowledged.
const KEPT: usize = 10_000;

/// The messages of one process, over all its streams.
#[derive(Default)]
pub(super) struct Outbox {
    /// Number of the newest report that lasts.
    numbered: u64,
    /// To be sent, in this order.
    waiting: VecDeque<v1::WorkerMessage>,
    /// Sent on the present stream and not acknowledged, in the order of their numbers, which are lower than
    /// those that wait.
    sent: VecDeque<v1::WorkerMessage>,
    /// What ran until the report of this number, which is not acknowledged.
    ended: BTreeMap<u64, v1::RunningJob>,
    /// Whether the coordinator of the present stream acknowledges.
    acknowledges: bool,
    /// Whether it was said that reports are dropped.
    warned: bool,
}

impl Outbox {
    /// Keeps a message, and what it says the end of, if it is one. Of a job's progress only the newest is kept.
    pub(super) fn put(&mut self, mut message: v1::WorkerMessage, ends: Option<v1::RunningJob>) {
        if lasts(&message) {
            self.numbered += 1;
            message.sequence = self.numbered;
            self.ended.extend(ends.map(|ends| (self.numbered, ends)));
        }
        if is_progress(&message) {
            self.waiting
                .retain(|kept| !is_progress(kept) || !wire::same_job(kept, &message));
        }
        if self.sent.len() + self.waiting.len() >= KEPT {
            self.make_room();
        }
        self.waiting.push_back(message);
    }

    /// Drops what is missed least.
    fn make_room(&mut self) {
        let order: [fn(&v1::WorkerMessage) -> bool; 3] = [is_line, is_news, |_| true];
        let mut dropped = None;
        for may_go in order {
            dropped = remove(&mut self.sent, may_go).or_else(|| remove(&mut self.waiting, may_go));
            if dropped.is_some() {
                break;
            }
        }
        let Some(dropped) = dropped else { return };
        self.ended.remove(&dropped.sequence);
        if lasts(&dropped) && !self.warned {
            self.warned = true;
            tracing::warn!(
                kept = KEPT,
                "no coordinator has acknowledged a report for long: the oldest ones are dropped"
            );
        }
    }

    /// A stream begins: what was sent on the one before and not acknowledged comes first again.
    pub(super) fn open(&mut self, acknowledges: bool) {
        self.acknowledges = acknowledges;
        while let Some(message) = self.sent.pop_back() {
            self.waiting.push_front(message);
        }
    }

    /// Whether there is something to send.
    pub(super) fn has_more(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next message to send. One that lasts stays here if it will be acknowledged.
    pub(super) fn take(&mut self) -> Option<v1::WorkerMessage> {
        let message = self.waiting.pop_front()?;
        if self.acknowledges && lasts(&message) {
            self.sent.push_back(message.clone());
        } else {
            self.ended.remove(&message.sequence);
        }
        Some(message)
    }

    /// All reports up to this number are durable.
    pub(super) fn acknowledge(&mut self, sequence: u64) {
        let is_open = |message: &v1::WorkerMessage| !lasts(message) || message.sequence > sequence;
        self.sent.retain(is_open);
        self.waiting.retain(is_open);
        self.ended.retain(|number, _| *number > sequence);
        self.warned = false;
    }

    /// Whether every report that lasts was acknowledged, or sent to a coordinator that does not do so.
    pub(super) fn is_settled(&self) -> bool {
        self.sent.is_empty() && !self.waiting.iter().any(lasts)
    }

    /// What has ended without the coordinator's having said that it knows.
    pub(super) fn ended(&self) -> impl Iterator<Item = &v1::RunningJob> {
        self.ended.values()
    }

    /// Whether a report is on its way that a generation has ended.
    pub(super) fn tells_end(&self, job: &str, generation: u64) -> bool {
        let mut open = self.sent.iter().chain(&self.waiting);
        open.any(|message| match &message.message {
            Some(Message::Stopped(end)) => end.job == job && end.generation == generation,
            _ => false,
        })
    }
}

/// Whether a message is numbered, and kept until it is acknowledged.
fn lasts(message: &v1::WorkerMessage) -> bool {
    let ends = matches!(
        message.message,
        Some(Message::Prepared(_) | Message::Stopped(_))
    );
    ends || is_news(message)
}

/// Whether it is a report that a job goes on without.
fn is_news(message: &v1::WorkerMessage) -> bool {
    matches!(
        message.message,
        Some(Message::Milestone(_) | Message::Evaluation(_) | Message::Checkpoint(_))
    )
}

fn is_progress(message: &v1::WorkerMessage) -> bool {
    matches!(message.message, Some(Message::Progress(_)))
}

fn is_line(message: &v1::WorkerMessage) -> bool {
    matches!(message.message, Some(Message::Logs(_)))
}

/// Takes the first one out that may go.
fn remove(
    from: &mut VecDeque<v1::WorkerMessage>,
    may_go: fn(&v1::WorkerMessage) -> bool,
) -> Option<v1::WorkerMessage> {
    let at = from.iter().position(may_go)?;
    from.remove(at)
}

#[cfg(test)]
mod tests;
