//! Sends what a job's threads log to the coordinator, besides the worker's own log.

use super::report::{Content, Line, Report};
use espalier_spec::{Generation, JobId, Rank};
use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::SystemTime;
use tokio::sync::mpsc::UnboundedSender;
use tracing::field::{Field, Visit};
use tracing::span::EnteredSpan;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Whose log lines a thread writes.
#[derive(Clone, Debug)]
pub struct Author {
    /// The job.
    pub job: JobId,
    /// Its generation.
    pub generation: Generation,
    /// The rank; none for the thread that prepares the job.
    pub rank: Option<Rank>,
    /// Where the lines go.
    pub reports: UnboundedSender<Report>,
}

thread_local! {
    static AUTHOR: RefCell<Option<Author>> = const { RefCell::new(None) };
}

/// Says that everything this thread logs from now on belongs to a job; in the worker's own log as
/// long as what this returns is kept.
#[must_use]
pub fn sign(author: Author) -> EnteredSpan {
    let rank = author.rank.map(|rank| rank.0);
    // At this level, so that no filter takes it from a line that it lets through.
    let span = tracing::error_span!(
        parent: None,
        "job",
        job = author.job.0,
        generation = author.generation.0,
        rank
    );
    AUTHOR.with(|slot| *slot.borrow_mut() = Some(author));
    span.entered()
}

/// The layer that picks up lines of signed threads.
#[derive(Debug, Default)]
pub struct JobLog;

impl<S: Subscriber> Layer<S> for JobLog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        // Only what this program says itself: the object store's own lines hold signed URLs.
        let is_own = event.metadata().target().starts_with("espalier");
        if level > Level::INFO || !is_own {
            return;
        }
        AUTHOR.with(|slot| {
            let Ok(author) = slot.try_borrow() else {
                return;
            };
            let Some(author) = author.as_ref() else {
                return;
            };
            let mut text = Text::default();
            event.record(&mut text);
            let line = Line {
                time: SystemTime::now(),
                level: level.as_str(),
                rank: author.rank,
                text: format!("{}{}", text.message, text.fields),
            };
            let report = Report {
                job: author.job.clone(),
                generation: author.generation,
                content: Content::Log(line),
            };
            // The agent is gone only while the process ends.
            let _ = author.reports.send(report);
        });
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
