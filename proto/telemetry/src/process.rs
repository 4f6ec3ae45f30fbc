//! What the system says of this process, by the names that all Prometheus clients use.

use crate::text::Text;
use std::fs;

/// Writes what is known; what can't be read is left out.
pub fn write(text: &mut Text) {
    if let Some(stat) = Stat::read() {
        text.counter("process_cpu_seconds", "Processor time that was used.")
            .number(&[], stat.cpu_seconds);
        text.gauge("process_resident_memory_bytes", "Memory that is resident.")
            .sample(&[], stat.resident_bytes);
        text.gauge("process_virtual_memory_bytes", "Memory that is mapped.")
            .sample(&[], stat.virtual_bytes);
        text.gauge("process_threads", "Threads.")
            .sample(&[], stat.threads);
        if let Some(booted) = booted() {
            text.gauge(
                "process_start_time_seconds",
                "When the process began, in seconds since 1970.",
            )
            .number(&[], booted + stat.started_seconds);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        text.gauge("process_open_fds", "File descriptors that are open.")
            .sample(&[], open.count() as u64);
    }
    if let Some(most) = most_files() {
        text.gauge("process_max_fds", "File descriptors that may be open.")
            .sample(&[], most);
    }
}

/// Of `/proc/self/stat`.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    threads: u64,
    /// After the machine came up.
    started_seconds: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name of the program, in brackets, may hold anything.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The first field behind the name is number 3 of proc(5).
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) as f64 / ticks,
            threads: field(20)?,
            started_seconds: field(22)? as f64 / ticks,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * rustix::param::page_size() as u64,
        })
    }
}

/// When the machine came up.
fn booted() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

fn most_files() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Format;

    // Promise: the numbers are found behind any name of a program, and they are this process's.
    #[test]
    fn a_process_knows_itself() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 4200 1000 3 184";
        let stat = Stat::parse(line).unwrap();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(stat.cpu_seconds, 300.0 / ticks);
        assert_eq!(stat.threads, 9);
        assert_eq!(stat.virtual_bytes, 1000);
        assert_eq!(stat.resident_bytes, 3 * rustix::param::page_size() as u64);
        assert_eq!(Stat::parse("7 (a) S 1"), None);
        let mut text = Text::new(Format::Classic);
        write(&mut text);
        let text = text.end();
        for name in [
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_start_time_seconds ",
            "process_open_fds ",
        ] {
            assert!(text.contains(name), "{text}");
        }
    }
}
