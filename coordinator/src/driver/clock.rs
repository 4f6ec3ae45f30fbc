//! The time that the machine is given.

use espalier_core::Time;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Wall-clock time that never jumps: the time of day at the start plus what passed since, so that
/// a corrected clock does not make all workers look dead.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    wall: Time,
    start: Instant,
}

impl Clock {
    pub(super) fn new() -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            wall: Time(millis(wall)),
            start: Instant::now(),
        }
    }

    pub(super) fn now(self) -> Time {
        self.wall.plus(millis(self.start.elapsed()))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
