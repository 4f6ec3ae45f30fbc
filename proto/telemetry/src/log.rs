//! The log on standard error: for people, or one JSON object a line.
//!
//! A JSON line holds `timestamp`, `level`, the fields of the spans that it was written in (`job`,
//! `generation`, `rank`), `fields` with its own, `message` among them, and `target`.

use serde_json::{Map, Value};
use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// The layer that writes the log, of what `ESPALIER_LOG` lets through (default: `info`).
#[must_use]
pub fn layer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync + 'static>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let filter = EnvFilter::try_from_env("ESPALIER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Lines of these hold signed URLs.
    let filter = match "object_store=warn".parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            let layer = layer.with_ansi(terminal).with_target(false);
            layer.with_filter(filter).boxed()
        }
        LogFormat::Json => {
            let layer = layer.fmt_fields(JsonFields::new()).event_format(Json);
            layer.with_filter(filter).boxed()
        }
    }
}

/// Writes an event as one JSON object.
#[derive(Debug)]
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let metadata = event.metadata();
        let mut line = Map::new();
        line.insert("timestamp".to_owned(), time.into());
        line.insert("level".to_owned(), metadata.level().as_str().into());
        for span in context
            .event_scope()
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            let extensions = span.extensions();
            // Written by `JsonFields`: an object.
            if let Some(fields) = extensions.get::<FormattedFields<N>>()
                && let Ok(fields) = serde_json::from_str::<Map<String, Value>>(&fields.fields)
            {
                line.extend(fields);
            }
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        line.insert("fields".to_owned(), Value::Object(fields.0));
        line.insert("target".to_owned(), metadata.target().into());
        writeln!(writer, "{}", Value::Object(line))
    }
}

#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::prelude::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    // Promise: a line is one JSON object; it says whose it is by the spans that it was written in, the
    // innermost winning, and keeps its own fields apart.
    #[test]
    fn lines_say_whose_they_are() {
        let sink = Sink::default();
        let own = sink.clone();
        let layer = tracing_subscriber::fmt::layer()
            .fmt_fields(JsonFields::new())
            .event_format(Json)
            .with_writer(move || own.clone());
        let log = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(log, || {
            let _job = tracing::error_span!("job", job = "toy", generation = 1_u64).entered();
            let _rank =
                tracing::error_span!("rank", generation = 2_u64, rank = Some(3_u32)).entered();
            tracing::info!(step = 7_u64, "a \"line\"\nof two");
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["job"], "toy");
        assert_eq!(line["generation"], 2);
        assert_eq!(line["rank"], 3);
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["fields"]["step"], 7);
        assert_eq!(line["fields"]["message"], "a \"line\"\nof two");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{text}");
    }
}
