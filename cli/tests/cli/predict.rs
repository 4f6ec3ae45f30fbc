//! `predict` with a real child process in the place of the worker.

use crate::local::script;
use crate::run::{Run, command, finished};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Answers every line that is not blank with the same prediction and the line it got as text.
const WORKER: &str = r#"
[ "$1 $2 $3" = "predict --model=model --format=jsonl" ] || { echo "bad arguments: $*" >&2; exit 8; }
while read -r line; do
  [ -n "$line" ] || continue
  text=${line#'{"text":'}; text=${text%'}'}
  printf '{"text":%s,"predictions":{"section":{"label":"games","score":0.934},"value":{"value":3.25}}}\n' "$text"
done"#;

fn predict(folder: &Path, args: &[&str], input: &str) -> Run {
    let mut command = command(folder);
    command.env_remove("GOMP_SPINCOUNT");
    command.env_remove("OMP_WAIT_POLICY");
    predict_by(command, folder, args, input)
}

fn predict_by(mut command: Command, folder: &Path, args: &[&str], input: &str) -> Run {
    let mut child = command
        .env("ESPALIER_BIN_DIR", folder.join("bin"))
        .args(["predict", "--model", "model"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("espalier starts");
    // A command that refuses early does not read; that is no fault here.
    let _ = child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(input.as_bytes());
    finished(child.wait_with_output().expect("ended"))
}

#[test]
fn classes_named_at_prediction_reach_the_worker() {
    // --labels, --description and --template go through as they are, whatever they begin with; two of them
    // need the first.
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("model")).expect("made");
    let worker = r#"
shift 3
[ "$*" = "--labels=a b,c --description=c=the third --template=-about {}" ] || { echo "bad arguments: $*" >&2; exit 8; }
while read -r line; do
  printf '{"text":"x","predictions":{"label":{"label":"a b","score":0.6}}}\n'
done"#;
    script(folder.path(), "espalier-worker", worker);
    let args = [
        "--labels",
        "a b,c",
        "--description",
        "c=the third",
        "--template=-about {}",
    ];
    let done = predict(folder.path(), &args, "x\n");
    assert_eq!(
        done.stdout, "TEXT   LABEL\nx      a b 0.60\n",
        "{}",
        done.stderr
    );
    let alone = predict(folder.path(), &["--template", "about {}"], "x\n");
    assert_eq!(alone.code, 2);
    assert!(alone.stderr.contains("--labels"), "{}", alone.stderr);
}

#[test]
fn how_tokens_are_chosen_reaches_the_worker() {
    // What is said of the tokens to go on with goes through as it is, whatever it begins with.
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("model")).expect("made");
    let worker = r#"
shift 3
[ "$*" = "--max-new-tokens=49 --top-k=20 --only-tokens=<i" ] || { echo "bad arguments: $*" >&2; exit 8; }
while read -r line; do
  printf '{"text":"x","predictions":{"draw":{"completion":"<i01>","tokens":1,"stop":"length"}}}\n'
done"#;
    script(folder.path(), "espalier-worker", worker);
    let args = [
        "--max-new-tokens",
        "49",
        "--top-k",
        "20",
        "--only-tokens",
        "<i",
    ];
    let done = predict(folder.path(), &args, "x\n");
    assert_eq!(
        done.stdout, "TEXT   DRAW\nx      <i01>\n",
        "{}",
        done.stderr
    );
}

#[test]
fn threads_of_the_worker_spin_shortly() {
    // Promise: a prediction beside other work does not burn its time waiting for its own threads; who sets the
    // number, or a policy that the number would overrule, is obeyed.
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("model")).expect("made");
    let worker = r#"
while read -r line; do
  printf '{"text":"x","predictions":{"label":{"label":"%s","score":0.5}}}\n' "${GOMP_SPINCOUNT-none}"
done"#;
    script(folder.path(), "espalier-worker", worker);
    let done = predict(folder.path(), &[], "x\n");
    assert!(done.stdout.contains("3000 0.50"), "{}", done.stdout);
    let mut own = command(folder.path());
    own.env("GOMP_SPINCOUNT", "7");
    let done = predict_by(own, folder.path(), &[], "x\n");
    assert!(done.stdout.contains("7 0.50"), "{}", done.stdout);
    let mut own = command(folder.path());
    own.env_remove("GOMP_SPINCOUNT");
    own.env("OMP_WAIT_POLICY", "PASSIVE");
    let done = predict_by(own, folder.path(), &[], "x\n");
    assert!(done.stdout.contains("none 0.50"), "{}", done.stdout);
}

#[test]
fn texts_become_a_table_or_json_lines() {
    // Plain lines and JSON Lines go in; a row or a JSON value per text comes out, in order.
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("model")).expect("made");
    script(folder.path(), "espalier-worker", WORKER);
    let input = "a puzzle\n\n{\"text\": \"chess\"}\n";
    let table = predict(folder.path(), &[], input);
    assert_eq!(
        table.stdout,
        "TEXT       SECTION      VALUE\na puzzle   games 0.93   3.2500\nchess      games 0.93   3.2500\n",
        "{}",
        table.stderr
    );
    let lines = predict(folder.path(), &["-o", "json"], input);
    let predictions =
        r#""predictions":{"section":{"label":"games","score":0.934},"value":{"value":3.25}}"#;
    let line = |text: &str| format!("{{\"text\":\"{text}\",{predictions}}}\n");
    assert_eq!(lines.stdout, line("a puzzle") + &line("chess"));
}

// Promise: the worker counts lines as the person does who wrote them, so that its errors name the right one.
#[test]
fn blank_lines_are_counted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("model")).expect("made");
    let worker = r#"
number=0
while read -r line; do
  number=$((number + 1))
  [ -n "$line" ] || continue
  printf '{"text":"x","predictions":{"at":{"value":%s}}}\n' "$number"
done"#;
    script(folder.path(), "espalier-worker", worker);
    let done = predict(folder.path(), &["-o", "json"], "a\n\n \nb\n");
    let line =
        |at: u32| format!("{{\"text\":\"x\",\"predictions\":{{\"at\":{{\"value\":{at}}}}}}}\n");
    assert_eq!(done.stdout, line(1) + &line(4), "{}", done.stderr);
}

#[test]
fn named_tasks_reach_the_worker() {
    // The worker computes no other task; one that the model does not name is refused before it starts.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("model");
    std::fs::create_dir(&model).expect("made");
    let meta = r#"{"tasks": [{"name": "section"}, {"name": "value"}]}"#;
    std::fs::write(model.join("espalier.json"), meta).expect("written");
    let worker = r#"
shift 3
[ "$*" = "--task=section --task=value" ] || { echo "bad arguments: $*" >&2; exit 8; }
while read -r line; do
  printf '{"text":"x","predictions":{"section":{"label":"games","score":0.9}}}\n'
done"#;
    script(folder.path(), "espalier-worker", worker);
    let done = predict(
        folder.path(),
        &["--task", "section", "--task", "value"],
        "x\n",
    );
    assert_eq!(
        done.stdout, "TEXT   SECTION\nx      games 0.90\n",
        "{}",
        done.stderr
    );
    let unknown = predict(folder.path(), &["--task", "sektion"], "x\n");
    assert_eq!(unknown.code, 3);
    assert!(
        unknown.stderr.contains("did you mean `section`?"),
        "{}",
        unknown.stderr
    );
}

// Promise: a worker that dies ends the command at once, though more input may still come.
#[test]
fn a_worker_that_fails_is_not_waited_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("model")).expect("made");
    script(folder.path(), "espalier-worker", "exit 1");
    let mut child = command(folder.path())
        .env("ESPALIER_BIN_DIR", folder.path().join("bin"))
        .args(["predict", "--model", "model"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("espalier starts");
    let input = child.stdin.take().expect("a pipe");
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("waited") {
            break Some(status);
        }
        if begun.elapsed() > Duration::from_secs(60) {
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    // Only now does the input end.
    drop(input);
    if status.is_none() {
        let _ = child.kill();
    }
    assert_eq!(status.and_then(|status| status.code()), Some(1));
}

#[test]
fn a_worker_that_fails_is_told() {
    // The worker's failure ends the command, even with much input left to send.
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("model")).expect("made");
    script(
        folder.path(),
        "espalier-worker",
        "echo 'error: no config.json' >&2; exit 1",
    );
    let run = predict(folder.path(), &[], &"a text\n".repeat(100_000));
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("no config.json"), "{}", run.stderr);
    assert!(
        run.stderr.contains("espalier-worker predict failed"),
        "{}",
        run.stderr
    );
}
