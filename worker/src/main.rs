//! The `espalier-worker` command.

mod command;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use command::{Generation, Run, ZeroShot, work};
use espalier_spec::job::Pooling;
use espalier_worker::checkpoint::write_tensors;
use espalier_worker::data::Input;
use espalier_worker::predict::{Predictor, write_masks};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

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
#[expect(
    clippy::large_enum_variant,
    reason = "there is one, read once at the start"
)]
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
    let in_words = classes.is_none() && predictor.reads_both(tasks);
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
    // Blank lines say nothing and yet count: numbers of lines are those of whoever wrote them.
    let is_blank =
        |line: &std::io::Result<String>| line.as_ref().is_ok_and(|line| line.trim().is_empty());
    let lines = std::io::stdin().lock().lines().enumerate();
    let mut lines = lines.filter(|(_, line)| !is_blank(line));
    let mut out = std::io::stdout().lock();
    loop {
        let (mut texts, mut numbers) = (Vec::new(), Vec::new());
        let mut pairs = Vec::new();
        let mut inputs = Vec::new();
        let (mut worded, mut words) = (Vec::new(), Vec::new());
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
            let line = || format!("line {}", number + 1);
            if let (true, Some(text), None) = (in_words, &text, &pair) {
                worded.push(inputs.len());
                words.push(predictor.words(text).with_context(line)?);
            }
            inputs.push(input.with_context(line)?);
            texts.push(text);
            pairs.push(pair);
            numbers.push(number + 1);
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
        if !words.is_empty() {
            let more = predictor.predict(&words, tasks)?;
            for (place, more) in worded.into_iter().zip(more) {
                answers[place].extend(more);
            }
        }
        if classes.is_none() && predictor.entails(tasks) {
            for (text, answer) in texts.iter().zip(&mut answers) {
                answer.extend(predictor.entailed(text.as_deref().unwrap_or_default(), tasks)?);
            }
        }
        if classes.is_none() && predictor.ranks(tasks) {
            let given = texts.iter().zip(&pairs);
            let given =
                given.map(|(text, pair)| (text.as_deref().unwrap_or_default(), pair.as_deref()));
            let ranked = predictor.ranked(&given.collect::<Vec<_>>(), tasks)?;
            for (answer, more) in answers.iter_mut().zip(ranked) {
                answer.extend(more);
            }
        }
        if let Some(sampling) = &sampling {
            for ((text, number), answer) in texts.iter().zip(&numbers).zip(&mut answers) {
                let prompt = text.as_deref().unwrap_or_default();
                prompts += 1;
                let made = predictor.go_on(prompt, tasks, (sampling, prompts - 1));
                answer.extend(made.with_context(|| format!("line {number}"))?);
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
