//! Numbers, times and texts of others for people.

/// A text that somebody else has written: control characters, with which it could move the cursor, change
/// what was shown or ask the terminal for something, become spaces. Lines stay lines.
pub(crate) fn plain(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => c,
        c if c.is_control() => ' ',
        c => c,
    };
    text.chars().map(shown).collect()
}

/// A count with separators: `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A figure with four significant digits: `0.9312`, `12.35`, `1.2e-5`.
pub(crate) fn figure(number: f64) -> String {
    let size = number.abs();
    if !number.is_finite() || number == 0.0 {
        format!("{number}")
    } else if !(1e-3..1e6).contains(&size) {
        format!("{number:.2e}")
    } else if size < 10.0 {
        format!("{number:.4}")
    } else if size < 100.0 {
        format!("{number:.2}")
    } else {
        format!("{number:.0}")
    }
}

/// A rate: `932`, `12.3k`, `1.2M`.
pub(crate) fn rate(number: f64) -> String {
    match number {
        n if !n.is_finite() || n < 0.0 => "-".to_owned(),
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n if n >= 1e4 => format!("{:.1}k", n / 1e3),
        n if n >= 100.0 => format!("{n:.0}"),
        n => format!("{n:.1}"),
    }
}

/// A size in memory: `512 B`, `4.1 kB`, `12.3 MB`.
pub(crate) fn bytes(number: u64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let exact = number as f64;
    match units.into_iter().find(|(size, _)| exact >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", exact / size),
        None => format!("{number} B"),
    }
}

/// A short length of time: `1.2 ms`, `350 ms`, `2.1 s`.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() || s < 0.0 => "-".to_owned(),
        s if s >= 1.0 => format!("{s:.1} s"),
        s if s >= 0.1 || s == 0.0 => format!("{:.0} ms", s * 1e3),
        s => format!("{:.1} ms", s * 1e3),
    }
}

/// A length of time in at most two units, as kubectl shows ages: `45s`, `3m12s`, `5h3m`, `2d4h`.
pub(crate) fn span(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-".to_owned();
    }
    // The cast saturates; a span that long is shown as such.
    let total = seconds.round() as u64;
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let first = units
        .iter()
        .position(|(_, size)| total >= *size)
        .unwrap_or(3);
    let (name, size) = units[first];
    let mut text = format!("{}{name}", total / size);
    if let Some((name, smaller)) = units.get(first + 1) {
        let rest = total % size / smaller;
        if rest > 0 {
            text.push_str(&format!("{rest}{name}"));
        }
    }
    text
}

/// A moment as RFC 3339 in UTC with milliseconds: `2026-11-24T03:28:26.123Z`.
pub(crate) fn moment(millis: u64) -> String {
    let (seconds, rest) = (millis / 1000, millis % 1000);
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{rest:03}Z",
        time / 3600,
        time / 60 % 60,
        time % 60
    )
}

/// Time of day in UTC: `03:28:26`.
pub(crate) fn clock(millis: u64) -> String {
    moment(millis)[..19]
        .rsplit('T')
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Year, month and day of the Gregorian calendar, days after 1970-01-01. Counts in 400-year eras
/// that start on the first of March, so that leap days come last.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// Milliseconds since 1970 now.
pub(crate) fn now_millis() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_steer_no_terminal() {
        // Escapes, also those of one character, are gone; lines and letters of all scripts stay.
        let text = plain("a\tb\nc\u{1b}]0;title\u{7}\r\u{9b}2J\u{7f}é漢");
        assert_eq!(text, "a\tb\nc ]0;title   2J é漢");
    }

    #[test]
    fn numbers_are_readable() {
        // Counts, figures, rates and spans are short and keep what matters.
        assert_eq!(
            [count(0), count(999), count(1_234_567)],
            ["0", "999", "1,234,567"]
        );
        let figures = [0.0, 0.93123, -0.5, 12.3456, 512.4, 1.2e-5, f64::NAN].map(figure);
        assert_eq!(
            figures,
            ["0", "0.9312", "-0.5000", "12.35", "512", "1.20e-5", "NaN"]
        );
        assert_eq!(
            [1.25, 932.4, 12_345.0, 1.25e6, -1.0].map(rate),
            ["1.2", "932", "12.3k", "1.2M", "-"]
        );
        assert_eq!(
            [0, 999, 4_096, 12_345_678, 5_000_000_000_000].map(bytes),
            ["0 B", "999 B", "4.1 kB", "12.3 MB", "5.0 TB"]
        );
        assert_eq!(
            [0.0, 0.0012, 0.35, 2.14, f64::NAN].map(duration),
            ["0 ms", "1.2 ms", "350 ms", "2.1 s", "-"]
        );
        let spans = [0.2, 45.0, 192.0, 3600.0, 18_180.0, 187_200.0, f64::NAN].map(span);
        assert_eq!(spans, ["0s", "45s", "3m12s", "1h", "5h3m", "2d4h", "-"]);
    }

    #[test]
    fn moments_are_right() {
        // The calendar is right at its corners: epoch, leap days, ends of year and century.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (1_798_761_599, "2026-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(moment(seconds * 1000), text);
        }
        assert_eq!(clock(1_709_251_199_000), "23:59:59");
    }
}
