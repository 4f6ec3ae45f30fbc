//! `espalier balance`: what each method would make of a Gram matrix, without training.

mod input;
mod list;
mod result;

use crate::Outcome;
use crate::error::{Code, Error, Result};
use crate::output::{Cell, Context, Screen, Table, text};
use espalier_balance::Gram;
use espalier_spec::balancer::{BalancerSpec, Class, METHODS};
use owo_colors::Style;
use result::{Found, solve};
use serde::Serialize;
use std::fmt::Write;

const EXAMPLES: &str = "\
Examples:
  espalier balance --list                                    all methods with their parameters
  espalier balance --gram '[[18, -22], [-22, 38]]'           all methods side by side
  espalier balance --method upgrad --gram '[[18, -22], [-22, 38]]' --tasks topic,tone
  espalier balance --method cagrad --param c=0.4 --gram @gram.json -o json
  espalier balance --method famo --losses '[0.5, 2]' --gram '[[18, -22], [-22, 38]]'

The Gram matrix holds the scalar products of the tasks' gradients. A method that remembers steps
answers as at its first one.";

/// Weigh the tasks of a Gram matrix by one method, or by all side by side
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The method; without it, all of them
    #[arg(long, value_name = "NAME")]
    method: Option<String>,
    /// The Gram matrix as JSON, `[[..], [..]]`, or `@FILE`
    #[arg(long, value_name = "JSON", required_unless_present = "list")]
    gram: Option<String>,
    /// The tasks' losses as JSON; default: 1 each
    #[arg(long, value_name = "JSON")]
    losses: Option<String>,
    /// A parameter of the method; may be repeated
    #[arg(long = "param", value_name = "NAME=VALUE", requires = "method")]
    params: Vec<String>,
    /// Names of the tasks, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    tasks: Vec<String>,
    /// Print the methods with class, paper and parameters instead
    #[arg(long, conflicts_with_all = ["gram", "losses", "params", "tasks"])]
    list: bool,
}

/// The answer for one method.
#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    found: Found,
    tasks: Vec<String>,
    /// Between the tasks' gradients.
    cosines: Vec<Vec<f64>>,
}

pub(crate) fn run(args: &Args, context: &Context) -> Outcome {
    if args.list {
        return list::run(args.method.as_deref(), context);
    }
    // clap asks for it.
    let given = args.gram.as_deref().unwrap_or_default();
    let gram = input::gram(given)?;
    let losses = match &args.losses {
        Some(given) => input::losses(given, gram.k())?,
        None => vec![1.0; gram.k()],
    };
    let tasks = input::tasks(&args.tasks, gram.k())?;
    match &args.method {
        Some(name) => {
            let spec = input::spec(name, &args.params, gram.k())?;
            let found = solve(&spec, &gram, &losses)
                .map_err(|message| Error::failure(format!("{name}: {message}")))?;
            let answer = Answer {
                found,
                tasks,
                cosines: cosines(&gram),
            };
            context.answer(&answer, |screen| one(&answer, &gram, &losses, screen))?;
        }
        None => all(&gram, &losses, &tasks, context)?,
    }
    Ok(Code::Ok)
}

fn cosines(gram: &Gram) -> Vec<Vec<f64>> {
    (0..gram.k())
        .map(|i| (0..gram.k()).map(|j| gram.cosine(i, j)).collect())
        .collect()
}

/// One method, task by task.
fn one(answer: &Answer, gram: &Gram, losses: &[f64], screen: &Screen) -> String {
    let found = &answer.found;
    let headings = ["TASK", "WEIGHT", "GAIN", "NORM", "LOSS"];
    let mut table = Table::new(
        headings
            .into_iter()
            .map(str::to_owned)
            .chain(answer.tasks.iter().map(|task| format!("cos {task}"))),
    );
    for (i, task) in answer.tasks.iter().enumerate() {
        let gain = found.gains[i];
        let mut row = vec![
            Cell::from(task.as_str()),
            Cell::right(text::figure(found.weights[i])),
            signed(gain),
            Cell::right(text::figure(gram.norm(i))),
            Cell::right(text::figure(losses[i])),
        ];
        row.extend(
            answer.cosines[i]
                .iter()
                .map(|&cosine| signed_cosine(cosine)),
        );
        table.row(row);
    }
    let mut out = table.render(screen, 0);
    let norm = text::figure(found.update_norm);
    // Writing into a String can't fail.
    let _ = writeln!(out, "\n{}: update of norm {norm}", found.method);
    if let Some(reason) = &found.fallback {
        let _ = writeln!(out, "equal weights were used: {reason}");
    }
    out
}

/// All methods that a Gram matrix and losses are enough for, then those that need more.
fn all(gram: &Gram, losses: &[f64], tasks: &[String], context: &Context) -> Result<()> {
    let mut found = Vec::new();
    let mut silent: Vec<(&str, String)> = Vec::new();
    for info in &METHODS {
        // The same as the method that works on the backbone's gradients.
        if info.class == Class::Representation {
            continue;
        }
        match solve(&BalancerSpec::of(info.method), gram, losses) {
            Ok(answer) => found.push(answer),
            Err(reason) => silent.push((info.name, reason)),
        }
    }
    context.answer(&found, |screen| {
        let weights = tasks.iter().map(|task| format!("w {task}"));
        let gains = tasks.iter().map(|task| format!("gain {task}"));
        let mut table = Table::new(
            std::iter::once("METHOD".to_owned())
                .chain(weights)
                .chain(std::iter::once("NORM".to_owned()))
                .chain(gains),
        );
        for answer in &found {
            let mark = if answer.fallback.is_some() { " *" } else { "" };
            let mut row = vec![Cell::from(format!("{}{mark}", answer.method))];
            row.extend(answer.weights.iter().map(|&w| Cell::right(text::figure(w))));
            row.push(Cell::right(text::figure(answer.update_norm)));
            row.extend(answer.gains.iter().map(|&gain| signed(gain)));
            table.row(row);
        }
        let mut out = table.render(screen, 0);
        out.push_str("\na gain is the rate at which a task's loss falls; below 0 it rises\n");
        if found.iter().any(|answer| answer.fallback.is_some()) {
            out.push_str("* equal weights: the method has no solution here\n");
        }
        for (name, reason) in &silent {
            let _ = writeln!(out, "{name}: {reason}");
        }
        out
    })
}

/// A gain, in red where the task loses.
fn signed(gain: f64) -> Cell {
    let cell = Cell::right(text::figure(gain));
    if gain < 0.0 {
        cell.painted(Style::new().red())
    } else {
        cell
    }
}

fn signed_cosine(cosine: f64) -> Cell {
    let cell = Cell::right(format!("{cosine:.3}"));
    if cosine < 0.0 {
        cell.painted(Style::new().red())
    } else {
        cell
    }
}
