//! Times the training step of one method after another, ranks as threads of this process with one
//! compute thread each, and prints a line of JSON for each: what `tests/bench/balance.py` runs.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod turns;

use anyhow::{Context as _, anyhow};
use clap::Parser;
use espalier_comm::{
    Communicator, Kind, Listener, PeerAddr, Rendezvous, Traffic, connect, host_id,
};
use espalier_spec::exchange::{ExchangeType, Sharding};
use espalier_spec::plan::{BlockPlacement, ExchangePlan, Profile, Seat, SyncPath, TaskPlacement};
use espalier_spec::report::MemoryStats;
use espalier_spec::{Generation, JobId, JobSpec, Plan, Rank, Shard};
use espalier_worker::data::{Loader, LoaderOptions, Placement};
use espalier_worker::device::{self, Wanted};
use espalier_worker::engine::{Sources, StepReport, Trainer};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Times training steps.
#[derive(Clone, Parser)]
struct Args {
    /// Hugging Face directory of the backbone.
    #[arg(long)]
    model: PathBuf,
    /// Training files (text, label); reused where there are more tasks.
    #[arg(long, required = true, num_args = 1..)]
    data: Vec<PathBuf>,
    /// Tasks.
    #[arg(long, default_value_t = 2)]
    tasks: usize,
    /// Ranks.
    #[arg(long, default_value_t = 2)]
    ranks: usize,
    /// Where all ranks compute: cpu, or cuda:0 and so on.
    #[arg(long, default_value = "cpu")]
    device: Wanted,
    /// Compute threads of a rank.
    #[arg(long, default_value_t = 1)]
    threads: i32,
    /// Methods, comma-separated; `equal@all_reduce` is `equal` by all-reduce.
    #[arg(long, default_value = "equal", value_delimiter = ',')]
    methods: Vec<String>,
    /// Measured steps.
    #[arg(long, default_value_t = 10)]
    steps: u64,
    /// Steps before them.
    #[arg(long, default_value_t = 3)]
    warmup: u64,
    /// Samples per step, all ranks together.
    #[arg(long, default_value_t = 32)]
    batch: u32,
    /// none, optimizer or full.
    #[arg(long, default_value = "optimizer")]
    sharding: String,
    /// owner_combine or all_reduce.
    #[arg(long, default_value = "owner_combine")]
    sync: String,
    /// f32 or bf16.
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// batch-per-task; or shared-input: all tasks label the inputs of the first file.
    #[arg(long, default_value = "batch-per-task")]
    setting: String,
    /// Keep tasks apart even where the method does not need it: yes, no or auto.
    #[arg(long, default_value = "auto")]
    apart: String,
    /// Let each method and the first one take so many turns of `--steps` steps on the same batches, in one
    /// process, and print ratios; 0: time each by itself.
    #[arg(long, default_value_t = 0)]
    turns: usize,
}

impl Args {
    /// Where ranks compute.
    fn place(&self) -> anyhow::Result<tch::Device> {
        let folder = std::env::var_os("ESPALIER_CUDA").map(PathBuf::from);
        let names = self.device.devices(folder.as_deref())?;
        device::named(&names[0]).map_err(|error| anyhow!("{}: {error}", names[0]))
    }

    /// These, for one method.
    fn of(&self, method: &str) -> (Args, String) {
        let (method, sync) = match method.split_once('@') {
            Some((method, sync)) => (method, sync.to_owned()),
            None => (method, self.sync.clone()),
        };
        let args = Args {
            sync,
            ..self.clone()
        };
        (args, method.to_owned())
    }
}

/// What one rank saw.
struct Seen {
    reports: Vec<StepReport>,
    traffic: Traffic,
    before: Traffic,
    memory: MemoryStats,
}

fn main() -> anyhow::Result<()> {
    let given = Args::parse();
    given.place()?;
    tch::set_num_threads(given.threads);
    if given.turns > 0 {
        return turns::all(&given);
    }
    for method in &given.methods {
        let (args, method) = given.of(method);
        let spec = spec(&args, &method)?;
        let sources = Sources::load(&spec)?;
        let profile = sources.profile(&spec)?;
        let plan = plan(&args, &spec, &profile)?;
        let seen = run(&args, &spec, &plan, &sources)?;
        println!("{}", line(&args, &method, &plan, &profile, &seen));
    }
    Ok(())
}

fn spec(args: &Args, method: &str) -> anyhow::Result<JobSpec> {
    let shared = match args.setting.as_str() {
        "batch-per-task" => false,
        "shared-input" => true,
        other => return Err(anyhow!("--setting {other}: batch-per-task or shared-input")),
    };
    let task = |k: usize| {
        let data = &args.data[if shared { 0 } else { k % args.data.len() }];
        let head = match data.to_string_lossy().contains("works-with") {
            true => "multi_label",
            false => "single_label",
        };
        let mut task = json!({"name": format!("t{k}"), "head": head, "data": {"train": data}});
        if shared {
            task["input_group"] = json!("all");
        }
        task
    };
    Ok(serde_json::from_value(json!({
        "name": "bench",
        "backbone": {"path": args.model, "max_tokens": 64},
        "tasks": (0..args.tasks).map(task).collect::<Vec<_>>(),
        "sampler": "uniform",
        "balancer": method,
        "training": {"steps": args.steps * args.turns.max(1) as u64 + args.warmup, "batch_size": args.batch},
    }))?)
}

fn plan(args: &Args, spec: &JobSpec, profile: &Profile) -> anyhow::Result<Plan> {
    let ranks = args.ranks;
    let class = spec.balancer.method.info().class;
    let needed = class.separate_gradients();
    let shared = args.setting == "shared-input";
    let (tasks, all) = (args.tasks, args.sync == "all_reduce");
    let apart = match args.apart.as_str() {
        "yes" => true,
        "no" => false,
        _ => needed || (tasks <= ranks && !all && !shared),
    };
    let exchange = ExchangePlan {
        sync: match args.sync.as_str() {
            "owner_combine" => SyncPath::OwnerCombine,
            "all_reduce" => SyncPath::AllReduce,
            other => return Err(anyhow!("--sync {other}: owner_combine or all_reduce")),
        },
        sharding: match args.sharding.as_str() {
            _ if all => Sharding::None,
            "none" => Sharding::None,
            "optimizer" => Sharding::Optimizer,
            "full" => Sharding::Full,
            other => return Err(anyhow!("--sharding {other}: none, optimizer or full")),
        },
        apart,
        dtype: match args.dtype.as_str() {
            "f32" => ExchangeType::F32,
            "bf16" => ExchangeType::Bf16,
            other => return Err(anyhow!("--dtype {other}: f32 or bf16")),
        },
    };
    // Whole tasks on ranks where there are enough, else ranks share tasks.
    let shards_of = |k: usize| -> Vec<Shard> {
        let serves = |rank: &usize| match tasks >= ranks {
            _ if shared => true,
            true => k * ranks / tasks == *rank,
            false => rank * tasks / ranks == k,
        };
        let ranks = (0..ranks).filter(serves);
        ranks.map(|rank| Shard(rank as u32)).collect()
    };
    let cut = |total: u64| -> Vec<u64> {
        let end = |rank: usize| match rank == ranks {
            true => total,
            false => total * rank as u64 / ranks as u64 / 16 * 16,
        };
        (1..=ranks).map(end).collect()
    };
    Ok(Plan {
        job: JobId::from("bench"),
        generation: Generation(1),
        seats: (0..ranks)
            .map(|rank| Seat {
                rank: Rank(rank as u32),
                worker: "bench".into(),
                device: rank as u32,
            })
            .collect(),
        shards: (0..ranks).map(|rank| vec![Shard(rank as u32)]).collect(),
        tasks: (0..tasks)
            .map(|k| TaskPlacement {
                task: format!("t{k}"),
                load: vec![1.0; shards_of(k).len()],
                shards: shards_of(k),
            })
            .collect(),
        blocks: profile
            .blocks
            .iter()
            .map(|block| BlockPlacement {
                block: block.name.clone(),
                ends: cut(block.trainable),
            })
            .collect(),
        exchange,
        reasons: Vec::new(),
    })
}

fn run(args: &Args, spec: &JobSpec, plan: &Plan, sources: &Sources) -> anyhow::Result<Vec<Seen>> {
    let (listeners, peers) = listen(args.ranks)?;
    std::thread::scope(|scope| {
        let start = |(rank, listener)| {
            let peers = peers.clone();
            scope.spawn(move || rank_run(args, spec, plan, sources, (rank, listener, peers)))
        };
        let ranks: Vec<_> = listeners.iter().enumerate().map(start).collect();
        let joined = ranks.into_iter().map(|rank| {
            let result = rank.join().map_err(|_| anyhow!("a rank panicked"));
            result.and_then(|result| result)
        });
        joined.collect()
    })
}

/// A listener for each rank, and where it is.
fn listen(ranks: usize) -> anyhow::Result<(Vec<Listener>, Vec<PeerAddr>)> {
    let mut listeners = Vec::new();
    for _ in 0..ranks {
        listeners.push(Listener::bind(([127, 0, 0, 1], 0).into())?);
    }
    let peer = |(rank, listener): (usize, &Listener)| PeerAddr {
        rank,
        addr: listener.address(),
        host_id: host_id(),
    };
    let peers = listeners.iter().enumerate().map(peer).collect();
    Ok((listeners, peers))
}

fn rank_run(
    args: &Args,
    spec: &JobSpec,
    plan: &Plan,
    sources: &Sources,
    (rank, listener, peers): (usize, &Listener, Vec<PeerAddr>),
) -> anyhow::Result<Seen> {
    let rendezvous = Rendezvous::new("bench", 1, rank, peers);
    let comm: Arc<dyn Communicator> = Arc::new(connect(listener, rendezvous)?);
    let meter = comm.clone();
    let backbone = sources.backbone(spec, args.place()?)?;
    let mut trainer = Trainer::new(spec, plan, comm, sources, backbone)?;
    let placed = plan.tasks.iter().map(|task| task.shards.as_slice());
    let placement = Placement::new(args.ranks, placed)?;
    let steps = 0..args.warmup + args.steps;
    let options = LoaderOptions::new(steps, vec![rank], placement);
    let loader = Loader::start(sources.tasks.clone(), sources.order.clone(), options)?;
    let mut reports = Vec::new();
    let mut before = meter.traffic();
    for (number, batch) in loader.enumerate() {
        let report = trainer.step(&batch?, false).context("a step failed")?;
        if number as u64 >= args.warmup {
            reports.push(report);
        } else {
            // Until everything has come: what is on its way would count twice.
            trainer.settle()?;
            before = meter.traffic();
            trainer.memory();
        }
    }
    trainer.settle()?;
    Ok(Seen {
        reports,
        traffic: meter.traffic(),
        before,
        memory: trainer.memory(),
    })
}

fn line(args: &Args, method: &str, plan: &Plan, profile: &Profile, seen: &[Seen]) -> String {
    let median = |of: fn(&StepReport) -> f64| {
        let rank = |seen: &Seen| {
            let mut times: Vec<f64> = seen.reports.iter().map(of).collect();
            times.sort_by(f64::total_cmp);
            times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
        };
        seen.iter().map(rank).fold(0.0, f64::max)
    };
    let sent = |seen: &Seen, kinds: &[Kind]| {
        let of = |kind: &Kind| seen.traffic.of(*kind).sent - seen.before.of(*kind).sent;
        kinds.iter().map(of).sum::<u64>() / args.steps
    };
    let blocks = [Kind::AllToAll, Kind::AllGather, Kind::ReduceScatter];
    let blocks = if args.sync == "all_reduce" {
        vec![Kind::AllReduce]
    } else {
        blocks.to_vec()
    };
    // Blocks without the word table, of which only touched rows travel, and without the heads.
    let numbers: u64 = profile
        .blocks
        .iter()
        .skip(1)
        .map(|block| block.trainable)
        .sum();
    let heads = profile.blocks.last().map_or(0, |block| block.trainable);
    let served = |rank: u32| {
        let serves = |task: &&TaskPlacement| task.shards.contains(&Shard(rank));
        plan.tasks.iter().filter(serves).count() as u64
    };
    let most = (0..args.ranks as u32).map(served).max().unwrap_or(1);
    let slots = if plan.exchange.apart { most } else { 1 };
    let gathers = match plan.exchange.sharding {
        // Before forward and before backward of every slot's pass.
        Sharding::Full => 2 * slots,
        _ => 1,
    };
    let share = (args.ranks as u64 - 1) as f64 / args.ranks as f64;
    let backbone = (numbers - heads) as f64;
    let formula = 4.0 * share * (backbone * (slots + gathers) as f64 + 2.0 * heads as f64);
    let memory = seen
        .first()
        .map(|seen| seen.memory.clone())
        .unwrap_or_default();
    let most_sent = |kinds: &[Kind]| seen.iter().map(|s| sent(s, kinds)).max().unwrap_or(0);
    json!({
        "method": method, "tasks": args.tasks, "ranks": args.ranks, "sync": args.sync,
        "sharding": args.sharding, "dtype": args.dtype, "apart": plan.exchange.apart,
        "seconds": median(|report| report.times.total.as_secs_f64()),
        "exposed_seconds": median(|report| report.times.waited.as_secs_f64()),
        "exchange_seconds": median(|report| report.times.exchange.as_secs_f64()),
        "balance_seconds": median(|report| report.times.balancing.as_secs_f64()),
        "bytes_sent": most_sent(&blocks), "formula_bytes": formula,
        "row_bytes": most_sent(&[Kind::AllToAllBytes, Kind::AllGatherBytes]),
        "small_bytes": if args.sync == "all_reduce" { 0 } else { most_sent(&[Kind::AllReduce]) },
        "numbers": numbers, "parameter_bytes": memory.parameter_bytes,
        "peak_parameter_bytes": memory.peak_parameter_bytes,
        "gradient_bytes": memory.gradient_bytes, "optimizer_bytes": memory.optimizer_bytes,
        "buffer_bytes": memory.buffer_bytes,
        "peak_rss_mb": memory.peak_resident_bytes as f64 / 1e6,
    })
    .to_string()
}
