//! Methods in turns on the same batches: a machine whose speed drifts slows both that are compared.

use crate::{Args, listen, plan, spec};
use anyhow::{Context as _, anyhow};
use espalier_comm::{Communicator, Listener, PeerAddr, Rendezvous, connect};
use espalier_spec::{JobSpec, Plan};
use espalier_worker::data::{Loader, LoaderOptions, Placement};
use espalier_worker::engine::{Sources, Trainer};
use serde_json::json;
use std::sync::{Arc, Barrier};
use std::time::Instant;

/// One of those that take turns.
struct Side {
    spec: JobSpec,
    plan: Plan,
    sources: Sources,
}

impl Side {
    fn new(args: &Args, method: &str) -> anyhow::Result<Self> {
        let (args, method) = args.of(method);
        let spec = spec(&args, &method)?;
        let sources = Sources::load(&spec)?;
        let plan = plan(&args, &spec, &sources.profile(&spec)?)?;
        Ok(Self {
            spec,
            plan,
            sources,
        })
    }
}

/// Prints a line of JSON for each method but the first: seconds of a step of each turn, ours and the first's.
pub fn all(args: &Args) -> anyhow::Result<()> {
    let sides = args.methods.iter().map(|method| Side::new(args, method));
    let sides: Vec<Side> = sides.collect::<anyhow::Result<_>>()?;
    let found = run(args, &sides)?;
    let (of_base, others) = found.split_first().context("--methods is empty")?;
    let base = &args.methods[0];
    let least = |turns: &[f64]| turns.iter().copied().fold(f64::INFINITY, f64::min);
    for (method, of_method) in args.methods[1..].iter().zip(others) {
        let ratio = |(mine, base): (&f64, &f64)| mine / base;
        let mut ratios: Vec<f64> = of_method.iter().zip(of_base).map(ratio).collect();
        ratios.sort_by(f64::total_cmp);
        println!(
            "{}",
            json!({
                "method": method, "base": base, "tasks": args.tasks, "ranks": args.ranks,
                "seconds": least(of_method), "base_seconds": least(of_base),
                "least_ratio": least(of_method) / least(of_base),
                "ratio": ratios.get(ratios.len() / 2), "ratios": ratios,
            })
        );
    }
    Ok(())
}

/// Seconds of a step in each turn of each side.
fn run(args: &Args, sides: &[Side]) -> anyhow::Result<Vec<Vec<f64>>> {
    let meet = Barrier::new(args.ranks);
    let groups = sides.iter().map(|_| listen(args.ranks));
    let groups = groups.collect::<anyhow::Result<Vec<Group>>>()?;
    std::thread::scope(|scope| {
        let start = |rank| {
            let (meet, groups) = (&meet, &groups);
            scope.spawn(move || {
                turns(args, sides, groups, rank, meet).unwrap_or_else(|error| {
                    eprintln!("error: rank {rank}: {error:#}");
                    // The others would wait for it at their next meeting.
                    std::process::exit(1)
                })
            })
        };
        let ranks: Vec<_> = (0..args.ranks).map(start).collect();
        let mut found = Err(anyhow!("no ranks"));
        for rank in ranks {
            // All measure from one meeting to the next, so that any rank's figures will do.
            found = rank.join().map_err(|_| anyhow!("a rank panicked"));
        }
        found
    })
}

type Group = (Vec<Listener>, Vec<PeerAddr>);

/// A rank's part in all turns.
fn turns(
    args: &Args,
    sides: &[Side],
    groups: &[Group],
    rank: usize,
    meet: &Barrier,
) -> anyhow::Result<Vec<Vec<f64>>> {
    let mut trainers = Vec::new();
    for (side, (listeners, peers)) in sides.iter().zip(groups) {
        let rendezvous = Rendezvous::new("bench", 1, rank, peers.clone());
        let comm: Arc<dyn Communicator> = Arc::new(connect(&listeners[rank], rendezvous)?);
        let backbone = side.sources.backbone(&side.spec, args.place()?)?;
        trainers.push(Trainer::new(
            &side.spec,
            &side.plan,
            comm,
            &side.sources,
            backbone,
        )?);
    }
    let plan = &sides[0].plan;
    let placement = Placement::new(
        args.ranks,
        plan.tasks.iter().map(|task| task.shards.as_slice()),
    )?;
    let steps = args.steps as usize;
    let all = args.warmup + args.steps * args.turns as u64;
    let options = LoaderOptions::new(0..all, vec![rank], placement);
    let sources = &sides[0].sources;
    let loader = Loader::start(sources.tasks.clone(), sources.order.clone(), options)?;
    let batches = loader.collect::<Result<Vec<_>, _>>()?;
    let (warm, measured) = batches.split_at(args.warmup as usize);
    let mut seconds = vec![Vec::new(); sides.len()];
    for batch in warm {
        for trainer in &mut trainers {
            trainer.step(batch, false)?;
            trainer.settle()?;
        }
    }
    for (turn, batches) in measured.chunks(steps).enumerate() {
        // Who begins changes from turn to turn.
        for side in (0..sides.len()).map(|place| (turn + place) % sides.len()) {
            meet.wait();
            let begin = Instant::now();
            for batch in batches {
                trainers[side].step(batch, false)?;
            }
            trainers[side].settle()?;
            meet.wait();
            seconds[side].push(begin.elapsed().as_secs_f64() / steps as f64);
        }
    }
    Ok(seconds)
}
