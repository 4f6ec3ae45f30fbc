//! What a command ends with when it can't do what was asked: message, hint, exit code.

pub(crate) use espalier_spec::check::nearest;
use std::fmt;
use std::process::ExitCode;

/// Stable exit codes; `espalier --help` documents them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    /// Done.
    Ok = 0,
    /// What was asked for failed: an invalid job file, a failed job, an error of the server.
    Failure = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No job, worker or file of that name.
    NotFound = 3,
    /// The coordinator can't be reached.
    Unreachable = 4,
    /// The watched job was cancelled.
    Cancelled = 5,
    /// Not possible now: the name is taken, the job has ended, a cluster already runs.
    Conflict = 6,
    /// The accounts of samples don't hold.
    Unaccounted = 7,
    /// Stopped by ctrl-c.
    Interrupted = 130,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        ExitCode::from(code as u8)
    }
}

/// An error for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub(crate) struct Error {
    code: Code,
    message: String,
    hint: Option<String>,
}

/// Result of everything in this crate that can end a command.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with an exit code. `message` may have several lines.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
        }
    }

    /// A plain failure, exit code 1.
    pub(crate) fn failure(message: impl Into<String>) -> Self {
        Self::new(Code::Failure, message)
    }

    /// Adds what the person can do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a hint if there is one.
    pub(crate) fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// The exit code.
    pub(crate) fn code(&self) -> Code {
        self.code
    }
}

impl fmt::Display for Error {
    /// Message, blank line, hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_is_recognised_and_a_stranger_is_not() {
        // Suggestions are made for slips of the fingers only.
        assert_eq!(nearest("trian", ["train", "test", "labels"]), Some("train"));
        assert_eq!(
            nearest("batchsize", ["batch_size", "steps"]),
            Some("batch_size")
        );
        assert_eq!(
            nearest("Packages", ["packages", "package"]),
            Some("packages")
        );
        assert_eq!(nearest("banana", ["train", "test", "labels"]), None);
        assert_eq!(nearest("x", ["ab"]), None);
    }
}
