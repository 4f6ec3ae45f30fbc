//! The binary itself: readiness, signals, exit codes.

use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// A process that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn start(flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_espalier-coordinator"));
        Self(command.args(flags).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Starts one on a free port and waits until it serves.
    fn ready(directory: &Path) -> (Self, SocketAddr) {
        let file = directory.join("ready");
        let data = directory.join("data");
        let process = Self::start(&[
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
            data.to_str().unwrap(),
            "--ready-file",
            file.to_str().unwrap(),
        ]);
        let address = patiently("the ready file", || std::fs::read_to_string(&file).ok());
        (process, address.trim().parse().unwrap())
    }

    /// Waits for its end: how it ended and what it said.
    fn end(mut self) -> (ExitStatus, String) {
        let status = patiently("the end", || self.0.try_wait().unwrap());
        let mut said = String::new();
        self.0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        (status, said)
    }
}

fn patiently<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "{what} did not come within {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

// Promise: a second coordinator on the port or on the data directory ends with 1 and one line that
// says what is in the way and what to do; the first one goes on and ends with 0 on SIGTERM.
#[test]
fn two_coordinators() {
    let directory = tempfile::tempdir().unwrap();
    let (first, address) = Process::ready(directory.path());
    let other = directory.path().join("other");
    let (status, said) = Process::start(&[
        "--listen",
        &address.to_string(),
        "--data-dir",
        other.to_str().unwrap(),
    ])
    .end();
    assert_eq!(status.code(), Some(1));
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains(&address.to_string()) && said.contains("--listen"),
        "{said}"
    );

    let same = directory.path().join("data");
    let flags = [
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        same.to_str().unwrap(),
    ];
    let (status, said) = Process::start(&flags).end();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("in use by another coordinator"), "{said}");

    let pid = first.0.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let (status, said) = first.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains(&format!("listening on {address}")), "{said}");
}

// Promise: flags that make no sense end with 2 and say which.
#[test]
fn bad_flags() {
    for (flags, word) in [
        (&["--listen", "here"][..], "--listen"),
        (&["--listen", "0.0.0.0:0"][..], "--insecure"),
        (&["--gone-after", "1ms"][..], "gone-after"),
        (&["--heartbeat-interval", "1"][..], "such as 500ms"),
        (&["--nonsense"][..], "--nonsense"),
    ] {
        let (status, said) = Process::start(flags).end();
        assert_eq!(status.code(), Some(2), "{flags:?}: {said}");
        assert!(said.contains(word), "{flags:?}: {said}");
    }
}
