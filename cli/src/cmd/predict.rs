//! `espalier predict`: applies an exported model to texts, images or sounds; one that predicts the next
//! token goes on with texts.
//!
//! The model runs in `espalier-worker predict`, a child process: this command links no torch. Inputs
//! go to its standard input as JSON Lines, answers come back in the same order.

mod input;

use crate::Outcome;
use crate::error::{Code, Error, Result};
use crate::local::find;
use crate::output::{Cell, Context, Format, Table, text};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Stdio;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, Command};

const EXAMPLES: &str = "\
Examples:
  echo 'a web server written in C' | espalier predict --model model
  espalier predict --model model --task section --file texts.txt
  espalier predict --model model --file texts.jsonl -o json      one JSON value per text
  espalier predict --model model --file texts.txt --labels weather,sport,music
  echo 'Once upon a' | espalier predict --model model --temperature 0.8 --top-k 40 -o json
  espalier predict --model model --file images.jsonl --masks masks -o json

Input is one text per line, or JSON Lines with a field `text` (and `pair`, for models of pairs of
texts and for those that rank them; or `question` and `context`, for models that find answers); for a model of images, JSON Lines
with a field `image`, the path of a PNG or JPEG or a list of numbers; for one of sounds, a field
`audio`, the path of a WAV or FLAC.";

/// Name of the file of an export that names its tasks.
const META: &str = "espalier.json";

/// Rows of a table that are shown at once: a stream has no end to wait for.
const ROWS: usize = 200;

/// Classes of a mask in a table: those with most pixels.
const SHARES: usize = 3;

/// Longest text in a table, in characters.
const SHOWN: usize = 60;

/// Apply an exported model to texts, images or sounds from a file or standard input
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Directory of an exported model
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Only this task; may be repeated
    #[arg(long = "task", value_name = "TASK")]
    tasks: Vec<String>,
    /// Classes to choose from in place of the tasks' own, comma-separated: the model was trained on none
    /// of them, and takes the one whose words are nearest to the text
    #[arg(long, value_name = "CLASS,CLASS", conflicts_with = "tasks")]
    labels: Option<String>,
    /// Words for one of --labels, to compare texts with in place of its name; may be repeated
    #[arg(long = "description", value_name = "CLASS=TEXT", requires = "labels")]
    descriptions: Vec<String>,
    /// A sentence with `{}` where one of --labels stands, such as "a text about {}"; may be repeated, and
    /// then the mean of all counts
    #[arg(long = "template", value_name = "TEXT", requires = "labels")]
    templates: Vec<String>,
    /// File with a vector for each class to choose from in place of the tasks' own, for a model that was
    /// trained with zero_shot.vectors; with --labels, only those of its classes
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["tasks", "descriptions", "templates"]
    )]
    labels_vectors: Option<PathBuf>,
    /// Most tokens to go on with a text, for a model with the head causal_lm; default 128
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Draw the next token by probabilities at this temperature; default 0: take the most probable one
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Draw from so many of the most probable tokens
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw from the most probable tokens that have this share of probability together
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Seed of what is drawn: the same one gives the same texts; default 0
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Go on with tokens alone whose text in tokenizer.json begins so
    #[arg(long, value_name = "PREFIX")]
    only_tokens: Option<String>,
    /// Write the mask of every image into this directory, as NUMBER.TASK.png, for a model with the head
    /// segmentation; the number of a pixel's class is its value
    #[arg(long, value_name = "DIR")]
    masks: Option<PathBuf>,
    /// File of inputs; default: standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// One answer of the worker.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    /// Absent for images and sounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    predictions: serde_json::Map<String, Value>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Outcome {
    if !args.model.is_dir() {
        return Err(Error::new(
            Code::NotFound,
            format!("there is no model directory {}", args.model.display()),
        )
        .hint("`espalier export JOB` says where a job's model is"));
    }
    check_tasks(args)?;
    let mut child = start(args)?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Error::failure(
            "can't talk to espalier-worker: it has no pipes",
        ));
    };
    let answers = BufReader::new(stdout).lines();
    let (fed, answered) = until_answered(
        input::feed_all(args.file.as_deref(), stdin),
        read(answers, context),
    )
    .await;
    if !matches!(fed, Some(Ok(_))) || answered.is_err() {
        // Not needed any more; it may have ended already.
        let _ = child.start_kill();
    }
    let status = child
        .wait()
        .await
        .map_err(|error| Error::failure(format!("can't wait for espalier-worker: {error}")))?;
    let (sent, received) = (fed.transpose()?, answered?);
    if !status.success() {
        return Err(
            Error::failure(format!("espalier-worker predict failed ({status})"))
                .hint("its own message is above"),
        );
    }
    let Some(sent) = sent else {
        return Err(Error::failure(format!(
            "espalier-worker ended after {received} answers, before it had all inputs"
        )));
    };
    if sent != received {
        return Err(Error::failure(format!(
            "{sent} inputs went in, but {received} answers came out"
        )));
    }
    if sent == 0 {
        context.note("no inputs");
    }
    Ok(Code::Ok)
}

/// Runs both until `read` ends: who gives no more answers takes no more inputs, and the next one may never
/// come. What `feed` ended with is absent if it had not ended.
async fn until_answered<F: Future, R: Future>(feed: F, read: R) -> (Option<F::Output>, R::Output) {
    let (mut feed, mut read) = (std::pin::pin!(feed), std::pin::pin!(read));
    let mut fed = None;
    loop {
        tokio::select! {
            answered = &mut read => return (fed, answered),
            end = &mut feed, if fed.is_none() => fed = Some(end),
        }
    }
}

fn start(args: &Args) -> Result<Child> {
    let worker = find("espalier-worker")?;
    let (vectors, descriptions) = (args.labels_vectors.iter(), args.descriptions.iter());
    // Threads that wait for one another in a long spin burn the time that the others need where CPUs are busy: a token
    // of a small model took twenty times as long. This many turns are as fast on idle CPUs as OpenMP's default, fewer
    // are not. The number is read as OpenMP is loaded, so the worker can't set it for itself, and it would win over a
    // policy.
    let own = ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"];
    let spins = match own.iter().any(|name| std::env::var_os(name).is_some()) {
        true => None,
        false => Some(("GOMP_SPINCOUNT", "3000")),
    };
    Command::new(&worker)
        .envs(spins)
        .arg("predict")
        .arg(joined("--model", &args.model))
        .arg("--format=jsonl")
        .args(args.tasks.iter().map(|task| joined("--task", task)))
        .args(args.labels.iter().map(|labels| joined("--labels", labels)))
        .args(vectors.map(|file| joined("--labels-vectors", file)))
        .args(descriptions.map(|one| joined("--description", one)))
        .args(args.templates.iter().map(|one| joined("--template", one)))
        .args(chosen(args))
        .args(args.masks.iter().map(|dir| joined("--masks", dir)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Error::failure(format!("can't run {}: {error}", worker.display())))
}

/// Flags of how tokens are chosen.
fn chosen(args: &Args) -> Vec<String> {
    let numbers = [
        ("max-new-tokens", args.max_new_tokens.map(|n| n.to_string())),
        ("temperature", args.temperature.map(|t| t.to_string())),
        ("top-k", args.top_k.map(|k| k.to_string())),
        ("top-p", args.top_p.map(|p| p.to_string())),
        ("seed", args.seed.map(|seed| seed.to_string())),
        ("only-tokens", args.only_tokens.clone()),
    ];
    let given = numbers
        .into_iter()
        .filter_map(|(name, value)| Some(format!("--{name}={}", value?)));
    given.collect()
}

/// A flag and its value in one word: in two, a value that begins with a hyphen would be taken for a flag.
fn joined(flag: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut word = OsString::from(flag);
    word.push("=");
    word.push(value);
    word
}

/// Reads and shows all answers; answers their number.
async fn read(mut lines: Lines<impl AsyncBufRead + Unpin>, context: &Context) -> Result<usize> {
    let mut count = 0;
    let mut rows: Vec<Answer> = Vec::new();
    while let Some(line) = lines
        .next_line()
        .await
        .map_err(|error| Error::failure(format!("can't read from espalier-worker: {error}")))?
    {
        let answer: Answer = serde_json::from_str(&line).map_err(|error| {
            Error::failure(format!(
                "espalier-worker answered what is no prediction: {error}: {line}"
            ))
        })?;
        count += 1;
        if context.format == Format::Table {
            rows.push(answer);
            if rows.len() == ROWS {
                context.print(&table(&rows, count + 1 - rows.len(), context))?;
                rows.clear();
            }
        } else if context.format == Format::Json {
            context.line(&answer)?;
        } else {
            context.print(&format!("---\n{}", crate::output::yaml(&answer)?))?;
        }
    }
    if !rows.is_empty() {
        context.print(&table(&rows, count + 1 - rows.len(), context))?;
    }
    Ok(count)
}

/// Checks the tasks that were asked for against those that the model names. What is no export the worker
/// refuses.
fn check_tasks(args: &Args) -> Result<()> {
    let meta = std::fs::read(args.model.join(META)).unwrap_or_default();
    let meta: Value = serde_json::from_slice(&meta).unwrap_or_default();
    let tasks = meta.get("tasks").and_then(Value::as_array);
    let name = |task: &Value| Some(task.get("name")?.as_str()?.to_owned());
    let known: Vec<String> = tasks.into_iter().flatten().filter_map(name).collect();
    let mut tasks = args.tasks.iter().filter(|_| !known.is_empty());
    let Some(unknown) = tasks.find(|task| !known.contains(task)) else {
        return Ok(());
    };
    let near = crate::error::nearest(unknown, known.iter().map(String::as_str));
    let hint = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("its tasks are {}", known.join(", ")),
    };
    Err(Error::new(Code::NotFound, format!("the model has no task {unknown:?}")).hint(hint))
}

/// `first`: the number of the first row, from 1.
fn table(rows: &[Answer], first: usize, context: &Context) -> String {
    let tasks: Vec<String> = rows
        .first()
        .map(|row| row.predictions.keys().cloned().collect())
        .unwrap_or_default();
    let has_text = rows.iter().any(|row| row.text.is_some());
    let headings = std::iter::once(if has_text { "TEXT" } else { "INPUT" }.to_owned())
        .chain(tasks.iter().map(|t| t.to_uppercase()));
    let mut table = Table::new(headings);
    for (index, row) in rows.iter().enumerate() {
        let text = row
            .text
            .clone()
            .unwrap_or_else(|| (first + index).to_string());
        let mut shown: String = text.chars().take(SHOWN).collect();
        if text.chars().count() > SHOWN {
            shown.push('…');
        }
        let cells = tasks.iter().map(|task| {
            let prediction = row.predictions.get(task).unwrap_or(&Value::Null);
            Cell::from(short(prediction))
        });
        table.row(std::iter::once(Cell::from(shown)).chain(cells));
    }
    table.render(&context.stdout, 0)
}

/// A prediction in a cell: `games 0.93`, `x11 0.91, gtk 0.72`, `3.2`.
fn short(prediction: &Value) -> String {
    let scored = |value: &Value| {
        let label = value.get("label").and_then(Value::as_str)?;
        let score = value.get("score").and_then(Value::as_f64)?;
        Some(format!("{label} {score:.2}"))
    };
    if let Some(tags) = prediction.get("tags").and_then(Value::as_array) {
        let tag = |tag: &Value| Some(tag.get("label")?.as_str()?.to_owned());
        let tags = tags.iter().map(|one| tag(one).unwrap_or("-".to_owned()));
        return tags.collect::<Vec<_>>().join(" ");
    }
    if let Some(labels) = prediction.get("labels").and_then(Value::as_array) {
        let labels: Vec<String> = labels.iter().filter_map(scored).collect();
        return if labels.is_empty() {
            "-".to_owned()
        } else {
            labels.join(", ")
        };
    }
    if let (Some(answer), Some(score)) = (
        prediction.get("answer"),
        prediction.get("score").and_then(Value::as_f64),
    ) {
        let answer = answer.as_str().unwrap_or("no answer");
        return format!("{answer} {score:.2}");
    }
    let told = prediction.get("completion").or(prediction.get("text"));
    if let Some(completion) = told.and_then(Value::as_str) {
        let mut shown: String = completion.chars().take(SHOWN).collect();
        if completion.chars().count() > SHOWN {
            shown.push('…');
        }
        return shown.replace('\n', "⏎");
    }
    if let Some(shares) = prediction.get("shares").and_then(Value::as_object) {
        let share = |(label, share): (&String, &Value)| Some((label.clone(), share.as_f64()?));
        let mut shares: Vec<(String, f64)> = shares.iter().filter_map(share).collect();
        shares.retain(|(_, share)| *share > 0.0);
        shares.sort_by(|a, b| b.1.total_cmp(&a.1));
        let shares = shares.iter().take(SHARES);
        let shares: Vec<String> = shares.map(|(label, s)| format!("{label} {s:.2}")).collect();
        return shares.join(", ");
    }
    if let Some(vector) = prediction.get("vector").and_then(Value::as_array) {
        return format!("{} numbers", vector.len());
    }
    if let Some(value) = prediction.get("value").and_then(Value::as_f64) {
        return text::figure(value);
    }
    scored(prediction).unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{short, until_answered};
    use serde_json::json;

    // Promise: the end of the answers ends the wait for inputs; inputs that end first are waited out.
    #[tokio::test]
    async fn no_input_is_waited_for_without_a_reader() {
        let endless = std::future::pending::<u8>();
        assert_eq!(until_answered(endless, async { 3 }).await, (None, 3));
        let later = async {
            tokio::task::yield_now().await;
            4
        };
        assert_eq!(until_answered(async { 1 }, later).await, (Some(1), 4));
    }

    #[test]
    fn predictions_fit_a_cell() {
        // Each kind of head has its short form.
        assert_eq!(
            short(&json!({"label": "games", "score": 0.934, "scores": {}})),
            "games 0.93"
        );
        let labels =
            json!({"labels": [{"label": "x11", "score": 0.9}, {"label": "gtk", "score": 0.5}]});
        assert_eq!(short(&labels), "x11 0.90, gtk 0.50");
        assert_eq!(short(&json!({"labels": []})), "-");
        let tags =
            json!({"tags": [{"label": "B-x", "score": 0.9}, null, {"label": "O", "score": 0.6}]});
        assert_eq!(short(&tags), "B-x - O");
        assert_eq!(short(&json!({"value": 3.25})), "3.2500");
        assert_eq!(short(&json!({"vector": [0.6, 0.8]})), "2 numbers");
        let shares = json!({"shares": {"a": 0.1, "b": 0.25, "c": 0.0, "d": 0.05, "e": 0.6}});
        assert_eq!(short(&shares), "e 0.60, b 0.25, a 0.10");
        let found = json!({"answer": "a fox", "score": 0.931, "start": 4, "end": 9});
        assert_eq!(short(&found), "a fox 0.93");
        let none = json!({"answer": null, "score": 0.5, "start": null, "end": null});
        assert_eq!(short(&none), "no answer 0.50");
        let text = json!({"completion": "one\ntwo", "tokens": 7, "stop": "length"});
        assert_eq!(short(&text), "one⏎two");
        assert_eq!(short(&json!({"text": "good morning"})), "good morning");
    }
}
