//! What an RPC answers instead of a result: one type on both ends of the wire.
//!
//! On the wire it is a `google.rpc.Status` with a canonical code. [`ErrorKind::InvalidArgument`]
//! with violations carries `google.rpc.BadRequest`; every error carries `google.rpc.ErrorInfo`
//! with a stable reason, the domain [`DOMAIN`] and metadata.

use crate::convert::Violations;
use espalier_spec::Violation;
use std::collections::BTreeMap;
use std::fmt;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Domain of the reasons in `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "espalier";

/// The gRPC codes that Espalier answers with, and those that gRPC itself makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorKind {
    /// The request is wrong, whatever the state of the cluster.
    InvalidArgument,
    /// A position lies beyond the end.
    OutOfRange,
    /// No such thing.
    NotFound,
    /// A thing of this name exists.
    AlreadyExists,
    /// The thing is not in a state that allows this.
    FailedPrecondition,
    /// Overtaken by another change; try again.
    Aborted,
    /// A limit is reached.
    ResourceExhausted,
    /// Not possible now; try again later.
    Unavailable,
    /// Took too long.
    DeadlineExceeded,
    /// The caller gave up.
    Cancelled,
    /// The caller is not known.
    Unauthenticated,
    /// The caller may not do this.
    PermissionDenied,
    /// The server does not know this call.
    Unimplemented,
    /// A bug or broken state on the server.
    Internal,
    /// Anything else.
    Unknown,
}

impl ErrorKind {
    /// Whether the same call can succeed if tried again, with nothing changed.
    #[must_use]
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Self::Unavailable | Self::Aborted | Self::DeadlineExceeded
        )
    }

    /// The name of the gRPC code, such as `NOT_FOUND`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::Unavailable => "UNAVAILABLE",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Cancelled => "CANCELLED",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unknown => "UNKNOWN",
        }
    }

    fn code(self) -> Code {
        match self {
            Self::InvalidArgument => Code::InvalidArgument,
            Self::OutOfRange => Code::OutOfRange,
            Self::NotFound => Code::NotFound,
            Self::AlreadyExists => Code::AlreadyExists,
            Self::FailedPrecondition => Code::FailedPrecondition,
            Self::Aborted => Code::Aborted,
            Self::ResourceExhausted => Code::ResourceExhausted,
            Self::Unavailable => Code::Unavailable,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::Cancelled => Code::Cancelled,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::PermissionDenied => Code::PermissionDenied,
            Self::Unimplemented => Code::Unimplemented,
            Self::Internal => Code::Internal,
            Self::Unknown => Code::Unknown,
        }
    }

    fn from_code(code: Code) -> Self {
        match code {
            Code::InvalidArgument => Self::InvalidArgument,
            Code::OutOfRange => Self::OutOfRange,
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists => Self::AlreadyExists,
            Code::FailedPrecondition => Self::FailedPrecondition,
            Code::Aborted => Self::Aborted,
            Code::ResourceExhausted => Self::ResourceExhausted,
            Code::Unavailable => Self::Unavailable,
            Code::DeadlineExceeded => Self::DeadlineExceeded,
            Code::Cancelled => Self::Cancelled,
            Code::Unauthenticated => Self::Unauthenticated,
            Code::PermissionDenied => Self::PermissionDenied,
            Code::Unimplemented => Self::Unimplemented,
            Code::Internal | Code::DataLoss => Self::Internal,
            Code::Ok | Code::Unknown => Self::Unknown,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error as the two ends of an RPC see it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The canonical code.
    pub kind: ErrorKind,
    /// A stable word in upper snake case for programs, such as `JOB_NOT_FOUND`; empty if the other
    /// end is no Espalier or the connection itself failed.
    pub reason: String,
    /// What happened, what was expected, what to do: for people.
    pub message: String,
    /// Names and numbers of the message for programs, such as `job` or `state`.
    pub metadata: BTreeMap<String, String>,
    /// Every bad field; only with [`ErrorKind::InvalidArgument`].
    pub violations: Vec<Violation>,
}

impl ApiError {
    /// An error without metadata and violations.
    pub fn new(kind: ErrorKind, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            reason: reason.into(),
            message: message.into(),
            metadata: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    /// Adds one entry of metadata.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// One bad field of a request.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Violations(vec![Violation {
            field: field.into(),
            message: message.into(),
        }])
        .into()
    }

    /// Whether the same call can succeed if tried again, with nothing changed.
    #[must_use]
    pub fn retryable(&self) -> bool {
        self.kind.retryable()
    }
}

impl From<Violations> for ApiError {
    fn from(violations: Violations) -> Self {
        Self {
            kind: ErrorKind::InvalidArgument,
            reason: "INVALID_FIELDS".into(),
            message: violations.to_string(),
            metadata: BTreeMap::new(),
            violations: violations.0,
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let mut details = ErrorDetails::new();
        details.set_error_info(
            error.reason,
            DOMAIN,
            error
                .metadata
                .into_iter()
                .collect::<std::collections::HashMap<_, _>>(),
        );
        for violation in error.violations {
            details.add_bad_request_violation(violation.field, violation.message);
        }
        Status::with_error_details(error.kind.code(), error.message, details)
    }
}

impl From<&Status> for ApiError {
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let violations = details.bad_request().map(|bad| {
            let fields = bad.field_violations.iter();
            fields
                .map(|v| Violation {
                    field: v.field.clone(),
                    message: v.description.clone(),
                })
                .collect()
        });
        // Servers say UNKNOWN to nobody: with a cause beneath it, it is a connection that broke in the middle
        // of an answer.
        let broke = matches!(status.code(), Code::Unknown | Code::Internal)
            && std::error::Error::source(status).is_some();
        let kind = match broke {
            true => ErrorKind::Unavailable,
            false => ErrorKind::from_code(status.code()),
        };
        Self {
            kind,
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            message: if status.message().is_empty() {
                kind.as_str().to_owned()
            } else {
                status.message().to_owned()
            },
            metadata: info
                .map(|info| info.metadata.clone().into_iter().collect())
                .unwrap_or_default(),
            violations: violations.unwrap_or_default(),
        }
    }
}

impl From<Status> for ApiError {
    fn from(status: Status) -> Self {
        Self::from(&status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: a client gets back the reason, the metadata and every violation that was sent.
    #[test]
    fn an_error_survives_the_wire() {
        let plain = ApiError::new(ErrorKind::NotFound, "JOB_NOT_FOUND", "no job is named a")
            .with("job", "a");
        assert_eq!(ApiError::from(Status::from(plain.clone())), plain);
        let bad = ApiError::from(Violations(vec![
            Violation {
                field: "name".into(),
                message: "is empty".into(),
            },
            Violation {
                field: "tasks[2].head".into(),
                message: "is required".into(),
            },
        ]));
        assert_eq!(bad.message, "name: is empty; tasks[2].head: is required");
        assert_eq!(ApiError::from(Status::from(bad.clone())), bad);
    }

    // Promise: a status of somebody else (a proxy, gRPC itself) is an error without a reason, not
    // a wrong one.
    #[test]
    fn a_foreign_status_has_no_reason() {
        let error = ApiError::from(Status::new(Code::Unavailable, ""));
        assert_eq!(
            (error.kind, error.reason.as_str()),
            (ErrorKind::Unavailable, "")
        );
        assert_eq!(error.message, "UNAVAILABLE");
        assert!(error.retryable());
    }

    // Promise: every kind has its own code and comes back as itself.
    #[test]
    fn kinds_and_codes_are_one_to_one() {
        use ErrorKind::*;
        for kind in [
            InvalidArgument,
            OutOfRange,
            NotFound,
            AlreadyExists,
            FailedPrecondition,
            Aborted,
            ResourceExhausted,
            Unavailable,
            DeadlineExceeded,
            Cancelled,
            Unauthenticated,
            PermissionDenied,
            Unimplemented,
            Internal,
            Unknown,
        ] {
            assert_eq!(ErrorKind::from_code(kind.code()), kind);
        }
    }
}
