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

/// How much of everybody's limits an operator may take up: it calls for everybody who may create a
/// TrainingJob and follows each job, and its watches must leave some of `--max-watches` to others.
pub(super) const OPERATOR: u32 = 10;

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
    /// Times everybody's limits that it may take up.
    times: u32,
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
    fn burst(&self, times: u32) -> f64 {
        2.0 * f64::from(self.rate) * f64::from(times)
    }

    fn filled(&self, usage: &Usage, now: Instant) -> f64 {
        let rate = f64::from(self.rate) * f64::from(usage.times);
        let gained = now.saturating_duration_since(usage.at).as_secs_f64() * rate;
        (usage.bucket + gained).min(self.burst(usage.times))
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
        self.admit_times(caller, 1, span, now)
    }

    /// Takes a place for a call of one that may take up everybody's limits so many `times`.
    ///
    /// # Errors
    ///
    /// As [`Limits::admit`].
    pub(super) fn admit_times(
        self: &Arc<Self>,
        caller: &str,
        times: u32,
        span: Span,
        now: Instant,
    ) -> Result<Permit, ApiError> {
        let mut callers = self.callers();
        if callers.len() >= KEPT && !callers.contains_key(caller) {
            let idle = |usage: &Usage| {
                usage.calls + usage.watches == 0
                    && self.filled(usage, now) >= self.burst(usage.times)
            };
            callers.retain(|_, usage| !idle(usage));
        }
        let usage = callers.entry(caller.to_owned()).or_insert(Usage {
            times,
            bucket: self.burst(times),
            at: now,
            calls: 0,
            watches: 0,
        });
        usage.bucket = self.filled(usage, now);
        usage.at = now;
        if self.rate > 0 && usage.bucket < 1.0 {
            let rate = self.rate.saturating_mul(times);
            let wait = Duration::from_secs_f64((1.0 - usage.bucket) / f64::from(rate));
            let error = exhausted("TOO_FAST", rate, "calls in a second", "max-rate");
            return Err(error.with("retry_after_ms", wait.as_millis().max(1)));
        }
        let (held, limit) = match span {
            Span::Short => (&mut usage.calls, self.calls.saturating_mul(times)),
            Span::Watch => (&mut usage.watches, self.watches.saturating_mul(times)),
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

    // Promise: who calls for many may take up many times as much, and takes nothing from those it calls for.
    #[test]
    fn some_may_take_up_more() {
        let limits = limits(10, 2, 1);
        let now = Instant::now();
        let watch = || limits.admit_times("operator", 3, Span::Watch, now);
        let open: Vec<_> = (0..3).map(|_| watch().unwrap()).collect();
        let error = watch().unwrap_err();
        assert_eq!(error.reason, "TOO_MANY_CALLER_WATCHES");
        assert_eq!(error.metadata["limit"], "3");
        let call = || {
            limits
                .admit_times("operator", 3, Span::Short, now)
                .map(drop)
        };
        // Twice 30 at once, of which the watches were three.
        assert_eq!((0..100).filter(|_| call().is_ok()).count(), 57);
        let error = call().unwrap_err();
        assert_eq!(error.metadata["retry_after_ms"], "33");
        limits.admit("a", Span::Watch, now).map(drop).unwrap();
        drop(open);
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
