//! The `espalier-worker` command.

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use espalier_spec::job::Pooling;
use espalier_worker::agent::{self, Config, Limits, log::JobLog};
use espalier_worker::checkpoint::write_tensors;
use espalier_worker::data::Input;
use espalier_worker::generate::Sampling;
use espalier_worker::predict::{Predictor, write_masks};
use espalier_worker::zero_shot::{Class, Classes};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::prelude::*;

/// Inputs of one forward pass of `predict`.
const BATCH: usize = 32;

/// Hosts ranks of training jobs, or answers from an exported model.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Work for a coordinator until told to stop.
    Run(Run),
    /// Read inputs as JSON Lines from standard input ({"text": …} or {"image": […]}) and write
    /// answers as JSON Lines.
    Predict {
        /// Directory of an exported model.
        #[arg(long)]
        model: PathBuf,
        /// Only this task; may be repeated.
        #[arg(long = "task")]
        tasks: Vec<String>,
        /// Format of input and output.
        #[arg(long, default_value = "jsonl")]
        format: String,
        /// Compute threads.
        #[arg(long)]
        threads: Option<usize>,
        /// Directory that masks of images are written into, as NUMBER.TASK.png.
        #[arg(long)]
        masks: Option<PathBuf>,
        #[command(flatten)]
        zero_shot: ZeroShot,
        #[command(flatten)]
        generation: Generation,
    },
    /// Write features [n, h] of texts, one per line, and outputs of all heads of an export to a
    /// safetensors file: for comparing with other implementations.
    Forward {
        /// Directory of an exported model; with --pooling, any Hugging Face directory.
        #[arg(long)]
        model: PathBuf,
        /// File with one text per line.
        #[arg(long)]
        texts: PathBuf,
        /// File to write.
        #[arg(long)]
        out: PathBuf,
        /// Take the directory as one that was not exported here, and pool so: mean, cls, max, last
        /// or pooler.
        #[arg(long)]
        pooling: Option<String>,
        /// Longest text in tokens; an export knows its own.
        #[arg(long, default_value_t = 128, requires = "pooling")]
        max_tokens: u32,
        /// Write the vectors of all tokens before pooling, too: `hidden` [T, h].
        #[arg(long)]
        hidden: bool,
    },
}

/// How a model that predicts the next token goes on with texts.
#[derive(clap::Args)]
struct Generation {
    /// Most tokens that are made of one text; default 128.
    #[arg(long)]
    max_new_tokens: Option<usize>,
    /// Logits are divided by it; default 0, which takes the most probable token.
    #[arg(long)]
    temperature: Option<f64>,
    /// Draw from so many of the most probable tokens.
    #[arg(long)]
    top_k: Option<usize>,
    /// Draw from the most probable tokens that have this share of probability together.
    #[arg(long)]
    top_p: Option<f64>,
    /// Seed of what is drawn; default 0.
    #[arg(long)]
    seed: Option<u64>,
    /// Go on with tokens alone whose text in tokenizer.json begins so.
    #[arg(long, value_name = "PREFIX")]
    only_tokens: Option<String>,
}

impl Generation {
    /// How tokens are chosen; none if the model goes on with no texts.
    fn sampling(&self, generates: bool) -> anyhow::Result<Option<Sampling>> {
        let numbers = self.temperature.is_some() || self.top_p.is_some() || self.seed.is_some();
        if !generates {
            let others = self.max_new_tokens.is_some() || self.only_tokens.is_some();
            if numbers || others || self.top_k.is_some() {
                bail!(
                    "--max-new-tokens, --temperature, --top-k, --top-p, --seed and --only-tokens are for tasks \
                     with the head causal_lm, and there is none here; remove them"
                );
            }
            return Ok(None);
        }
        let usual = Sampling::default();
        let sampling = Sampling {
            max_new_tokens: self.max_new_tokens.unwrap_or(usual.max_new_tokens),
            temperature: self.temperature.unwrap_or(usual.temperature),
            top_k: self.top_k,
            top_p: self.top_p.unwrap_or(usual.top_p),
            seed: self.seed.unwrap_or(usual.seed),
        };
        sampling.check()?;
        Ok(Some(sampling))
    }
}

/// Classes that are named at prediction.
#[derive(clap::Args)]
struct ZeroShot {
    /// Classes to choose from in place of the tasks' own, comma-separated.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "CLASS,CLASS",
        conflicts_with = "tasks"
    )]
    labels: Vec<String>,
    /// Words for a class, to compare texts with in place of its name; may be repeated.
    #[arg(long = "description", value_name = "CLASS=TEXT", requires = "labels")]
    descriptions: Vec<String>,
    /// A sentence with `{}` where the class stands; may be repeated, and then the mean counts.
    #[arg(long = "template", value_name = "TEXT", requires = "labels")]
    templates: Vec<String>,
    /// File of vectors to choose from, for a model that was trained with zero_shot.vectors; with --labels,
    /// only these of its classes.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tasks", "descriptions", "templates"])]
    labels_vectors: Option<PathBuf>,
}

impl ZeroShot {
    /// What the answers are called.
    const TASK: &str = "label";

    /// The classes; none if none are named.
    fn classes(&self, predictor: &Predictor) -> anyhow::Result<Option<Classes>> {
        if let Some(file) = &self.labels_vectors {
            let vectors = espalier_worker::data::vectors::read(file)?;
            let wanted: Vec<String> = self.labels.iter().map(|l| l.trim().to_owned()).collect();
            return Ok(Some(Classes::by_vectors(predictor, &vectors, &wanted)?));
        }
        if self.labels.is_empty() {
            return Ok(None);
        }
        // What the model was trained on is called what it was called there.
        let known = |name: &str| {
            let task = predictor.entailing().or(predictor.described())?;
            let place = task.labels.iter().position(|label| label == name)?;
            task.classes.as_ref()?.texts.get(place).cloned()
        };
        let mut classes: Vec<Class> = Vec::with_capacity(self.labels.len());
        for label in &self.labels {
            let name = label.trim().to_owned();
            if name.is_empty() {
                bail!("--labels holds an empty class; name the classes, separated by commas");
            }
            let text = known(&name).unwrap_or_else(|| name.clone());
            classes.push(Class { name, text });
        }
        for description in &self.descriptions {
            let Some((name, text)) = description.split_once('=') else {
                bail!("--description {description:?} is not CLASS=TEXT");
            };
            let class = classes.iter_mut().find(|class| class.name == name.trim());
            let Some(class) = class else {
                bail!("--description names the class {name:?}, which is not among --labels");
            };
            class.text = text.trim().to_owned();
        }
        Ok(Some(Classes::new(predictor, &classes, &self.templates)?))
    }
}

#[derive(clap::Args)]
struct Run {
    /// Address of the coordinator; of several that stand in for each other, separated by commas or
    /// each with a flag of its own.
    #[arg(
        long,
        default_value = "http://127.0.0.1:7443",
        env = "ESPALIER_SERVER",
        value_delimiter = ','
    )]
    coordinator: Vec<String>,
    /// Name of this worker; default: host name and process id.
    #[arg(long)]
    name: Option<String>,
    /// Ranks that it hosts.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    ranks: u32,
    /// Compute threads of each rank; default: all cores divided by ranks. Ranks of a job with
    /// `resources.workers` have one each.
    #[arg(long)]
    threads: Option<usize>,
    /// Where jobs keep checkpoints and exports; all workers of a job must see the same directory.
    #[arg(long, default_value = "espalier-data")]
    data_dir: PathBuf,
    /// Address that ranks listen on for their peers; port 0 takes free ones.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Leave, as on SIGTERM, once this file exists; a machine's notice that it will be taken away.
    #[arg(long, value_name = "PATH")]
    notice_file: Option<PathBuf>,
    /// Format of the log.
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
    #[command(flatten)]
    limits: Limits,
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Run(run) => work(run),
        Command::Predict {
            model,
            tasks,
            format: _,
            threads,
            masks,
            zero_shot,
            generation,
        } => {
            let how = (&zero_shot, &generation, masks.as_deref());
            predict(&model, &tasks, how, threads)
        }
        Command::Forward {
            model,
            texts,
            out,
            pooling,
            max_tokens,
            hidden,
        } => load(&model, pooling.as_deref(), max_tokens)
            .and_then(|predictor| forward(&predictor, &texts, &out, hidden)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn work(run: Run) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env("ESPALIER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Lines of these hold signed URLs.
    let filter = filter.add_directive("object_store=warn".parse()?);
    let registry = tracing_subscriber::registry().with(JobLog);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false);
    if run.log_format == "json" {
        registry.with(layer.json().with_filter(filter)).init();
    } else {
        registry.with(layer.with_filter(filter)).init();
    }
    let data_dir = std::path::absolute(&run.data_dir)?;
    std::fs::create_dir_all(&data_dir)
        .with_context(|| format!("--data-dir {}: cannot create it", data_dir.display()))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let host = host_name();
    let config = Config {
        coordinator: run.coordinator.join(","),
        name: run
            .name
            .unwrap_or_else(|| format!("{host}-{}", std::process::id())),
        host,
        devices: vec!["cpu".to_owned(); run.ranks as usize],
        threads: run.threads.unwrap_or(cores / run.ranks as usize).max(1),
        data_dir,
        listen: run.listen,
        limits: run.limits,
    };
    tracing::info!(
        name = config.name,
        ranks = config.devices.len(),
        threads_per_rank = config.threads,
        device = "cpu",
        "worker starts"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let leave = agent::told_to_leave(run.notice_file);
    runtime.block_on(agent::run(config, leave))?;
    tracing::info!("worker ends");
    Ok(())
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() {
        "worker".to_owned()
    } else {
        name.to_owned()
    }
}

#[derive(Deserialize)]
struct Question {
    #[serde(alias = "question")]
    text: Option<String>,
    /// The second text of a pair.
    #[serde(alias = "context")]
    pair: Option<String>,
    image: Option<Picture>,
    audio: Option<String>,
}

/// An image: its numbers, or the path of its file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Picture {
    Numbers(Vec<f32>),
    Path(String),
}

#[derive(Serialize)]
struct Reply<'a, T: Serialize> {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    predictions: T,
}

fn predict(
    model: &Path,
    tasks: &[String],
    (zero_shot, generation, masks): (&ZeroShot, &Generation, Option<&Path>),
    threads: Option<usize>,
) -> anyhow::Result<()> {
    if let Some(threads) = threads {
        tch::set_num_threads(i32::try_from(threads.max(1))?);
    }
    let mut predictor = Predictor::load(model)?;
    predictor.check_tasks(tasks)?;
    let classes = zero_shot.classes(&predictor)?;
    let generates = classes.is_none() && predictor.generates(tasks);
    let sampling = generation.sampling(generates)?;
    if let Some(prefix) = &generation.only_tokens {
        predictor
            .keep_to(prefix)
            .with_context(|| format!("--only-tokens {prefix}"))?;
    }
    if let Some(dir) = masks {
        if classes.is_some() || !predictor.makes_masks(tasks) {
            bail!(
                "--masks is for tasks with the head segmentation, and there is none here; remove it"
            );
        }
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    let (mut prompts, mut done) = (0, 0);
    let mut lines = std::io::stdin().lock().lines().enumerate();
    let mut out = std::io::stdout().lock();
    loop {
        let mut texts = Vec::new();
        let mut inputs = Vec::new();
        for (number, line) in lines.by_ref().take(BATCH) {
            let line = line.with_context(|| format!("line {}", number + 1))?;
            let question: Question = serde_json::from_str(&line).with_context(|| {
                format!(
                    "line {}: expected {{\"text\": …}}, {{\"image\": path or […]}} or {{\"audio\": path}}",
                    number + 1
                )
            })?;
            let Question {
                text,
                pair,
                image,
                audio,
            } = question;
            let input = match (&text, image, audio, predictor.reads()) {
                (Some(text), None, None, "texts") => match &pair {
                    Some(second) => predictor.pair(text, second),
                    None => predictor.text(text),
                },
                (None, Some(Picture::Numbers(numbers)), None, "images") => {
                    Ok(Input::Numbers(numbers.into()))
                }
                (None, Some(Picture::Path(path)), None, "images")
                | (None, None, Some(path), "sounds") => predictor.file(&path),
                (.., reads) => bail!(
                    "line {}: this model reads {reads}; expected {}",
                    number + 1,
                    match reads {
                        "texts" => "{\"text\": …} or {\"text\": …, \"pair\": …}",
                        "images" => "{\"image\": path or […]}",
                        _ => "{\"audio\": path}",
                    }
                ),
            };
            inputs.push(input.with_context(|| format!("line {}", number + 1))?);
            texts.push(text);
        }
        if inputs.is_empty() {
            return Ok(());
        }
        let mut answers = match &classes {
            None => predictor.predict(&inputs, tasks)?,
            Some(classes) => {
                let nearest = match classes.reads_texts() {
                    true => {
                        let texts = texts.iter().map(|text| text.as_deref().unwrap_or_default());
                        classes.of_texts(&predictor, &texts.collect::<Vec<_>>())?
                    }
                    false => classes.nearest(&predictor, &inputs)?,
                };
                let nearest = nearest.into_iter();
                let named = |answer| BTreeMap::from([(ZeroShot::TASK.to_owned(), answer)]);
                nearest.map(named).collect()
            }
        };
        if classes.is_none() && predictor.entails(tasks) {
            for (text, answer) in texts.iter().zip(&mut answers) {
                answer.extend(predictor.entailed(text.as_deref().unwrap_or_default(), tasks)?);
            }
        }
        if let Some(sampling) = &sampling {
            for (text, answer) in texts.iter().zip(&mut answers) {
                let prompt = text.as_deref().unwrap_or_default();
                prompts += 1;
                let made = predictor.go_on(prompt, tasks, (sampling, prompts - 1));
                answer.extend(made.with_context(|| format!("line {prompts}"))?);
            }
        }
        if let Some(dir) = masks {
            write_masks(&mut answers, dir, done + 1)?;
        }
        done += answers.len();
        for (text, predictions) in texts.iter().zip(answers) {
            let reply = Reply {
                text: text.as_deref(),
                predictions,
            };
            writeln!(out, "{}", serde_json::to_string(&reply)?)?;
        }
    }
}

/// An export, or any model directory if a pooling is named.
fn load(model: &Path, pooling: Option<&str>, max_tokens: u32) -> anyhow::Result<Predictor> {
    let Some(name) = pooling else {
        return Ok(Predictor::load(model)?);
    };
    let pooling: Pooling = serde_json::from_value(name.into())
        .with_context(|| format!("--pooling {name}: expected mean, cls, max, last or pooler"))?;
    Ok(Predictor::load_plain(model, pooling, max_tokens)?)
}

fn forward(predictor: &Predictor, texts: &Path, out: &Path, hidden: bool) -> anyhow::Result<()> {
    let content = std::fs::read_to_string(texts).with_context(|| texts.display().to_string())?;
    let inputs: Result<Vec<Input>, _> = content.lines().map(|line| predictor.text(line)).collect();
    let inputs = inputs?;
    let features = predictor.features(&inputs)?;
    let mut tensors = vec![("features".to_owned(), features.shallow_clone())];
    for task in predictor.tasks() {
        let name = format!("outputs.{task}");
        tensors.push((name, predictor.outputs(task, &features)?));
    }
    if hidden {
        tensors.push(("hidden".to_owned(), predictor.hidden(&inputs)?));
    }
    write_tensors(out, &tensors, None)?;
    Ok(())
}
