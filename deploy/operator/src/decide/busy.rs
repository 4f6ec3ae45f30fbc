//! A coordinator that answers that it is asked too much: that says nothing of a job, only when to ask again.

use espalier_proto::{ApiError, ErrorKind};
use std::time::Duration;

/// When to ask again where it does not say: a place that other calls hold comes free with the first of them.
const PAUSE: Duration = Duration::from_secs(1);
/// Bounds of what it may say: not at once, and not so late that a person would wonder.
const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(30);

/// What a job is refused for that is larger than the coordinator takes; no pause helps against that.
const TOO_LARGE: &str = "JOB_TOO_LARGE";

/// Whether a job is larger than the coordinator takes.
pub(super) fn is_too_large(error: &ApiError) -> bool {
    error.reason == TOO_LARGE
}

/// When to ask again a coordinator that is asked too much; none: it has said something else.
#[must_use]
pub fn later(error: &ApiError) -> Option<Duration> {
    if error.kind != ErrorKind::ResourceExhausted || is_too_large(error) {
        return None;
    }
    let said = error.metadata.get("retry_after_ms");
    let said = said.and_then(|text| text.parse::<u64>().ok());
    let pause = said.map_or(PAUSE, Duration::from_millis);
    Some(pause.clamp(SHORTEST, LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exhausted(reason: &str) -> ApiError {
        ApiError::new(ErrorKind::ResourceExhausted, reason, "slow down")
    }

    // Promise: a coordinator that is asked too much is asked again when it says, within bounds, and nothing else
    // is taken for it.
    #[test]
    fn pauses() {
        let pause = |ms: &str| later(&exhausted("TOO_FAST").with("retry_after_ms", ms));
        assert_eq!(pause("250"), Some(Duration::from_millis(250)));
        assert_eq!(pause("1"), Some(SHORTEST));
        assert_eq!(pause("3600000"), Some(LONGEST));
        assert_eq!(pause("soon"), Some(PAUSE));
        assert_eq!(later(&exhausted("TOO_MANY_CALLS")), Some(PAUSE));
        assert_eq!(later(&exhausted("JOB_TOO_LARGE")), None);
        let away = ApiError::new(ErrorKind::Unavailable, "", "nobody answers");
        assert_eq!(later(&away), None);
    }
}
