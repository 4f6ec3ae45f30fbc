//! Calls that are held open end when their caller may make them no more: its token was taken out or has
//! expired, its certificate holds no longer, it has another role.
//!
//! Such a call is looked at again and again as if it was made now. A task of its own does that, so that a
//! client that reads nothing keeps nothing open. The answer then ends with the error, and what hands it
//! over is dropped, which tells the handler; one that also listens is told by [`Cut`].

use super::layer::{Visit, denied_role};
use super::{Access, Principal, refusal, unauthenticated};
use espalier_proto::{ApiError, ErrorKind};
use http::header::CONTENT_TYPE;
use hyper::body::{Bytes, Frame};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tonic::Status;
use tonic::body::Body;

/// How often a call is looked at again.
const EVERY: Duration = Duration::from_secs(1);

/// Reason of the error of a connection whose certificate holds no longer. It is closed soon: nobody waits for
/// a second look.
const VOID: &str = "CERTIFICATE_VOID";

/// Tells the handler of a long call when its caller may make it no more.
#[derive(Clone, Debug)]
pub struct Cut(watch::Receiver<Option<ApiError>>);

impl Cut {
    /// That of the call of these extensions; where nobody looks, one that never comes.
    #[must_use]
    pub fn of(extensions: &http::Extensions) -> Self {
        let known = extensions.get::<Self>().cloned();
        known.unwrap_or_else(|| Self(watch::channel(None).1))
    }

    /// Waits until it comes, with the error that the call ends with.
    pub async fn comes(&mut self) -> ApiError {
        let error = {
            let came = self.0.wait_for(Option::is_some).await;
            came.ok().and_then(|error| error.clone())
        };
        match error {
            Some(error) => error,
            // Nobody looks any longer.
            None => pending().await,
        }
    }
}

/// Looks at a call until it is dropped.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) cut: Cut,
    checks: AbortHandle,
}

impl Guard {
    /// Looks at the call of a caller that was let in. Must be called inside a tokio runtime.
    pub(super) fn begin(access: Arc<Access>, visit: Arc<Visit>, caller: Principal) -> Self {
        let (tell, cut) = watch::channel(None);
        let checks = tokio::spawn(async move {
            let mut doubtful = false;
            let error = loop {
                tokio::time::sleep(EVERY).await;
                match access.still(&visit, &caller).await {
                    Ok(()) => doubtful = false,
                    Err(error) if doubtful || error.reason == VOID => break error,
                    // A file that is written in place is half there for a moment.
                    Err(_) => doubtful = true,
                }
            };
            access.ended(&visit, &caller, &error);
            tell.send_replace(Some(error));
        });
        Self {
            cut: Cut(cut),
            checks: checks.abort_handle(),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.checks.abort();
    }
}

impl Access {
    /// Whether a caller that was let in may still make its call.
    async fn still(&self, visit: &Visit, caller: &Principal) -> Result<(), ApiError> {
        let found = match self.identify(visit).await {
            Ok(found) => found,
            // That its issuer can't be asked is no fault of the caller.
            Err(error) if error.kind == ErrorKind::Unavailable => return Ok(()),
            Err(error) => return Err(error),
        };
        if found == *caller {
            return Ok(());
        }
        if !visit.call.allows(&found) {
            return Err(denied_role(visit, &found));
        }
        let message = format!("what {} may do has changed; call again", caller.name);
        Err(ApiError::new(
            ErrorKind::Unavailable,
            "ACCESS_CHANGED",
            message,
        ))
    }

    /// Counts and writes down that a call was ended.
    fn ended(&self, visit: &Visit, caller: &Principal, error: &ApiError) {
        if let Some(counted) = refusal::counted(error) {
            self.metrics.refused(counted);
        }
        tracing::info!(call = visit.path, %caller, "ends an open call: {error}");
        self.note(visit, Some(caller), Some(error), error.kind.as_str());
    }
}

/// The error of a connection whose certificate holds no longer.
pub(super) fn void() -> ApiError {
    unauthenticated(
        VOID,
        "the certificate of this connection has ended, or its CA is no longer trusted here; connect again \
         with a new one",
    )
}

/// How an answer that was begun ends with an error: in trailers for callers of gRPC, else as a line.
pub(super) fn last(error: ApiError, is_grpc: bool) -> Frame<Bytes> {
    if is_grpc {
        let response = Status::from(error).into_http::<Body>();
        let mut trailers = response.into_parts().0.headers;
        trailers.remove(CONTENT_TYPE);
        return Frame::trailers(trailers);
    }
    Frame::data(Bytes::from(format!("{}\n", refusal::json(&error))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    // Promise: an answer that was begun ends with the reason, in the words of its caller.
    #[test]
    fn last_words() {
        let trailers = last(void(), true).into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "16");
        assert!(trailers.contains_key("grpc-status-details-bin"));
        assert!(!trailers.contains_key("content-type"));
        let line = last(void(), false).into_data().unwrap();
        assert_eq!(line.last(), Some(&b'\n'));
        let said: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(said["error"]["reason"], "CERTIFICATE_VOID");
    }

    // Promise: a handler that nobody looks after waits for nothing, and one that is told hears why.
    #[tokio::test]
    async fn cuts() {
        let mut never = Cut::of(&http::Extensions::new());
        let waited = tokio::time::timeout(Duration::from_millis(20), never.comes()).await;
        assert!(waited.is_err());
        let (tell, told) = watch::channel(None);
        let mut extensions = http::Extensions::new();
        extensions.insert(Cut(told));
        let mut cut = Cut::of(&extensions);
        tell.send_replace(Some(void()));
        assert_eq!(cut.comes().await.reason, "CERTIFICATE_VOID");
    }
}
