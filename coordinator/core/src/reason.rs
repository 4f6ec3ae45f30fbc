//! Why a plan is so, in sentences for people.

use crate::generation::count;
use crate::place::{Problem, owned, work};
use espalier_spec::plan::{Plan, TaskPlacement};
use std::collections::BTreeSet;

/// Tasks that are named one by one.
const NAMED: usize = 12;

/// Difference between the ranks' shares of the measured work that is worth a sentence.
const UNEVEN: f64 = 0.05;

/// The reasons of a plan, in order of weight.
///
/// `whole`: whole tasks were dealt rather than cut; `exchange`: why gradients travel as they do.
pub(crate) fn reasons(
    plan: &Plan,
    problem: &Problem<'_>,
    whole: bool,
    exchange: Vec<String>,
) -> Vec<String> {
    let mut reasons = Vec::new();
    reasons.extend(tasks(plan));
    if whole && plan.seats.len() > 1 {
        let why = "tasks stay whole, since a split one would send a gradient more";
        reasons.push(why.to_owned());
    }
    reasons.push(balance(plan));
    reasons.extend(measured(plan, problem));
    reasons.extend(exchange);
    reasons.extend(ownership(plan, problem));
    reasons.extend(moved(plan, problem));
    reasons
}

/// Where tasks are computed.
fn tasks(plan: &Plan) -> Vec<String> {
    if plan.seats.len() == 1 {
        return vec!["rank 0 is alone: it computes all tasks".to_owned()];
    }
    let (split, whole): (Vec<_>, Vec<_>) = plan
        .tasks
        .iter()
        .partition(|task| ranks_of(plan, task).len() > 1);
    let mut sentences = Vec::new();
    for task in split.iter().take(NAMED) {
        let ranks = ranks_of(plan, task);
        sentences.push(format!(
            "{} is shared by {}",
            part(task),
            ranks_text(&ranks)
        ));
    }
    if let Some(more) = split.len().checked_sub(NAMED).filter(|more| *more > 0) {
        sentences.push(format!(
            "{} more are shared by several ranks",
            count(more, "task")
        ));
    }
    if whole.len() <= NAMED {
        for task in whole {
            sentences.push(format!(
                "{} stays on {}",
                part(task),
                ranks_text(&ranks_of(plan, task))
            ));
        }
    } else {
        sentences.push(format!(
            "{} stay on one rank each",
            count(whole.len(), "task")
        ));
    }
    sentences
}

/// "section (41 % of the predicted work)".
fn part(task: &TaskPlacement) -> String {
    let load: f64 = task.load.iter().sum();
    let digits = if load < 0.01 { 2 } else { 0 };
    format!(
        "{} ({:.digits$} % of the predicted work)",
        task.task,
        load * 100.0
    )
}

fn ranks_of(plan: &Plan, task: &TaskPlacement) -> BTreeSet<usize> {
    let hosts = |rank: &usize| task.shards.iter().any(|s| plan.shards[*rank].contains(s));
    (0..plan.shards.len()).filter(hosts).collect()
}

/// "rank 0", "rank 0 and rank 1", "ranks 0 to 3", "ranks 0, 2 and 5".
fn ranks_text(ranks: &BTreeSet<usize>) -> String {
    let ranks: Vec<usize> = ranks.iter().copied().collect();
    match ranks.as_slice() {
        [] => "no rank".to_owned(),
        [one] => format!("rank {one}"),
        [one, two] => format!("rank {one} and rank {two}"),
        [first, .., last] if last - first + 1 == ranks.len() => {
            format!("ranks {first} to {last}")
        }
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(ToString::to_string).collect();
            format!("ranks {} and {last}", first.join(", "))
        }
    }
}

/// How even the work is.
fn balance(plan: &Plan) -> String {
    let work = work(plan);
    let least = work.iter().copied().fold(f64::INFINITY, f64::min) * 100.0;
    let most = work.iter().copied().fold(0.0, f64::max) * 100.0;
    let (least, most) = (format!("{least:.1}"), format!("{most:.1}"));
    if least == most {
        let who = if work.len() == 1 {
            "rank 0"
        } else {
            "each rank"
        };
        return format!("{who} does {most} % of it all");
    }
    let shards: usize = plan.shards.iter().map(Vec::len).sum();
    let why = if shards.is_multiple_of(plan.seats.len()) {
        String::new()
    } else {
        format!(", as {} don't divide evenly", count(shards, "shard"))
    };
    format!("the ranks do between {least} % and {most} % of it all{why}")
}

/// How even the work was by measured cost, where that differs.
fn measured(plan: &Plan, problem: &Problem<'_>) -> Option<String> {
    let milliseconds = problem.measured?;
    let mut costs = Vec::with_capacity(plan.tasks.len());
    for task in &problem.profile.tasks {
        let cost = task.share * milliseconds.get(&task.name)?;
        costs.push(cost);
    }
    let all: f64 = costs.iter().sum();
    let known = all.is_finite() && all > 0.0 && costs.iter().all(|cost| *cost >= 0.0);
    let shares = plan.shards.iter().map(|shards| {
        let tasks = plan.tasks.iter().zip(&costs);
        let shares = tasks.map(|(task, cost)| {
            let whole: f64 = task.load.iter().sum();
            let mine = task.shards.iter().zip(&task.load);
            let mine = mine.filter(|(shard, _)| shards.contains(shard));
            mine.map(|(_, load)| load).sum::<f64>() / whole * cost / all
        });
        shares.sum::<f64>()
    });
    let shares: Vec<f64> = shares.collect();
    let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
    let most = shares.iter().copied().fold(0.0, f64::max);
    (known && most - least > UNEVEN).then(|| {
        format!(
            "by measured cost the ranks did between {:.1} % and {:.1} %; tasks stay where they \
             are, so that the result keeps its bits",
            least * 100.0,
            most * 100.0
        )
    })
}

/// Who owns how much.
fn ownership(plan: &Plan, problem: &Problem<'_>) -> Vec<String> {
    let owned = owned(plan);
    let all = owned.iter().fold(0_u64, |sum, n| sum.saturating_add(*n));
    let least = short(owned.iter().copied().min().unwrap_or(0));
    let most = short(owned.iter().copied().max().unwrap_or(0));
    let all_text = short(all);
    let mut sentences = vec![if owned.len() == 1 {
        format!("rank 0 owns all {all_text} trainable numbers")
    } else if least == most {
        format!("each rank owns {most} of {all_text} trainable numbers")
    } else {
        format!("the ranks own between {least} and {most} of {all_text} trainable numbers")
    }];
    let blocks = problem
        .profile
        .blocks
        .iter()
        .filter(|block| block.trainable == 0);
    let frozen: Vec<u64> = blocks.map(|block| block.total).collect();
    if !frozen.is_empty() {
        let numbers = short(frozen.iter().fold(0_u64, |sum, n| sum.saturating_add(*n)));
        sentences.push(format!(
            "{} {} frozen ({numbers} numbers): nobody owns {}",
            count(frozen.len(), "block"),
            if frozen.len() == 1 { "is" } else { "are" },
            if frozen.len() == 1 { "it" } else { "them" }
        ));
    }
    sentences
}

/// What changed against the generation before.
fn moved(plan: &Plan, problem: &Problem<'_>) -> Option<String> {
    let previous = problem.previous?;
    let before = previous.generation.0;
    if previous.seats == plan.seats {
        return Some(format!(
            "all ranks sit where they sat in generation {before}"
        ));
    }
    let same = plan
        .seats
        .iter()
        .filter(|seat| previous.seats.contains(seat))
        .count();
    Some(format!(
        "{} of {} sit where they sat in generation {before}",
        same,
        count(plan.seats.len(), "rank")
    ))
}

/// 950, 5.3 k, 10.6 M, 1.2 G.
fn short(number: u64) -> String {
    for (unit, name) in [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")] {
        if number >= unit {
            return format!("{:.1} {name}", number as f64 / unit as f64);
        }
    }
    number.to_string()
}
