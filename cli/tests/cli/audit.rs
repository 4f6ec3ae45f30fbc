//! `espalier audit` over files such as ranks write them.

use crate::fake::Fake;
use crate::run::run;
use espalier_proto::v1;
use espalier_spec::account::{self, Draw, Header, TaskSamples};
use espalier_spec::{Generation, Rank, Step};
use std::path::Path;

/// What a rank wrote in one generation: two ranks, a batch of two, six samples. Rank r uses sample 2s + r at
/// step s, of which three make a pass.
fn write(dir: &Path, generation: u64, rank: u32, steps: std::ops::Range<u64>, last: bool) {
    let (generation, rank) = (Generation(generation), Rank(rank));
    let mut bytes = account::header(&Header {
        generation,
        rank,
        ranks: 2,
        from: Step(steps.start),
        tasks: vec![TaskSamples {
            name: "digit".to_owned(),
            samples: 6,
            target: None,
        }],
    });
    for step in steps.clone() {
        let draw = Draw {
            task: 0,
            target: false,
            pass: (step / 3) as u32,
            sample: (step % 3 * 2) as u32 + rank.0,
        };
        account::step(&mut bytes, Step(step), 2, [draw].into_iter());
    }
    if last {
        account::stop(&mut bytes, Step(steps.end));
    }
    let samples = dir.join("samples");
    std::fs::create_dir_all(&samples).expect("a folder");
    let path = samples.join(account::file_name(generation, rank));
    std::fs::write(path, bytes).expect("written");
}

/// A job that lost a worker at step 5 and went on from step 4.
fn written() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for rank in 0..2 {
        write(dir.path(), 1, rank, 0..5, false);
        write(dir.path(), 2, rank, 4..7, true);
    }
    dir
}

fn audit(dir: &Path, args: &[&str]) -> (i32, serde_json::Value) {
    let dir = dir.to_str().expect("UTF-8");
    let all = [&["audit", "--dir", dir, "-o", "json"][..], args].concat();
    let run = run(Path::new("."), &all);
    let json = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{}", run.stderr));
    (run.code, json)
}

// Promise: without a coordinator, honest files are clean: exit code 0, and the figures of the steps that count.
#[test]
fn honest_files_are_clean() {
    let dir = written();
    let (code, found) = audit(dir.path(), &[]);
    assert_eq!(code, 0, "{found}");
    assert_eq!(found["steps"], 7);
    assert_eq!(found["repeated_steps"], 1);
    assert_eq!(found["samples"], 14);
    assert_eq!(found["tasks"][0]["complete_passes"], 2);
    assert_eq!(found["tasks"][0]["open_pass"], 2);
    let page = run(dir.path(), &["audit", "--dir", "."]);
    assert!(page.stdout.contains("clean: every step"), "{}", page.stdout);
}

// Promise: a rank's lost file is exit code 7, and the answer names generation, rank and steps.
#[test]
fn a_lost_file_is_not_clean() {
    let dir = written();
    let lost = dir.path().join("samples/rank-00001.g00001.bin");
    std::fs::remove_file(lost).expect("removed");
    let (code, found) = audit(dir.path(), &[]);
    assert_eq!(code, 7, "{found}");
    let named = serde_json::json!({
        "kind": "missing_rank", "generation": 1, "rank": 1, "first_step": 0, "last_step": 3,
    });
    let faults = found["faults"].as_array().expect("faults");
    assert!(faults.contains(&named), "{found}");
}

// Promise: where the coordinator is reached, its lineage is compared with that of the ranks.
#[test]
fn the_coordinator_has_a_say() {
    let dir = written();
    let job = |from| v1::Job {
        name: "packages".to_owned(),
        generation: 2,
        recoveries: vec![v1::Recovery {
            generation: 2,
            from_step: from,
            restored_time: Some(espalier_proto::time::timestamp(1)),
            ..v1::Recovery::default()
        }],
        ..v1::Job::default()
    };
    for (from, code) in [(4, 0), (3, 7)] {
        let fake = Fake::with(vec![job(from)]);
        let args = ["packages", "--server", &fake.address];
        let (found, answer) = audit(dir.path(), &args);
        assert_eq!(found, code, "{answer}");
    }
}

// Promise: a folder without accounts is exit code 3.
#[test]
fn no_accounts_are_not_found() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = run(dir.path(), &["audit", "--dir", "."]);
    assert_eq!(run.code, 3, "{}", run.stderr);
}
