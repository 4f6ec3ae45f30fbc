//! `espalier affinity` and what `espalier describe` says of it, against a coordinator that knows
//! the answer.

use crate::fake::Fake;
use crate::run::{Run, command, finished};
use espalier_proto::v1;
use std::path::Path;

fn spec(tasks: &[&str]) -> v1::JobSpec {
    let task = |name: &&str| v1::Task {
        name: (*name).to_owned(),
        head: v1::task::Head::SingleLabel.into(),
        data: Some(v1::Data {
            train: vec!["t.csv".to_owned()],
            ..v1::Data::default()
        }),
        ..v1::Task::default()
    };
    v1::JobSpec {
        name: "packages".to_owned(),
        backbone: Some(v1::Backbone {
            path: "minilm".to_owned(),
            ..v1::Backbone::default()
        }),
        tasks: tasks.iter().map(task).collect(),
        ..v1::JobSpec::default()
    }
}

fn affinity() -> v1::Affinity {
    let task = |task: &str, norm, weight| v1::affinity::TaskGradient {
        task: task.to_owned(),
        norm,
        weight,
        steps: 400,
    };
    let pair = |a: &str, b: &str, cosine, deviation, conflicts| v1::affinity::TaskPair {
        a: a.to_owned(),
        b: b.to_owned(),
        cosine,
        deviation,
        conflicts,
        steps: 400,
    };
    v1::Affinity {
        tasks: vec![
            task("section", 1.25, 0.5),
            task("role", 0.75, 0.3),
            task("use", 0.5, 0.2),
        ],
        pairs: vec![
            pair("section", "role", 0.31, 0.12, 0.04),
            pair("section", "use", -0.18, 0.2, 0.8),
            pair("role", "use", 0.01, 0.2, 0.48),
        ],
    }
}

/// A running job of three tasks.
fn job() -> v1::Job {
    v1::Job {
        name: "packages".to_owned(),
        state: v1::job::State::Running.into(),
        state_reason: "trains".to_owned(),
        spec: Some(spec(&["section", "role", "use"])),
        generation: 1,
        plan: Some(v1::Plan {
            generation: 1,
            exchange: Some(v1::ExchangePlan {
                apart: true,
                ..v1::ExchangePlan::default()
            }),
            ..v1::Plan::default()
        }),
        progress: Some(v1::Progress {
            step: 400,
            total_steps: 1000,
            affinity: Some(affinity()),
            exchange: Some(v1::ExchangeStats {
                bytes_sent_per_step: 45_400_000,
                seconds_per_step: 0.04,
                exposed_seconds_per_step: 0.01,
                ..v1::ExchangeStats::default()
            }),
            memory: Some(v1::MemoryStats {
                parameter_bytes: 90_800_000,
                peak_resident_bytes: 900_000_000,
                ..v1::MemoryStats::default()
            }),
            ..v1::Progress::default()
        }),
        ..v1::Job::default()
    }
}

/// Runs the command against a coordinator that knows `job`, on a page of so many columns.
fn ask(job: v1::Job, folder: &Path, columns: &str, args: &[&str]) -> Run {
    let fake = Fake::with(vec![job]);
    let output = command(folder)
        .args(args)
        .args(["--server", &fake.address])
        .env("COLUMNS", columns)
        .output();
    finished(output.expect("espalier starts"))
}

#[test]
fn a_page_shows_map_evidence_and_words() {
    // Promise: heat map, evidence, findings and advice on one page, without colour codes where
    // nobody looks.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = ask(job(), folder.path(), "80", &["affinity", "packages"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let expected = "\
packages: affinity after 400 of 1,000 steps (RUNNING)

        section    role     use
section    ·      +0.31    -0.18
role     +0.31      ·      +0.01
use      -0.18    +0.01      ·

cosine of task gradients: below 0 hurts, above 0 helps

Evidence
  TASK      AND            COSINE   CONFLICTS   STEPS   RELATION
  section   role   +0.310 ± 0.120          4%     400   help each other
  section   use    -0.180 ± 0.200         80%     400   hurt each other
  role      use    +0.010 ± 0.200         48%     400   no clear relation

Tasks
  TASK      GRADIENT NORM   WEIGHT   STEPS
  section          1.2500   0.5000     400
  role             0.7500   0.3000     400
  use              0.5000   0.2000     400

Findings
  - section and role help each other: cosine +0.31 ± 0.12 over 400 steps, 4 % of them in conflict
  - section and use hurt each other: cosine -0.18 ± 0.20 over 400 steps, 80 % of them in conflict
  - role and use: no clear relation: cosine +0.01 ± 0.20 over 400 steps, 48 % of them in conflict

What to try
  - a balancer that settles conflicts, such as `balancer: upgrad`
  - one job for each group of tasks that do not hurt each other: [section, role] [use]
";
    assert_eq!(run.stdout, expected);
}

#[test]
fn a_narrow_terminal_gets_numbers() {
    // Promise: the map keeps within the page.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = ask(job(), folder.path(), "26", &["affinity", "packages"]);
    let map: Vec<&str> = run.stdout.lines().skip(2).take(4).collect();
    assert_eq!(
        map,
        [
            "           1    2    3",
            "1 section  ·   +31  -18",
            "2 role    +31   ·    +1",
            "3 use     -18   +1   ·",
        ],
        "{}",
        run.stderr
    );
}

#[test]
fn data_is_for_programs() {
    // Promise: JSON and YAML hold every pair with its relation, by names.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = ask(
        job(),
        folder.path(),
        "80",
        &["affinity", "packages", "-o", "json"],
    );
    let value: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(value["step"], 400);
    assert_eq!(
        value["pairs"][1],
        serde_json::json!({
            "a": "section", "b": "use", "cosine": -0.18, "deviation": 0.2, "conflicts": 0.8,
            "steps": 400, "relation": "hurt"
        })
    );
    let run = ask(
        job(),
        folder.path(),
        "80",
        &["affinity", "packages", "-o", "yaml"],
    );
    assert!(run.stdout.contains("relation: unclear"), "{}", run.stdout);
}

#[test]
fn pictures_are_written() {
    // Promise: --svg and --png leave files of their kinds and say so; a place that can't be
    // written to is named.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let args = ["affinity", "packages", "--svg", "a.svg", "--png", "a.png"];
    let run = ask(job(), folder.path(), "80", &args);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.stderr, "wrote a.svg\nwrote a.png\n");
    let svg = std::fs::read_to_string(folder.path().join("a.svg")).expect("a file");
    assert!(
        svg.starts_with("<svg ") && svg.contains(">section 1</text>"),
        "{svg}"
    );
    let png = std::fs::read(folder.path().join("a.png")).expect("a file");
    assert_eq!(png[..8], *b"\x89PNG\r\n\x1a\n");
    let args = ["affinity", "packages", "--svg", "no/a.svg"];
    let run = ask(job(), folder.path(), "80", &args);
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.starts_with("error: can't write no/a.svg: "),
        "{}",
        run.stderr
    );
}

#[test]
fn why_there_is_none_is_told() {
    // Promise: without an affinity the answer says why and what would turn it on; exit code 6.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let without = |change: &dyn Fn(&mut v1::Job)| {
        let mut job = job();
        job.progress.as_mut().expect("progress").affinity = None;
        change(&mut job);
        let run = ask(job, folder.path(), "80", &["affinity", "packages"]);
        assert_eq!((run.code, run.stdout.as_str()), (6, ""), "{}", run.stderr);
        run.stderr
    };
    let one = without(&|job| job.spec = Some(spec(&["only"])));
    assert!(
        one.contains("it has one task, and affinity compares tasks"),
        "{one}"
    );
    let off = without(&|job| {
        let mut off = spec(&["a", "b"]);
        off.exchange = Some(v1::Exchange {
            affinity: v1::exchange::Affinity::Off.into(),
            ..v1::Exchange::default()
        });
        job.spec = Some(off);
    });
    assert!(off.contains("`exchange.affinity` is off"), "{off}");
    let together = without(&|job| job.plan.as_mut().expect("a plan").exchange = None);
    assert!(
        together.contains("`balancer: mean` needs no more"),
        "{together}"
    );
    assert!(
        together.contains("hint: submit it with `exchange: {affinity: on}`"),
        "{together}"
    );
    let queued = without(&|job| {
        job.plan = None;
        job.progress = None;
    });
    assert!(queued.contains("it has not started yet"), "{queued}");
    let early = without(&|_| {});
    assert!(early.contains("none was reported by step 400"), "{early}");
}

#[test]
fn a_description_has_it_in_words() {
    // Promise: `describe` says who helps and hurts whom, what to try, and what the exchange costs.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = ask(job(), folder.path(), "80", &["describe", "packages"]);
    let expected = "
Affinity of tasks
  - section and role help each other: cosine +0.31 ± 0.12 over 400 steps, 4 % of them in conflict
  - section and use hurt each other: cosine -0.18 ± 0.20 over 400 steps, 80 % of them in conflict
  - role and use: no clear relation: cosine +0.01 ± 0.20 over 400 steps, 48 % of them in conflict
  to try: a balancer that settles conflicts, such as `balancer: upgrad`
  to try: one job for each group of tasks that do not hurt each other: [section, role] [use]

Exchange
  owners combine, task gradients apart, optimizer state sharded, numbers travel as f32
  rank 0 sends 45.4 MB a step; the exchange takes 40.0 ms, 25 % of it not hidden behind computing

Memory
  rank 0: parameters 90.8 MB (at most 0 B at once), gradients 0 B, optimizer 0 B, buffers of the exchange 0 B
  its process: at most 900.0 MB so far
";
    assert!(
        run.stdout.contains(expected),
        "{}\n{}",
        run.stdout,
        run.stderr
    );
}
