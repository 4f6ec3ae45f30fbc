//! Timestamps and durations of the wire, in plain numbers.

pub use prost_types::{Duration, Timestamp};

const NANOS: f64 = 1e9;

/// A timestamp from milliseconds since 1970-01-01T00:00:00Z.
#[must_use]
pub fn timestamp(millis: u64) -> Timestamp {
    // Both casts fit: millis / 1000 < 2^55 and the rest is below 10^9.
    Timestamp {
        seconds: (millis / 1000) as i64,
        nanos: ((millis % 1000) * 1_000_000) as i32,
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z; earlier times are 0.
#[must_use]
pub fn millis(timestamp: &Timestamp) -> u64 {
    let seconds = u64::try_from(timestamp.seconds).unwrap_or(0);
    let nanos = u64::try_from(timestamp.nanos).unwrap_or(0);
    seconds
        .saturating_mul(1000)
        .saturating_add(nanos / 1_000_000)
}

/// A duration from seconds, rounded to nanoseconds. Negative and not-a-number become 0, more than
/// 10,000 years (the most the wire allows) become that.
#[must_use]
pub fn duration(seconds: f64) -> Duration {
    const LIMIT: f64 = 315_576_000_000.0;
    let seconds = if seconds > 0.0 {
        seconds.min(LIMIT)
    } else {
        0.0
    };
    let whole = seconds.floor();
    let nanos = ((seconds - whole) * NANOS).round();
    if nanos >= NANOS {
        Duration {
            seconds: whole as i64 + 1,
            nanos: 0,
        }
    } else {
        Duration {
            seconds: whole as i64,
            nanos: nanos as i32,
        }
    }
}

/// Seconds of a duration.
#[must_use]
pub fn seconds(duration: &Duration) -> f64 {
    duration.seconds as f64 + f64::from(duration.nanos) / NANOS
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: times survive the wire to the millisecond, durations to the nanosecond.
    #[test]
    fn round_trips() {
        for value in [0, 1, 999, 1000, 1_764_000_000_123] {
            assert_eq!(millis(&timestamp(value)), value);
        }
        for value in [0.0, 0.25, 59.999_999_999, 1e6 + 0.5] {
            assert!((seconds(&duration(value)) - value).abs() < 1e-9);
        }
    }

    // Promise: no number makes a duration that the wire forbids.
    #[test]
    fn odd_numbers_become_legal() {
        assert_eq!(duration(-1.0), Duration::default());
        assert_eq!(duration(f64::NAN), Duration::default());
        assert_eq!(duration(f64::INFINITY).seconds, 315_576_000_000);
        assert_eq!(
            duration(1.999_999_999_9),
            Duration {
                seconds: 2,
                nanos: 0
            }
        );
    }
}
