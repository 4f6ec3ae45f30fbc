//! Metrics as text: the classic format of Prometheus, and OpenMetrics for those who ask for it.
//!
//! A scrape is written from beginning to end out of what its owner holds; nothing is registered.

use std::fmt::{Display, Write as _};

/// Form of an answer to a scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Version 0.0.4, which everything reads.
    #[default]
    Classic,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The form for an `Accept` header.
    #[must_use]
    pub fn accepted(accept: Option<&str>) -> Self {
        match accept {
            Some(text) if text.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Classic,
        }
    }

    /// What the answer says that it is.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// How often values fell below each of some bounds, and their sum.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: the last has no end.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// Seconds, from calls that take a millisecond to those that take half a minute.
    pub const SECONDS: &'static [f64] = &[
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    ];

    /// An empty one; bounds must grow.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    /// Takes a value in; what is no number is left out.
    pub fn observe(&mut self, value: f64) {
        if value.is_nan() {
            return;
        }
        let place = self.bounds.iter().position(|bound| value <= *bound);
        self.counts[place.unwrap_or(self.bounds.len())] += 1;
        self.sum += value;
    }

    /// Values so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new(Self::SECONDS)
    }
}

/// Labels of a sample: names are ours, values anything.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// The text of one scrape.
#[derive(Debug)]
pub struct Text {
    format: Format,
    out: String,
}

impl Text {
    /// An empty one.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            format,
            out: String::with_capacity(16 << 10),
        }
    }

    /// Begins a counter; its samples' name gets `_total` behind it.
    pub fn counter(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "_total", "counter", help)
    }

    /// Begins a gauge.
    pub fn gauge(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "", "gauge", help)
    }

    /// Begins a histogram.
    pub fn histogram(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "", "histogram", help)
    }

    /// Writes facts, as labels of one sample named with `_info` behind it.
    pub fn info(&mut self, name: &str, help: &str, labels: Labels<'_>) {
        self.family(name, "_info", "info", help).sample(labels, 1);
    }

    fn family(&mut self, name: &str, suffix: &str, kind: &str, help: &str) -> Family<'_> {
        let sample = format!("{name}{suffix}");
        let (named, kind) = match (self.format, kind) {
            (Format::OpenMetrics, kind) => (name, kind),
            // The classic format knows no facts.
            (Format::Classic, "info") => (sample.as_str(), "gauge"),
            (Format::Classic, kind) => (sample.as_str(), kind),
        };
        // Writing to a String can't fail.
        let _ = writeln!(self.out, "# HELP {named} {}", escaped(help, false));
        let _ = writeln!(self.out, "# TYPE {named} {kind}");
        Family {
            out: &mut self.out,
            name: sample,
        }
    }

    /// The text.
    #[must_use]
    pub fn end(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }
}

/// The samples of one metric.
#[derive(Debug)]
pub struct Family<'a> {
    out: &'a mut String,
    name: String,
}

impl Family<'_> {
    /// Writes a whole number.
    pub fn sample(&mut self, labels: Labels<'_>, value: u64) -> &mut Self {
        self.write("", labels, None, &value);
        self
    }

    /// Writes a number.
    pub fn number(&mut self, labels: Labels<'_>, value: f64) -> &mut Self {
        self.write("", labels, None, &shown(value));
        self
    }

    /// Writes a histogram.
    pub fn buckets(&mut self, labels: Labels<'_>, histogram: &Histogram) -> &mut Self {
        let mut below = 0;
        for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
            below += count;
            self.write("_bucket", labels, Some(&shown(*bound)), &below);
        }
        let all = histogram.count();
        self.write("_bucket", labels, Some("+Inf"), &all);
        self.write("_sum", labels, None, &shown(histogram.sum));
        self.write("_count", labels, None, &all);
        self
    }

    fn write(&mut self, suffix: &str, labels: Labels<'_>, le: Option<&str>, value: &dyn Display) {
        let _ = write!(self.out, "{}{suffix}", self.name);
        let le = le.map(|bound| ("le", bound));
        let mut before = '{';
        for (name, value) in labels.iter().copied().chain(le) {
            let _ = write!(self.out, "{before}{name}=\"{}\"", escaped(value, true));
            before = ',';
        }
        let close = if before == ',' { "}" } else { "" };
        let _ = writeln!(self.out, "{close} {value}");
    }
}

fn shown(value: f64) -> String {
    match value {
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        // Also what is no number: "NaN" in both.
        value => value.to_string(),
    }
}

fn escaped(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes {
        text.replace('"', "\\\"")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(format: Format) -> String {
        let mut text = Text::new(format);
        text.counter("a_calls", "Calls.")
            .sample(&[("code", "a\"b\\c\nd")], 3);
        text.info("a_build", "Of what.", &[("version", "1")]);
        let mut times = Histogram::new(&[0.5, 2.0]);
        for value in [0.5, 1.0, 7.0, f64::NAN] {
            times.observe(value);
        }
        text.histogram("a_seconds", "Times.").buckets(&[], &times);
        text.gauge("a_ratio", "Share.").number(&[], f64::INFINITY);
        text.end()
    }

    // Promise: both formats are written by the book: `_total` and `_info` on samples, and on their
    // heads where the classic format wants them; buckets add up; values of labels are escaped.
    #[test]
    fn two_formats() {
        let histogram = "# HELP a_seconds Times.\n# TYPE a_seconds histogram\n\
            a_seconds_bucket{le=\"0.5\"} 1\na_seconds_bucket{le=\"2\"} 2\n\
            a_seconds_bucket{le=\"+Inf\"} 3\na_seconds_sum 8.5\na_seconds_count 3\n\
            # HELP a_ratio Share.\n# TYPE a_ratio gauge\na_ratio +Inf\n";
        let samples = "a_calls_total{code=\"a\\\"b\\\\c\\nd\"} 3\n";
        assert_eq!(
            page(Format::Classic),
            format!(
                "# HELP a_calls_total Calls.\n# TYPE a_calls_total counter\n{samples}\
                 # HELP a_build_info Of what.\n# TYPE a_build_info gauge\n\
                 a_build_info{{version=\"1\"}} 1\n{histogram}"
            )
        );
        assert_eq!(
            page(Format::OpenMetrics),
            format!(
                "# HELP a_calls Calls.\n# TYPE a_calls counter\n{samples}\
                 # HELP a_build Of what.\n# TYPE a_build info\n\
                 a_build_info{{version=\"1\"}} 1\n{histogram}# EOF\n"
            )
        );
    }

    // Promise: who asks for nothing gets what everything reads.
    #[test]
    fn formats_are_chosen_by_the_reader() {
        assert_eq!(Format::accepted(None), Format::Classic);
        assert_eq!(Format::accepted(Some("*/*")), Format::Classic);
        let prometheus =
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
        assert_eq!(Format::accepted(Some(prometheus)), Format::OpenMetrics);
    }
}
