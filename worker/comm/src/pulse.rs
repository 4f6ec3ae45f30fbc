//! Signs of life: every progress thread sends one to every peer now and then, whatever its rank computes. A
//! process that was stopped, or whose machine is gone, sends none, and its connections stay open all the
//! same.

use std::time::{Duration, Instant};

/// Signs that a peer may miss: the limit is this many times the interval.
const MISSED: u32 = 4;

/// When to give signs of life, and how long to wait for those of peers.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// How long a peer may be silent; 0: for any time.
    silence: Duration,
    /// When the next sign is due; none before the first.
    next: Option<Instant>,
}

impl Pulse {
    pub(crate) fn new(silence: Duration) -> Pulse {
        Pulse {
            silence,
            next: None,
        }
    }

    /// How often a sign is given; none if never.
    pub(crate) fn every(&self) -> Option<Duration> {
        (!self.silence.is_zero()).then(|| self.silence / MISSED)
    }

    /// A limit of a sleep, so that no sign is missed.
    pub(crate) fn limit(&self, limit: Duration) -> Duration {
        self.every().map_or(limit, |every| every.min(limit))
    }

    /// Whether a sign is due; the next one is then due later.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let Some(every) = self.every() else {
            return false;
        };
        let due = self.next.is_none_or(|next| now >= next);
        if due {
            self.next = Some(now + every);
        }
        due
    }

    /// Why a peer whose last sign came then counts as gone; none if it does not. One that has not given any
    /// is still joining.
    pub(crate) fn silent(&self, heard: Option<Instant>, now: Instant) -> Option<String> {
        let silent = now.saturating_duration_since(heard?);
        (!self.silence.is_zero() && silent > self.silence).then(|| {
            format!(
                "it gave no sign of life for {silent:.1?}, limit {:.1?}: its process was stopped, or its machine is \
                 gone or overloaded",
                self.silence
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: signs come four times as often as they must; who has given none yet is not taken for gone, who
    // gives none any more is, and with a limit of 0 nobody ever is.
    #[test]
    fn silence_is_measured_from_the_last_sign() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut pulse = Pulse::new(Duration::from_millis(400));
        assert!(pulse.is_due(start));
        assert!(!pulse.is_due(after(99)));
        assert!(pulse.is_due(after(100)));
        assert!(!pulse.is_due(after(199)));
        assert_eq!(
            pulse.limit(Duration::from_secs(9)),
            Duration::from_millis(100)
        );
        assert_eq!(
            pulse.limit(Duration::from_millis(9)),
            Duration::from_millis(9)
        );
        assert_eq!(pulse.silent(None, after(9000)), None);
        assert_eq!(pulse.silent(Some(start), after(400)), None);
        let reason = pulse.silent(Some(start), after(401)).expect("silent");
        assert!(reason.contains("stopped"), "{reason}");
        let mut never = Pulse::new(Duration::ZERO);
        assert!(!never.is_due(start) && never.every().is_none());
        assert_eq!(never.silent(Some(start), after(9000)), None);
    }
}
