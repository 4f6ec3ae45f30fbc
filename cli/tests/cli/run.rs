//! Runs the built command.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a run ended with.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The command in an empty environment of its own, in `folder`.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_espalier"));
    command
        .current_dir(folder)
        .env_remove("ESPALIER_SERVER")
        .env_remove("ESPALIER_TOKEN")
        .env_remove("ESPALIER_TOKEN_FILE")
        .env_remove("ESPALIER_BIN_DIR")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null());
    command
}

/// Runs `espalier ARGS` in `folder` to its end.
pub(crate) fn run(folder: &Path, args: &[&str]) -> Run {
    finished(
        command(folder)
            .args(args)
            .output()
            .expect("espalier starts"),
    )
}

/// Reads what an ended run left.
pub(crate) fn finished(output: Output) -> Run {
    Run {
        code: output.status.code().expect("no signal"),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}
