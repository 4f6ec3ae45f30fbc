//! Finds and starts one process of a local cluster.

use crate::error::{Code, Error, Result};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;
use tokio::task::JoinHandle;

/// Lines of a process's log that are shown when it dies.
const TAIL: usize = 15;

/// The path of a binary of Espalier: in `ESPALIER_BIN_DIR`, beside this command, or on `PATH`.
///
/// # Errors
/// It is in none of these places.
pub(crate) fn find(name: &str) -> Result<PathBuf> {
    let given = std::env::var_os("ESPALIER_BIN_DIR").filter(|dir| !dir.is_empty());
    if let Some(folder) = given {
        let path = Path::new(&folder).join(name);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(Error::new(
                Code::NotFound,
                format!("there is no {name} in {}", Path::new(&folder).display()),
            )
            .hint("ESPALIER_BIN_DIR must be the folder of the built binaries"))
        };
    }
    let own = std::env::current_exe()
        .ok()
        .and_then(|own| own.canonicalize().ok());
    let beside = own
        .as_deref()
        .and_then(Path::parent)
        .map(|folder| folder.join(name));
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&path).map(|folder| folder.join(name)))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::new(Code::NotFound, format!("can't find the program {name}")).hint(
                "it is looked for beside `espalier` and on PATH; build it with `cargo build`, or \
                 set ESPALIER_BIN_DIR to its folder",
            )
        })
}

/// Takes each line that a process writes.
pub(crate) type Sink = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// What to start.
#[derive(Clone)]
pub(crate) struct Program {
    /// Name in messages, such as `worker-1`.
    pub(crate) name: String,
    /// The binary.
    pub(crate) path: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
    /// File that its output is appended to.
    pub(crate) log: PathBuf,
    /// Called with the name and each line of its output.
    pub(crate) sink: Sink,
}

/// A process that runs.
pub(crate) struct Running {
    pub(crate) pid: u32,
    child: tokio::process::Child,
    lines: Arc<Mutex<VecDeque<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Program {
    /// Starts it in a process group of its own, so that ctrl-c on the terminal reaches only
    /// `espalier up`, which stops all in order.
    ///
    /// # Errors
    /// The binary can't be run or the log can't be written.
    pub(crate) fn start(&self) -> std::io::Result<Running> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let log = Arc::new(Mutex::new(log));
        let mut child = Command::new(&self.path)
            .args(&self.args)
            // Their lines go to a log file too, and behind a prefix with colours of its own.
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().unwrap_or(0);
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(tokio::spawn(self.clone().read(
                stdout,
                log.clone(),
                lines.clone(),
            )));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(tokio::spawn(self.clone().read(stderr, log, lines.clone())));
        }
        Ok(Running {
            pid,
            child,
            lines,
            readers,
        })
    }

    async fn read(
        self,
        output: impl AsyncRead + Unpin,
        log: Arc<Mutex<File>>,
        lines: Arc<Mutex<VecDeque<String>>>,
    ) {
        let mut output = BufReader::new(output);
        let mut bytes = Vec::new();
        while matches!(output.read_until(b'\n', &mut bytes).await, Ok(count) if count > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            bytes.clear();
            // A full disk must not stop the cluster: the line is still shown.
            let _ = writeln!(log.lock().unwrap_or_else(PoisonError::into_inner), "{line}");
            (self.sink)(&self.name, &line);
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() == TAIL {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    }
}

impl Running {
    /// Waits for its end.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Its last lines, once it has ended. Waits a moment for lines that are still in the pipe; not
    /// forever, since a child of its own may hold the pipe open.
    pub(crate) async fn last_lines(&mut self) -> Vec<String> {
        for reader in self.readers.drain(..) {
            let abort = reader.abort_handle();
            if tokio::time::timeout(Duration::from_secs(2), reader)
                .await
                .is_err()
            {
                abort.abort();
            }
        }
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }

    /// Sends it a signal. It is not reaped yet, so its id is still its own.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        if self.child.id().is_some()
            && let Some(pid) = i32::try_from(self.pid)
                .ok()
                .and_then(rustix::process::Pid::from_raw)
        {
            // It may have ended in between: then there is nothing to stop.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}
