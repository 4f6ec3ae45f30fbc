//! An etcd process of a test's own.

use espalier_coordinator::etcd::{Etcd, Keys, put};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The etcd; it ends with this value.
pub(crate) struct Server {
    process: Child,
    directory: TempDir,
    client: u16,
    peer: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    /// Starts one and waits until it answers.
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (client, peer) = (free_port(), free_port());
        let process = spawn(directory.path(), client, peer);
        let server = Self {
            process,
            directory,
            client,
            peer,
        };
        server.answers().await;
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    pub(crate) fn etcd(&self) -> Etcd {
        Etcd::new(&[self.url()], Duration::from_secs(2)).unwrap()
    }

    /// Ends it at once, as a crash does.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again with what it had stored.
    pub(crate) async fn restart(&mut self) {
        self.process = spawn(self.directory.path(), self.client, self.peer);
        self.answers().await;
    }

    async fn answers(&self) {
        let etcd = self.etcd();
        super::until("an answer of etcd", async || etcd.get("any").await.ok()).await;
    }
}

/// Makes somebody else the leader, as an election does; answers the term.
pub(crate) async fn elect(etcd: &Etcd, keys: &Keys, address: &str) -> i64 {
    let who = format!(r#"{{"address": "{address}", "election": "by hand"}}"#);
    let ops = vec![
        put(&keys.who(), who.into_bytes()),
        put(&keys.beat(), Vec::new()),
    ];
    let done = etcd.txn(Vec::new(), ops).await.unwrap();
    done.header.unwrap().revision
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn spawn(directory: &Path, client: u16, peer: u16) -> Child {
    let program = program();
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    Command::new(&program)
        .arg("--data-dir")
        .arg(directory.join("etcd"))
        .args(["--listen-client-urls", &url(client)])
        .args(["--advertise-client-urls", &url(client)])
        .args(["--listen-peer-urls", &url(peer)])
        .args(["--initial-advertise-peer-urls", &url(peer)])
        .args(["--initial-cluster", &format!("default={}", url(peer))])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "{}: {error}; `make test` fetches an etcd, or name one with ESPALIER_ETCD",
                program.display()
            )
        })
}

pub(crate) fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("ESPALIER_ETCD") {
        return named.into();
    }
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.espalier/etcd/usr/bin/etcd");
    if fetched.is_file() {
        fetched
    } else {
        // One on PATH.
        "etcd".into()
    }
}
