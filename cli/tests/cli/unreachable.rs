//! What verbs say when there is no coordinator.

use crate::run::run;
use std::net::TcpListener;

/// An address that nobody listens on.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

#[test]
fn an_absent_coordinator_is_told_with_its_address() {
    // Every verb that needs the coordinator names the address, says `espalier up`, and ends with 4.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = nobody();
    for args in [
        &["get"][..],
        &["describe", "a"],
        &["watch"],
        &["logs", "a"],
        &["cancel", "a"],
        &["pause", "a"],
        &["resume", "a"],
        &["delete", "a"],
        &["workers"],
        &["drain", "w"],
        &["undrain", "w"],
        &["export", "a"],
        &["affinity", "a"],
    ] {
        let args: Vec<&str> = args.iter().copied().chain(["--server", &server]).collect();
        let run = run(folder.path(), &args);
        assert_eq!(run.code, 4, "{args:?}: {}", run.stderr);
        assert_eq!(run.stdout, "", "{args:?}");
        let expected = format!("error: can't reach the coordinator at {server}: ");
        assert!(
            run.stderr.starts_with(&expected),
            "{args:?}: {}",
            run.stderr
        );
        assert!(
            run.stderr
                .contains("\n\nhint: start a local cluster with `espalier up`")
        );
    }
}

#[test]
fn a_bad_job_file_needs_no_coordinator() {
    // `submit` checks the file before it looks for the coordinator.
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(
        folder.path().join("job.yaml"),
        "name: x\nbackbone: {path: m}\ntasks: []\n",
    )
    .expect("written");
    let run = run(
        folder.path(),
        &["submit", "job.yaml", "--server", &nobody()],
    );
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.contains("job.yaml:3:1: tasks: is empty"),
        "{}",
        run.stderr
    );
}

#[test]
fn an_address_must_be_one() {
    // Nonsense instead of an address is a usage error.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = run(folder.path(), &["get", "--server", "http://"]);
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert!(run.stderr.contains("http://HOST:PORT"), "{}", run.stderr);
}
