//! The real binaries and how to run them.

use anyhow::{Context as _, bail};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a command left behind.
#[derive(Debug)]
pub struct Run {
    /// Exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    /// Both streams, for assertions on what was said.
    #[must_use]
    pub fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Path of a binary of the workspace: in `ESPALIER_BIN_DIR`, else beside the test executable.
///
/// # Errors
/// If it was not built.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let directory = match std::env::var_os("ESPALIER_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let test = std::env::current_exe()?;
            // target/debug/deps/TEST
            let debug = test.parent().and_then(Path::parent);
            debug
                .context("the test executable is not in a target directory")?
                .to_owned()
        }
    };
    let path = directory.join(name);
    if !path.is_file() {
        bail!(
            "there is no {}: run `cargo build --workspace` first",
            path.display()
        );
    }
    Ok(path)
}

/// Runs the `espalier` command in `folder` to its end, with `input` on standard input.
///
/// # Errors
/// If it cannot be started.
pub fn espalier(folder: &Path, args: &[&str], input: &str) -> anyhow::Result<Run> {
    let program = binary("espalier")?;
    let mut child = Command::new(&program)
        .args(args)
        .current_dir(folder)
        .env_remove("ESPALIER_SERVER")
        .env("ESPALIER_BIN_DIR", program.parent().unwrap_or(folder))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| program.display().to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that reads nothing may have ended already.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    Ok(Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
