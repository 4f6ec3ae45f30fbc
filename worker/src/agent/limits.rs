//! How long the ranks of a worker may wait for others, as told on its command line.

use std::time::Duration;

/// Limits of waiting. Workers of one job should be given the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub struct Limits {
    /// A rank that is waited for, without a byte moved, counts as lost after this long. Must be longer than
    /// anything that one rank does while others wait: part of an evaluation, a checkpoint, an export.
    #[arg(long, value_name = "TIME", default_value = "120s", env = "ESPALIER_PEER_TIMEOUT", value_parser = positive)]
    pub peer_timeout: Duration,
    /// A rank whose process gives no sign of life for this long counts as lost: it was stopped, or its
    /// machine is gone. Ranks that only compute give signs; 0 switches them off.
    #[arg(long, value_name = "TIME", default_value = "5s", env = "ESPALIER_PEER_SILENCE", value_parser = time)]
    pub peer_silence: Duration,
    /// A rank that trains and makes no progress for this long writes down what it was doing; after three
    /// times as long its worker gives the job up, to be tried again, and ends itself if the rank does not end.
    /// 0: never.
    #[arg(long, value_name = "TIME", default_value = "60s", env = "ESPALIER_STALL_AFTER", value_parser = time)]
    pub stall_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            peer_timeout: Duration::from_secs(120),
            peer_silence: Duration::from_secs(5),
            stall_after: Duration::from_secs(60),
        }
    }
}

/// Reads a time such as `500ms`, `60s`, `2m` or `60` (seconds).
fn time(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let millis = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let number: Option<u64> = number.parse().ok();
    number
        .and_then(|number| number.checked_mul(millis))
        .filter(|_| millis > 0)
        .map(Duration::from_millis)
        .ok_or_else(|| "expected a time such as 500ms, 60s or 2m".to_owned())
}

/// The same, but not 0.
fn positive(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if time.is_zero() {
        return Err("expected more than 0".to_owned());
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, Command, FromArgMatches as _};

    // Promise: times are read with their unit, and what is none is refused.
    #[test]
    fn times_have_units() {
        for (text, millis) in [
            ("500ms", 500),
            ("60s", 60_000),
            ("2m", 120_000),
            ("7", 7_000),
        ] {
            assert_eq!(time(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(time("0"), Ok(Duration::ZERO));
        assert!(positive("0s").is_err());
        for text in ["", "s", "1d", "-1s", "1.5s", "99999999999999999999s", "s5"] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    // Promise: what the command line leaves out is the default.
    #[test]
    fn defaults_are_those_of_the_command_line() {
        let command = Limits::augment_args(Command::new("worker").no_binary_name(true));
        let matches = command.get_matches_from(["--stall-after", "60s"]);
        let limits = Limits::from_arg_matches(&matches).unwrap();
        assert_eq!(limits, Limits::default());
    }
}
