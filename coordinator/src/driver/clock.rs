//! The time that the machine is given.

use espalier_core::Time;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Wall-clock time that never jumps: the time of day at the start plus what passed since, so that
/// a corrected clock does not make all workers look dead.
#[derive(Clone)]
pub(super) struct Clock {
    wall: Time,
    start: Instant,
    /// Milliseconds that tests have let pass at once.
    #[cfg(test)]
    passed: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Clock {
    pub(super) fn new() -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            wall: Time(millis(wall)),
            start: Instant::now(),
            #[cfg(test)]
            passed: std::sync::Arc::default(),
        }
    }

    pub(super) fn now(&self) -> Time {
        let now = self.wall.plus(millis(self.start.elapsed()));
        #[cfg(test)]
        let now = now.plus(self.passed.load(std::sync::atomic::Ordering::Relaxed));
        now
    }

    /// Lets time pass, for all that share this clock.
    #[cfg(test)]
    pub(super) fn pass(&self, time: Duration) {
        let order = std::sync::atomic::Ordering::Relaxed;
        self.passed.fetch_add(millis(time), order);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
