//! Why a file could not be brought. URLs are shown without what may be secret in them.

use espalier_spec::report::Failure;
use std::path::{Path, PathBuf};

/// Why a file could not be brought.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A URL that means nothing here.
    #[error("{url:?} {message}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong with it, what was expected.
        message: String,
    },
    /// Nobody said who asks.
    #[error(
        "{url}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of the workers (for a public bucket AWS_SKIP_SIGNATURE=true, for the role of a cloud machine AWS_METADATA_ENDPOINT=http://169.254.169.254)"
    )]
    NoCredentials {
        /// The URL.
        url: String,
    },
    /// An endpoint without TLS that nobody allowed.
    #[error(
        "{url}: AWS_ENDPOINT_URL is {endpoint}, without TLS; set AWS_ALLOW_HTTP=true in the environment of the workers if that is meant"
    )]
    PlainHttp {
        /// The URL.
        url: String,
        /// The endpoint.
        endpoint: String,
    },
    /// It is not there.
    #[error("{url}: not found{at}; check {what}")]
    NotFound {
        /// The URL.
        url: String,
        /// Where it was looked for, if the URL does not say; with a blank in front.
        at: String,
        /// What may be wrong.
        what: String,
    },
    /// It is there, but not for this worker.
    #[error("{url}: access denied{at}; check {what}")]
    Denied {
        /// The URL.
        url: String,
        /// Where it was looked for, if the URL does not say; with a blank in front.
        at: String,
        /// What may be wrong.
        what: &'static str,
    },
    /// Nobody answers.
    #[error(
        "{url}: {why}{at}; check that the server runs and that this machine can reach it{hint}"
    )]
    Unreachable {
        /// The URL.
        url: String,
        /// What happened.
        why: &'static str,
        /// Who does not answer, if the URL does not say; with a blank in front.
        at: String,
        /// What else may be wrong.
        hint: &'static str,
    },
    /// Other bytes than a moment ago.
    #[error(
        "{url}: it was changed while it was fetched; start the job again when it changes no more"
    )]
    Changed {
        /// The URL.
        url: String,
    },
    /// An end before the end.
    #[error("{url}: ended after {found} of {expected} bytes; start the job again")]
    Cut {
        /// The URL.
        url: String,
        /// Bytes that came.
        found: u64,
        /// Bytes that were promised.
        expected: u64,
    },
    /// Anything else.
    #[error("{url}: cannot be fetched: {message}")]
    Failed {
        /// The URL.
        url: String,
        /// What the store said.
        message: String,
        /// Whether it is trouble of the store that may be over soon.
        passes: bool,
    },
    /// The same of what is written.
    #[error("{url}: cannot be written to: {message}")]
    Refused {
        /// The URL.
        url: String,
        /// What the store said.
        message: String,
    },
    /// A file that is copied to or from a store, or one of a store that is a directory.
    #[error("cannot {action} {}: {cause}", file.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The path.
        file: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The place on this machine.
    #[error("{}: fetched files cannot be kept there: {cause}; {}", file.display(), advice(cause))]
    Cache {
        /// The path.
        file: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The job was told to stop.
    #[error("told to stop")]
    Stopped,
}

impl Error {
    pub(super) fn cache(file: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let file = file.to_owned();
        move |cause| Self::Cache { file, cause }
    }

    pub(super) fn file(action: &'static str, file: &Path) -> impl Fn(std::io::Error) -> Self {
        move |cause| Self::File {
            action,
            file: file.to_owned(),
            cause,
        }
    }

    /// The same, had somebody tried to write.
    pub(super) fn of_writing(self) -> Self {
        match self {
            Self::Denied { url, at, .. } => Self::Denied {
                url,
                at,
                what: "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, and that the \
                       keys may write into the bucket, list and delete",
            },
            Self::Failed { url, message, .. } => Self::Refused { url, message },
            other => other,
        }
    }

    /// As the coordinator and people are told.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let code = match self {
            Self::Cache { cause, .. } if is_full(cause) => "disk_full",
            _ => "fetch",
        };
        // A store that is away for longer than its calls are repeated should not end a job that could go on
        // once it is back; the coordinator bounds how often the same is tried.
        let retryable = match self {
            Self::Unreachable { .. } | Self::Changed { .. } | Self::Cut { .. } => true,
            Self::Failed { passes, .. } => *passes,
            _ => false,
        };
        Failure {
            code: code.to_owned(),
            message: self.to_string(),
            retryable,
            lost: None,
        }
    }
}

/// Whether there is no room for more.
fn is_full(cause: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        cause.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// What to do about a place that takes no files.
fn advice(cause: &std::io::Error) -> &'static str {
    match is_full(cause) {
        true => "make room, or give another --data-dir",
        false => "check that the worker may write there, or give another --data-dir",
    }
}
