//! A cluster over TLS: every process has a certificate of its own, made by `espalier certs`.

use espalier_tests::{PATIENCE, Run, Toy, binary, espalier, job};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A process that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path, name: &str, program: &str, args: &[&str]) -> Process {
    let log = File::create(dir.join(format!("{name}.log"))).unwrap();
    let child = Command::new(binary(program).unwrap())
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    Process(child.unwrap())
}

/// Looks again and again until there is something to see.
fn within<T>(dir: &Path, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        if start.elapsed() > PATIENCE {
            let log = fs::read_to_string(dir.join("coordinator.log")).unwrap_or_default();
            panic!("{what} did not come\n{log}");
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn certs(dir: &Path, args: &[&str]) {
    let args = [&["certs"][..], args].concat();
    let run = espalier(dir, &args, "").unwrap();
    assert_eq!(run.code, 0, "{}", run.said());
}

/// Runs the command with a certificate of this folder; none: with the CA's alone.
fn ask(dir: &Path, server: &str, own: Option<&str>, args: &[&str]) -> Run {
    let folder = own.map(|own| format!("certs/{own}"));
    let own = folder.map(|folder| (format!("{folder}/tls.crt"), format!("{folder}/tls.key")));
    let mut line = vec!["--server", server, "--tls-ca", "certs/ca/ca.crt"];
    if let Some((cert, key)) = &own {
        line.extend(["--tls-cert", cert, "--tls-key", key]);
    }
    line.extend(args);
    espalier(dir, &line, "").unwrap()
}

fn workers(dir: &Path, server: &str) -> usize {
    let run = ask(dir, server, Some("admin-ada"), &["workers", "-o", "json"]);
    let found: Value = serde_json::from_str(&run.stdout).unwrap_or_default();
    let is_ready = |state: &str| state.ends_with("READY");
    let ready = |worker: &&Value| worker["state"].as_str().is_some_and(is_ready);
    found
        .as_array()
        .map_or(0, |all| all.iter().filter(ready).count())
}

// Promise: two workers with certificates of their own train a job that an admin with a certificate submits;
// who has none, or speaks plain text, gets nothing and is told what is missing; who has one but no role does
// nothing either.
#[test]
fn a_job_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let toy = Toy::write(&dir.join("toy")).unwrap();
    certs(dir, &["ca"]);
    certs(dir, &["coordinator", "a", "--host", "127.0.0.1,localhost"]);
    certs(dir, &["worker", "w-0"]);
    certs(dir, &["worker", "w-1"]);
    certs(dir, &["admin", "ada"]);
    certs(dir, &["user", "bob"]);
    let mut args = vec!["--listen", "127.0.0.1:0", "--data-dir", "coordinator"];
    args.extend(["--ready-file", "ready"]);
    args.extend(["--tls-cert", "certs/coordinator-a/tls.crt"]);
    args.extend(["--tls-key", "certs/coordinator-a/tls.key"]);
    args.extend(["--tls-client-ca", "certs/ca/ca.crt"]);
    let _coordinator = start(dir, "coordinator", "espalier-coordinator", &args);
    let address = within(dir, "the coordinator", || {
        fs::read_to_string(dir.join("ready")).ok()
    });
    let address = address.trim();
    let server = format!("https://{address}");
    let worker = |name: &str| {
        let folder = format!("certs/worker-{name}");
        let file = |file: &str| format!("{folder}/{file}");
        let (ca, cert, key) = (file("ca.crt"), file("tls.crt"), file("tls.key"));
        let mut args = vec!["run", "--coordinator", &server, "--name", name];
        args.extend(["--threads", "1", "--data-dir", "data", "--tls-ca", &ca]);
        args.extend(["--tls-cert", &cert, "--tls-key", &key]);
        start(dir, name, "espalier-worker", &args)
    };
    let _workers = [worker("w-0"), worker("w-1")];
    within(dir, "two workers", || {
        (workers(dir, &server) == 2).then_some(())
    });

    let mut spec = job("secure", &toy, 60);
    spec["resources"] = json!({"ranks": 2});
    fs::write(dir.join("secure.yaml"), spec.to_string()).unwrap();
    let args = ["submit", "secure.yaml", "--wait"];
    let run = ask(dir, &server, Some("admin-ada"), &args);
    assert_eq!(run.code, 0, "{}", run.said());
    let run = ask(
        dir,
        &server,
        Some("admin-ada"),
        &["export", "secure", "-o", "json"],
    );
    let export: Value = serde_json::from_str(&run.stdout).unwrap();
    let path = Path::new(export["path"].as_str().unwrap());
    assert!(path.join("model.safetensors").is_file(), "{}", run.said());

    let run = ask(dir, &server, None, &["get"]);
    assert_eq!(run.code, 4, "{}", run.said());
    let run = ask(dir, &server, Some("user-bob"), &["get"]);
    assert_eq!(run.code, 1, "{}", run.said());
    assert!(run.stderr.contains("may not call"), "{}", run.said());
    let plain = format!("http://{address}");
    let run = ask(dir, &plain, Some("admin-ada"), &["get"]);
    assert_eq!(run.code, 4, "{}", run.said());
}
