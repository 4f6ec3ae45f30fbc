//! `up` and `down` where they must refuse, with real processes in the place of coordinator and
//! worker.

use crate::run::{Run, command, run};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Puts an executable script into `folder/bin`.
pub(crate) fn script(folder: &Path, name: &str, body: &str) {
    let bin = folder.join("bin");
    std::fs::create_dir_all(&bin).expect("made");
    let path = bin.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
}

fn up(folder: &Path, args: &[&str]) -> Run {
    let mut command = command(folder);
    command
        .env("ESPALIER_BIN_DIR", folder.join("bin"))
        .arg("up")
        .args(args);
    crate::run::finished(command.output().expect("espalier starts"))
}

#[test]
fn a_coordinator_that_dies_is_told_with_its_last_words() {
    // `up` ends with the coordinator's exit code and last log lines, in the background too.
    let folder = tempfile::tempdir().expect("a temporary folder");
    script(
        folder.path(),
        "espalier-coordinator",
        "echo starting; echo disk on fire >&2; exit 9",
    );
    script(folder.path(), "espalier-worker", "exit 1");
    for flags in [
        &["--listen", "127.0.0.1:0"][..],
        &["--listen", "127.0.0.1:0", "--detach"],
    ] {
        let run = up(folder.path(), flags);
        assert_eq!(run.code, 1, "{}", run.stderr);
        for words in [
            "coordinator ended with exit code 9",
            "  disk on fire",
            "coordinator.log",
        ] {
            assert!(
                run.stderr.contains(words),
                "{flags:?}, {words}: {}",
                run.stderr
            );
        }
        // It left the folder free for the next one.
        assert_eq!(crate::run::run(folder.path(), &["down"]).code, 3);
    }
}

#[test]
fn a_port_in_use_is_told() {
    // A taken port is named before anything is started.
    let folder = tempfile::tempdir().expect("a temporary folder");
    script(folder.path(), "espalier-coordinator", "touch was-started");
    script(folder.path(), "espalier-worker", "exit 1");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address");
    let run = up(folder.path(), &["--listen", &address.to_string()]);
    assert_eq!(run.code, 6, "{}", run.stderr);
    let expected = format!(
        "error: port {} of 127.0.0.1 is in use\n\nhint: ",
        address.port()
    );
    assert!(run.stderr.starts_with(&expected), "{}", run.stderr);
    assert!(!folder.path().join("was-started").exists());
}

// Promise: what a killed cluster left behind stays on record until it is ended, in the background too.
#[test]
fn a_background_start_forgets_no_process() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    script(folder.path(), "espalier-coordinator", "exit 1");
    script(folder.path(), "espalier-worker", "exit 1");
    let place = folder.path().join(".espalier/cluster");
    std::fs::create_dir_all(&place).expect("made");
    // No system has a process of this number: nothing is ended here.
    let record = r#"{"pid": 4294967295, "server": "http://127.0.0.1:1", "ready": true,
        "processes": [{"name": "worker-1", "pid": 4294967295}]}"#;
    std::fs::write(place.join("up.json"), record).expect("written");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    // Ends before it has a record of its own.
    let run = up(folder.path(), &["--listen", &address, "--detach"]);
    assert_eq!(run.code, 6, "{}", run.stderr);
    let left = std::fs::read_to_string(place.join("up.json")).expect("still there");
    assert!(left.contains("worker-1"), "{left}");
}

#[test]
fn a_missing_program_is_told() {
    // A folder without the binaries is named.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = up(folder.path(), &[]);
    assert_eq!(run.code, 3);
    assert!(
        run.stderr.contains("there is no espalier-coordinator in "),
        "{}",
        run.stderr
    );
}

#[test]
fn down_without_a_cluster_is_told() {
    // Nothing to stop is exit code 3.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = run(folder.path(), &["down"]);
    assert_eq!(run.code, 3);
    assert!(
        run.stderr
            .starts_with("error: no cluster runs in .espalier/cluster\n\nhint: ")
    );
}
