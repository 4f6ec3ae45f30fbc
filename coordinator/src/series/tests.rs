#![allow(clippy::unwrap_used)]

use super::job::Kind;
use super::*;
use std::io::Write;

fn report(step: u64, value: f64) -> Report {
    Report {
        kind: Kind::Progress,
        step,
        figures: vec![("loss/a".into(), value), ("loss/b".into(), -value)],
    }
}

fn evaluation(step: u64, value: f64) -> Report {
    Report {
        kind: Kind::Validation,
        step,
        figures: vec![("validation/a/accuracy".into(), value)],
    }
}

fn wanted(names: &[&str]) -> Wanted {
    Wanted {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        from: 0,
        to: u64::MAX,
        points: 10_000,
        in_all: 0,
    }
}

fn open(directory: &Path, known: &[&str]) -> Series {
    let known = known.iter().map(|uid| (*uid).to_owned()).collect();
    Series::open(directory, &known, 100_000).unwrap()
}

fn size(directory: &Path) -> u64 {
    let files = fs::read_dir(directory).unwrap();
    files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum()
}

// Promise: series survive a restart and a crash in the middle of a write, which costs what was not
// whole and no more; jobs that are unknown are forgotten.
#[test]
fn series_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let series = open(directory.path(), &["a"]);
    series.record("a", &[report(1, 1.0), evaluation(1, 0.5)], 7);
    series.record("a", &[report(2, 2.0)], 8);
    series.record("b", &[report(1, 1.0)], 1);
    let before = series.read("a", wanted(&[]));
    assert_eq!(before.1, 2);
    let names: Vec<_> = before.0.iter().map(|line| line.name.as_str()).collect();
    assert_eq!(names, ["loss/a", "loss/b", "validation/a/accuracy"]);
    let path = directory.path().join("a.series");
    let whole = fs::read(&path).unwrap();
    for cut in [&whole[whole.len() - 5..], &[0; 64][..], &b"nonsense"[..]] {
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(cut).unwrap();
        drop(file);
        let series = open(directory.path(), &["a"]);
        assert_eq!(series.event("a"), 8);
        assert_eq!(series.read("a", wanted(&[])), before);
        assert!(!directory.path().join("b.series").exists());
    }
    // What comes after the crash is read again, too.
    open(directory.path(), &["a"]).record("a", &[report(3, 3.0)], 8);
    let series = open(directory.path(), &["a"]);
    assert_eq!(
        series.read("a", wanted(&["loss/a"])).0[0].means,
        [1.0, 2.0, 3.0]
    );
    series.forget("a");
    assert!(!path.exists());
    assert!(series.read("a", wanted(&[])).0.is_empty());
}

// Promise: a file that is cut anywhere is read as far as it goes, and written on.
#[test]
fn any_cut_is_survived() {
    let directory = tempfile::tempdir().unwrap();
    let series = open(directory.path(), &["a"]);
    for step in 1..=4 {
        series.record("a", &[report(step, step as f64)], 0);
    }
    let path = directory.path().join("a.series");
    let whole = fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        open(directory.path(), &["a"]).record("a", &[report(9, 9.0)], 0);
        let found = open(directory.path(), &["a"]).read("a", wanted(&["loss/a"]));
        assert_eq!(found.1, 9, "cut at {cut}");
        assert_eq!(found.0[0].steps.last(), Some(&9), "cut at {cut}");
    }
}

// Promise: steps that are done again are not taken twice, and events are taken once.
#[test]
fn nothing_is_taken_twice() {
    let directory = tempfile::tempdir().unwrap();
    let series = open(directory.path(), &["a"]);
    for step in [5, 6, 5, 6, 7] {
        series.record("a", &[report(step, step as f64), evaluation(5, 0.5)], 3);
    }
    let (lines, last) = series.read("a", wanted(&["loss/a", "validation/"]));
    assert_eq!((lines[0].steps.as_slice(), last), (&[5, 6, 7][..], 7));
    assert_eq!(lines[1].steps, [5]);
}

// Promise: 100,000 steps of ten figures take a few megabytes, each of them is still there, and an answer
// has no more points than were asked for and than an answer may have.
#[test]
fn a_long_run_is_small() {
    let directory = tempfile::tempdir().unwrap();
    let series = open(directory.path(), &["a"]);
    let mut next = Report {
        kind: Kind::Progress,
        step: 0,
        figures: (0..10).map(|task| (format!("loss/{task}"), 0.0)).collect(),
    };
    for step in 1..=100_000u64 {
        next.step = step;
        for (task, (_, value)) in next.figures.iter_mut().enumerate() {
            *value = (step % 1000) as f64 + task as f64;
        }
        series.record("a", std::slice::from_ref(&next), 0);
    }
    let bytes = size(directory.path());
    assert!(bytes < 7 << 20, "{bytes} bytes");
    let narrow = Wanted {
        from: 50_001,
        to: 50_100,
        ..wanted(&["loss/3"])
    };
    let line = &series.read("a", narrow).0[0];
    assert_eq!((line.steps.len(), line.means[9]), (100, 13.0));
    let wide = series.read("a", wanted(&["loss/3"])).0;
    assert!((5_000..=10_000).contains(&wide[0].steps.len()));
    assert!(wide[0].highs.iter().all(|high| *high <= 1002.0));
    let all = series.read("a", wanted(&[])).0;
    let points: usize = all.iter().map(|line| line.steps.len()).sum();
    assert!(all.len() == 10 && points <= 100_000, "{points}");
}

// Promise: memory and disk are bounded however long a job runs; what is thinned out still tells the whole
// run, also after a restart.
#[test]
fn room_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let small = || {
        let mut series = open(directory.path(), &["a"]);
        series.room = Room {
            cells: 1024,
            rows: 512,
        };
        series
    };
    let series = small();
    let steps = 60_000u64;
    for step in 1..=steps {
        series.record("a", &[report(step, step as f64)], 0);
    }
    let bytes = size(directory.path());
    assert!(bytes < 2 << 20, "{bytes} bytes");
    let before = series.read("a", wanted(&["loss/a"]));
    let line = &before.0[0];
    assert!(
        (128..=256).contains(&line.steps.len()),
        "{}",
        line.steps.len()
    );
    assert_eq!(
        (line.lows[0], line.highs[line.highs.len() - 1]),
        (1.0, steps as f64)
    );
    drop(series);
    assert_eq!(small().read("a", wanted(&["loss/a"])), before);
}

// Promise: more jobs than stay in memory are all recorded.
#[test]
fn many_jobs() {
    let directory = tempfile::tempdir().unwrap();
    let uids: Vec<String> = (0..JOBS + 8).map(|number| format!("job{number}")).collect();
    let series = open(directory.path(), &[]);
    for step in 1..=3 {
        for uid in &uids {
            series.record(uid, &[report(step, 1.0)], 0);
        }
    }
    for uid in &uids {
        assert_eq!(series.read(uid, wanted(&[])).0[0].steps, [1, 2, 3]);
    }
    assert!(lock(&series.jobs).open.len() <= JOBS);
}
