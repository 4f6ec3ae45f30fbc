//! What one caller may take up: calls in a second, calls under way, watches.
//!
//! A bucket and two counts per caller, taken and given back together. Callers that take up nothing
//! are forgotten, so that what is kept does not grow with the names that were ever seen.

use crate::config::AccessArgs;
use espalier_proto::{ApiError, ErrorKind};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Callers that may be kept before the idle ones are looked for.
const KEPT: usize = 1024;

/// How long a call lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    /// As long as an answer takes.
    Short,
    /// As long as the client likes.
    Watch,
}

/// Who may take up how much, and who does.
#[derive(Debug)]
pub(super) struct Limits {
    /// Calls in a second; 0: any number.
    rate: u32,
    calls: u32,
    watches: u32,
    callers: Mutex<BTreeMap<String, Usage>>,
}

#[derive(Clone, Copy, Debug)]
struct Usage {
    /// Calls that may be made at once, as of `at`.
    bucket: f64,
    at: Instant,
    calls: u32,
    watches: u32,
}

/// A place that a call holds until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    limits: Arc<Limits>,
    caller: String,
    span: Span,
}

impl Limits {
    /// The limits of these settings.
    pub(super) fn new(args: &AccessArgs) -> Self {
        Self {
            rate: args.max_rate,
            calls: args.max_calls,
            watches: args.max_caller_watches,
            callers: Mutex::default(),
        }
    }

    fn callers(&self) -> MutexGuard<'_, BTreeMap<String, Usage>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls that may be made at once after a while of none.
    fn burst(&self) -> f64 {
        2.0 * f64::from(self.rate)
    }

    fn filled(&self, usage: &Usage, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(usage.at).as_secs_f64() * f64::from(self.rate);
        (usage.bucket + gained).min(self.burst())
    }

    /// Takes a place for a call.
    ///
    /// # Errors
    ///
    /// `RESOURCE_EXHAUSTED`: the caller has taken up all it may.
    pub(super) fn admit(
        self: &Arc<Self>,
        caller: &str,
        span: Span,
        now: Instant,
    ) -> Result<Permit, ApiError> {
        let mut callers = self.callers();
        if callers.len() >= KEPT && !callers.contains_key(caller) {
            let idle = |usage: &Usage| {
                usage.calls + usage.watches == 0 && self.filled(usage, now) >= self.burst()
            };
            callers.retain(|_, usage| !idle(usage));
        }
        let usage = callers.entry(caller.to_owned()).or_insert(Usage {
            bucket: self.burst(),
            at: now,
            calls: 0,
            watches: 0,
        });
        usage.bucket = self.filled(usage, now);
        usage.at = now;
        if self.rate > 0 && usage.bucket < 1.0 {
            let wait = Duration::from_secs_f64((1.0 - usage.bucket) / f64::from(self.rate));
            let error = exhausted("TOO_FAST", self.rate, "calls in a second", "max-rate");
            return Err(error.with("retry_after_ms", wait.as_millis().max(1)));
        }
        let (held, limit) = match span {
            Span::Short => (&mut usage.calls, self.calls),
            Span::Watch => (&mut usage.watches, self.watches),
        };
        if *held >= limit {
            return Err(match span {
                Span::Short => exhausted("TOO_MANY_CALLS", limit, "calls at once", "max-calls"),
                Span::Watch => exhausted(
                    "TOO_MANY_CALLER_WATCHES",
                    limit,
                    "watches at once",
                    "max-caller-watches",
                ),
            });
        }
        *held += 1;
        if self.rate > 0 {
            usage.bucket -= 1.0;
        }
        drop(callers);
        Ok(Permit {
            limits: self.clone(),
            caller: caller.to_owned(),
            span,
        })
    }
}

fn exhausted(reason: &str, limit: u32, what: &str, flag: &str) -> ApiError {
    let message = format!(
        "one caller may have {limit} {what}; slow down, or ask whoever runs this cluster to raise --{flag}"
    );
    ApiError::new(ErrorKind::ResourceExhausted, reason, message).with("limit", limit)
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(usage) = self.limits.callers().get_mut(&self.caller) {
            let held = match self.span {
                Span::Short => &mut usage.calls,
                Span::Watch => &mut usage.watches,
            };
            *held = held.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn limits(rate: u32, calls: u32, watches: u32) -> Arc<Limits> {
        Arc::new(Limits {
            rate,
            calls,
            watches,
            callers: Mutex::default(),
        })
    }

    // Promise: a caller gets its rate, a burst of twice as many, and takes nothing from another one.
    #[test]
    fn rates() {
        let limits = limits(10, 1000, 1000);
        let start = Instant::now();
        let call = |who: &str, at: Instant| limits.admit(who, Span::Short, at).map(drop);
        for _ in 0..20 {
            call("a", start).unwrap();
        }
        let error = call("a", start).unwrap_err();
        assert_eq!(error.reason, "TOO_FAST");
        assert_eq!(error.metadata["retry_after_ms"], "100");
        call("b", start).unwrap();
        call("a", start + Duration::from_millis(101)).unwrap();
        assert!(call("a", start + Duration::from_millis(102)).is_err());
        // However long it was silent, no more than the burst.
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| call("a", later).is_ok()).count(), 20);
    }

    // Promise: places are given back when calls end, and watches have their own.
    #[test]
    fn places() {
        let limits = limits(0, 2, 1);
        let now = Instant::now();
        let admit = |span| limits.admit("a", span, now);
        let one = admit(Span::Short).unwrap();
        let two = admit(Span::Short).unwrap();
        assert_eq!(admit(Span::Short).unwrap_err().reason, "TOO_MANY_CALLS");
        let watch = admit(Span::Watch).unwrap();
        let error = admit(Span::Watch).unwrap_err();
        assert_eq!(error.reason, "TOO_MANY_CALLER_WATCHES");
        drop((one, watch));
        assert!(admit(Span::Short).is_ok() && admit(Span::Watch).is_ok());
        drop(two);
    }

    // Promise: names that were seen once are not kept for ever.
    #[test]
    fn idle_callers_are_forgotten() {
        let limits = limits(10, 10, 10);
        let now = Instant::now();
        let busy = limits.admit("busy", Span::Watch, now).unwrap();
        for number in 0..KEPT {
            drop(limits.admit(&format!("caller-{number}"), Span::Short, now));
        }
        let later = now + Duration::from_secs(60);
        limits.admit("new", Span::Short, later).map(drop).unwrap();
        assert_eq!(limits.callers().len(), 2);
        drop(busy);
    }
}
