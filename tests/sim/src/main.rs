//! Plays seeds until something breaks or it was told to stop.

use clap::Parser;
use espalier_sim::{Bug, Outcome, Setup, last_events, run, trace};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Simulates whole clusters under faults, one seed after the other, and checks what must hold.
#[derive(Debug, Parser)]
#[command(name = "espalier-sim")]
struct Args {
    /// Play this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Play these seeds: the first, and the one after the last.
    #[arg(long, value_name = "A..B", default_value = "1..41", value_parser = range)]
    seeds: Range<u64>,
    /// Events of each seed, at least.
    #[arg(long, default_value_t = 20_000)]
    events: u64,
    /// Go on with seeds beyond the last one until there were so many events in all.
    #[arg(long)]
    total: Option<u64>,
    /// Go on with seeds beyond the last one for so many minutes.
    #[arg(long)]
    minutes: Option<f64>,
    /// Write every event of the seed down.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Plant a mistake, such as `FenceIgnored`; needs the feature `planted`.
    #[arg(long, value_parser = bug)]
    bug: Option<Bug>,
}

/// Seeds that are summed up in one line.
const BATCH: u64 = 20;

fn range(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("{text} is no range of seeds; expected something like 1..41");
    let (first, end) = text.split_once("..").ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    Ok(number(first)?..number(end)?)
}

fn bug(text: &str) -> Result<Bug, String> {
    if !cfg!(feature = "planted") {
        return Err("mistakes can be planted with --features planted only".to_owned());
    }
    Bug::named(text).ok_or_else(|| format!("no such mistake; there are {:?}", Bug::ALL))
}

/// What came of several seeds.
#[derive(Default)]
struct Sum {
    seeds: u64,
    events: u64,
    milliseconds: u64,
    restores: u64,
    resumes: u64,
    exports: u64,
    faults: BTreeMap<&'static str, u64>,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.events += outcome.events;
        self.milliseconds += outcome.milliseconds;
        self.restores += outcome.restores;
        self.resumes += outcome.resumes;
        self.exports += outcome.exports;
        for (kind, count) in &outcome.faults {
            *self.faults.entry(kind).or_default() += count;
        }
    }

    fn line(&self, elapsed: Duration) -> String {
        let faults: Vec<String> = self
            .faults
            .iter()
            .map(|(kind, n)| format!("{kind} {n}"))
            .collect();
        format!(
            "{} seeds, {} events, {:.1} simulated hours, {:.0} events/s; recoveries: {} from \
             memory, {} from checkpoints; {} exports; {}",
            self.seeds,
            self.events,
            self.milliseconds as f64 / 3_600_000.0,
            self.events as f64 / elapsed.as_secs_f64().max(1e-9),
            self.restores,
            self.resumes,
            self.exports,
            faults.join(", ")
        )
    }
}

fn main() -> io::Result<ExitCode> {
    let args = Args::parse();
    let mut out = io::stdout().lock();
    let setup = |seed: u64| Setup {
        seed,
        events: args.events,
        bug: args.bug,
    };
    if let (Some(seed), true) = (args.seed, args.trace) {
        let outcome = trace(&setup(seed), |line| {
            // Whoever reads may have seen enough.
            let _ = writeln!(io::stdout(), "{line}");
        });
        writeln!(out, "seed {seed}: {:?}", outcome.broken)?;
        return Ok(code(outcome.broken.is_some()));
    }
    let seeds = match args.seed {
        Some(seed) => seed..seed.saturating_add(1),
        None => args.seeds.clone(),
    };
    let began = Instant::now();
    let limit = args
        .minutes
        .map(|minutes| Duration::from_secs_f64(minutes.max(0.0) * 60.0));
    let (mut sum, mut batch, mut batch_began) = (Sum::default(), Sum::default(), began);
    let mut seed = seeds.start;
    loop {
        let wanted = args.total.is_some_and(|total| sum.events < total)
            || limit.is_some_and(|limit| began.elapsed() < limit)
            || args.total.is_none() && limit.is_none() && seed < seeds.end;
        if !wanted {
            break;
        }
        let setup = setup(seed);
        let outcome = run(&setup);
        sum.add(&outcome);
        batch.add(&outcome);
        if let Some(broken) = &outcome.broken {
            for line in last_events(&setup) {
                writeln!(out, "{line}")?;
            }
            writeln!(
                out,
                "seed {seed}, event {}: {}: {}",
                outcome.events, broken.name, broken.message
            )?;
            writeln!(
                out,
                "again: cargo run -p espalier-sim -- --seed {seed} --events {} --trace",
                args.events
            )?;
            return Ok(code(true));
        }
        if batch.seeds == BATCH {
            writeln!(out, "to seed {seed}: {}", batch.line(batch_began.elapsed()))?;
            (batch, batch_began) = (Sum::default(), Instant::now());
        }
        seed = seed.saturating_add(1);
    }
    writeln!(out, "no promise broken: {}", sum.line(began.elapsed()))?;
    Ok(code(false))
}

fn code(failed: bool) -> ExitCode {
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
