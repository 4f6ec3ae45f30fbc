//! What `espalier describe` says of a job's incidents.

use super::heading;
use crate::output::{Cell, Screen, Table, text};
use crate::view::recovery::{cause_name, source_name};
use crate::view::{Job, Recovery};
use std::fmt::Write;

/// Incidents that are shown, the newest.
const SHOWN: usize = 20;

/// The share of time that counted, and the incidents with what each cost; nothing of a job that had none
/// and of which no share is known.
pub(super) fn section(job: &Job, screen: &Screen, out: &mut String) {
    if job.recoveries.is_empty() && job.goodput.is_none() {
        return;
    }
    heading("Recoveries", screen, out);
    if let Some(goodput) = job.goodput {
        let _ = writeln!(
            out,
            "  {:.1} % of the time since it first ran went into steps that counted",
            goodput * 100.0
        );
    }
    let all = &job.recoveries;
    if all.is_empty() {
        return;
    }
    let earlier = all.len().saturating_sub(SHOWN);
    if earlier > 0 {
        let _ = writeln!(
            out,
            "  {earlier} earlier ones are left out; -o json has them"
        );
    }
    out.push_str(&table(&all[earlier..]).render(screen, 2));
    for recovery in &all[earlier..] {
        let reason = text::plain(&recovery.reason);
        let _ = writeln!(out, "  g{}: {reason}", recovery.generation);
    }
}

fn table(recoveries: &[Recovery]) -> Table {
    let mut table = Table::new([
        "GENERATION",
        "AGE",
        "CAUSE",
        "WORKER",
        "FROM",
        "STEP",
        "AGAIN",
        "DETECT",
        "AGREE",
        "CONNECT",
        "RESTORE",
        "FIRST STEP",
        "TOTAL",
    ]);
    for recovery in recoveries {
        let time = |seconds: Option<f64>| {
            Cell::right(seconds.map_or_else(|| "-".to_owned(), text::duration))
        };
        let seconds = &recovery.seconds;
        let worker = match recovery.worker.as_str() {
            "" => "-",
            worker => worker,
        };
        table.row([
            Cell::right(recovery.generation.to_string()),
            Cell::right(text::span(recovery.detected_time.age())),
            Cell::from(cause_name(recovery.cause)),
            Cell::from(worker),
            Cell::from(source_name(recovery.source)),
            Cell::right(recovery.from_step.to_string()),
            Cell::right(recovery.replayed_steps.to_string()),
            time(seconds.detect),
            time(seconds.agree),
            time(seconds.connect),
            time(seconds.restore),
            time(seconds.first_step),
            time(seconds.total),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::recovery::tests::killed;
    use espalier_proto::v1;

    fn shown(job: v1::Job) -> String {
        let job = Job::read(job).expect("readable");
        let screen = Screen {
            terminal: false,
            color: false,
        };
        let mut out = String::new();
        section(&job, &screen, &mut out);
        out
    }

    // Promise: goodput and every incident with its parts are on the page; of a quiet job there is no section.
    #[test]
    fn incidents_are_shown_with_their_parts() {
        assert_eq!(shown(v1::Job::default()), "");
        let text = shown(v1::Job {
            goodput: Some(0.987),
            recoveries: vec![killed()],
            ..v1::Job::default()
        });
        assert!(text.contains("98.7 % of the time"), "{text}");
        let row = text.lines().find(|line| line.contains("failure"));
        let words: Vec<&str> = row.expect("a row").split("  ").collect();
        let words: Vec<&str> = words.into_iter().map(str::trim).collect();
        let words: Vec<&str> = words.into_iter().filter(|w| !w.is_empty()).collect();
        let but_age = [&words[..1], &words[2..]].concat();
        let expected = [
            "2", "failure", "b", "snapshot", "10", "3", "250 ms", "50.0 ms", "120 ms", "80.0 ms",
            "-", "-",
        ];
        assert_eq!(but_age, expected, "{text}");
        assert!(text.ends_with("  g2: worker b was lost\n"), "{text}");
    }

    // Promise: a job with very many incidents still fits on a page, and says what it leaves out.
    #[test]
    fn many_incidents_are_cut() {
        let text = shown(v1::Job {
            recoveries: vec![killed(); 25],
            ..v1::Job::default()
        });
        assert!(text.contains("5 earlier ones are left out"), "{text}");
        assert_eq!(text.matches("worker b was lost").count(), SHOWN);
    }
}
