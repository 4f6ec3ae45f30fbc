//! Which tasks help and which hurt each other, in words.
//!
//! Pure functions of what a job reports, so that any page can show the same sentences.

use crate::output::text;
use espalier_spec::report::{Affinity, TaskPair};

/// Pairs that are named one by one, of each kind.
const NAMED: usize = 8;

/// Steps before which nothing is claimed.
const EARLY: u64 = 10;

/// A gradient so many times as long as another drowns it in a plain mean.
const DROWNS: f64 = 10.0;

/// What a pair of tasks does to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    /// Their gradients point the same way.
    Help,
    /// Their gradients point against each other.
    Hurt,
    /// The mean cosine is not beyond two standard errors, or the evidence is thin.
    Unclear,
}

impl Relation {
    /// What the evidence says of a pair.
    pub(crate) fn of(pair: &TaskPair) -> Self {
        match pair.error() {
            Some(error) if pair.steps >= EARLY && pair.cosine.abs() > 2.0 * error => {
                if pair.cosine > 0.0 {
                    Relation::Help
                } else {
                    Relation::Hurt
                }
            }
            _ => Relation::Unclear,
        }
    }

    /// In data.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Relation::Help => "help",
            Relation::Hurt => "hurt",
            Relation::Unclear => "unclear",
        }
    }

    /// In words.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Relation::Help => "help each other",
            Relation::Hurt => "hurt each other",
            Relation::Unclear => "no clear relation",
        }
    }
}

/// The pairs of one relation, the strongest first.
pub(crate) fn related(affinity: &Affinity, relation: Relation) -> Vec<&TaskPair> {
    let mut pairs: Vec<&TaskPair> = affinity
        .pairs
        .iter()
        .filter(|pair| Relation::of(pair) == relation)
        .collect();
    pairs.sort_by(|x, y| y.cosine.abs().total_cmp(&x.cosine.abs()));
    pairs
}

/// Which tasks help or hurt which, with how much evidence.
pub(crate) fn findings(affinity: &Affinity) -> Vec<String> {
    let mut sentences = Vec::new();
    for relation in [Relation::Help, Relation::Hurt] {
        let pairs = related(affinity, relation);
        for pair in pairs.iter().take(NAMED) {
            let (a, b, verb) = (&pair.a, &pair.b, relation.as_str());
            sentences.push(format!("{a} and {b} {verb}: {}", evidence(pair)));
        }
        if let Some(more) = pairs.len().checked_sub(NAMED).filter(|more| *more > 0) {
            let (noun, verb) = (count(more, "more pair"), relation.as_str());
            sentences.push(format!("{noun} of tasks {verb}"));
        }
    }
    let unclear = related(affinity, Relation::Unclear);
    match unclear.as_slice() {
        [] => {}
        pairs if pairs.len() <= 3 => sentences.extend(pairs.iter().map(|pair| {
            let (a, b) = (&pair.a, &pair.b);
            format!("{a} and {b}: no clear relation: {}", evidence(pair))
        })),
        pairs => {
            let least = pairs.iter().map(|pair| pair.steps).min().unwrap_or(0);
            sentences.push(format!(
                "{} of tasks: no clear relation, after {} or more",
                count(pairs.len(), "pair"),
                steps(least)
            ));
        }
    }
    let tasks = affinity.tasks.len();
    let unseen = (tasks * tasks.saturating_sub(1) / 2).saturating_sub(affinity.pairs.len());
    if unseen > 0 {
        let verb = if unseen == 1 { "was" } else { "were" };
        sentences.push(format!(
            "{} of tasks {verb} in no step together yet",
            count(unseen, "pair")
        ));
    }
    sentences
}

/// "cosine +0.31 ± 0.12 over 400 steps, 4 % of them in conflict".
fn evidence(pair: &TaskPair) -> String {
    format!(
        "cosine {:+.2} ± {:.2} over {}, {:.0} % of them in conflict",
        pair.cosine,
        pair.deviation,
        steps(pair.steps),
        pair.conflicts * 100.0
    )
}

/// What to try. `balanced`: the job already has a balancer that resolves conflicts.
pub(crate) fn advice(affinity: &Affinity, balanced: bool) -> Vec<String> {
    let seen = affinity.pairs.iter().map(|pair| pair.steps).max();
    if seen.unwrap_or(0) < EARLY {
        return vec![format!(
            "too early for advice: {} so far, at least {EARLY} are needed",
            steps(seen.unwrap_or(0))
        )];
    }
    let mut sentences = Vec::new();
    let hurt = related(affinity, Relation::Hurt);
    if let [worst, ..] = hurt.as_slice() {
        if balanced {
            sentences.push(format!(
                "the balancer already settles conflicts; if {} still suffers, train it apart",
                weaker(affinity, worst)
            ));
        } else {
            sentences
                .push("a balancer that settles conflicts, such as `balancer: upgrad`".to_owned());
        }
        let groups = groups(affinity);
        if groups.len() > 1 && groups.len() <= NAMED {
            let named: Vec<String> = groups
                .iter()
                .map(|group| format!("[{}]", group.join(", ")))
                .collect();
            sentences.push(format!(
                "one job for each group of tasks that do not hurt each other: {}",
                named.join(" ")
            ));
        }
    }
    if let Some(sentence) = (!balanced).then(|| drowned(affinity)).flatten() {
        sentences.push(sentence);
    }
    if sentences.is_empty() {
        sentences.push("nothing to change: no pair of tasks clearly hurts each other".to_owned());
    }
    sentences
}

/// The task of a pair whose gradient is shorter.
fn weaker<'a>(affinity: &Affinity, pair: &'a TaskPair) -> &'a str {
    let norm = |name: &str| {
        let task = affinity.tasks.iter().find(|task| task.task == name);
        task.map_or(0.0, |task| task.norm)
    };
    if norm(&pair.a) < norm(&pair.b) {
        &pair.a
    } else {
        &pair.b
    }
}

/// Whether one task's gradient drowns another's in a plain mean.
fn drowned(affinity: &Affinity) -> Option<String> {
    let heard = || affinity.tasks.iter().filter(|task| task.norm > 0.0);
    let most = heard().max_by(|x, y| x.norm.total_cmp(&y.norm))?;
    let least = heard().min_by(|x, y| x.norm.total_cmp(&y.norm))?;
    let times = most.norm / least.norm;
    (times >= DROWNS && times.is_finite()).then(|| {
        format!(
            "{}'s gradient is {times:.0} times as long as {}'s and drowns it: a balancer that evens \
             lengths, such as `balancer: imtl_g`, or with `mean` a lower `weight` of {}",
            most.task, least.task, most.task
        )
    })
}

/// Tasks grouped by the sign of their affinity: begins with every task alone and joins, time and
/// again, the two groups with the highest mean cosine, as long as it is positive and no pair
/// across them hurts each other.
pub(crate) fn groups(affinity: &Affinity) -> Vec<Vec<&str>> {
    let mut groups: Vec<Vec<&str>> = affinity
        .tasks
        .iter()
        .map(|task| vec![task.task.as_str()])
        .collect();
    let mean = |one: &[&str], other: &[&str]| {
        let across = one.iter().flat_map(|a| other.iter().map(move |b| (a, b)));
        let pairs: Vec<&TaskPair> = across.filter_map(|(a, b)| affinity.pair(a, b)).collect();
        let hurt = pairs
            .iter()
            .any(|pair| Relation::of(pair) == Relation::Hurt);
        let sum: f64 = pairs.iter().map(|pair| pair.cosine).sum();
        (!hurt && !pairs.is_empty()).then(|| sum / pairs.len() as f64)
    };
    loop {
        let mut best: Option<(f64, usize, usize)> = None;
        for i in 0..groups.len() {
            for j in i + 1..groups.len() {
                if let Some(mean) = mean(&groups[i], &groups[j])
                    && mean > best.map_or(0.0, |(mean, ..)| mean)
                {
                    best = Some((mean, i, j));
                }
            }
        }
        let Some((_, i, j)) = best else {
            return groups;
        };
        // j > i: the group at i stays where it is.
        let joined = groups.remove(j);
        groups[i].extend(joined);
    }
}

/// "1 step", "1,200 steps".
fn steps(number: u64) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} step{plural}", text::count(number))
}

/// "1 pair", "5 pairs".
fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use espalier_spec::report::TaskGradient;

    /// An affinity of tasks of these norms, with these pairs, deviations and steps.
    pub(crate) fn sample(tasks: &[(&str, f64)], pairs: &[(&str, &str, f64, f64, u64)]) -> Affinity {
        Affinity {
            tasks: tasks
                .iter()
                .map(|(task, norm)| TaskGradient {
                    task: (*task).to_owned(),
                    norm: *norm,
                    weight: 1.0 / tasks.len() as f64,
                    steps: 400,
                })
                .collect(),
            pairs: pairs
                .iter()
                .map(|(a, b, cosine, deviation, steps)| TaskPair {
                    a: (*a).to_owned(),
                    b: (*b).to_owned(),
                    cosine: *cosine,
                    deviation: *deviation,
                    conflicts: if *cosine < 0.0 { 0.75 } else { 0.04 },
                    steps: *steps,
                })
                .collect(),
        }
    }

    #[test]
    fn claims_need_evidence() {
        // Promise: help or hurt is claimed only beyond two standard errors and ten steps.
        let relation = |cosine, deviation, steps| {
            Relation::of(&TaskPair {
                cosine,
                deviation,
                steps,
                ..TaskPair::default()
            })
        };
        assert_eq!(relation(0.21, 1.0, 100), Relation::Help);
        assert_eq!(relation(0.19, 1.0, 100), Relation::Unclear);
        assert_eq!(relation(-0.21, 1.0, 100), Relation::Hurt);
        assert_eq!(relation(0.9, 0.0, 9), Relation::Unclear);
        assert_eq!(relation(0.9, 0.0, 10), Relation::Help);
        assert_eq!(relation(0.0, 0.0, 10), Relation::Unclear);
        assert_eq!(relation(f64::NAN, 0.1, 100), Relation::Unclear);
    }

    #[test]
    fn findings_name_the_pairs_with_their_evidence() {
        // Promise: who helps and hurts whom, the strongest first, with steps, spread and conflicts.
        let affinity = sample(
            &[("section", 2.0), ("role", 1.0), ("toxicity", 0.5)],
            &[
                ("section", "role", 0.31, 0.12, 1400),
                ("section", "toxicity", -0.2, 0.3, 390),
                ("role", "toxicity", 0.01, 0.2, 390),
            ],
        );
        assert_eq!(
            findings(&affinity),
            [
                "section and role help each other: cosine +0.31 ± 0.12 over 1,400 steps, 4 % of \
                 them in conflict",
                "section and toxicity hurt each other: cosine -0.20 ± 0.30 over 390 steps, 75 % of \
                 them in conflict",
                "role and toxicity: no clear relation: cosine +0.01 ± 0.20 over 390 steps, 4 % of \
                 them in conflict",
            ]
        );
    }

    #[test]
    fn many_pairs_are_counted() {
        // Promise: twelve tasks do not fill pages; pairs not seen yet are not passed over.
        let names: Vec<String> = (0..12).map(|k| format!("t{k}")).collect();
        let tasks: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), 1.0)).collect();
        let mut pairs = Vec::new();
        for (i, a) in names.iter().enumerate() {
            for b in &names[i + 1..] {
                let cosine = if pairs.len() < 20 { 0.5 } else { 0.0 };
                pairs.push((a.as_str(), b.as_str(), cosine, 0.1, 50));
            }
        }
        let last = pairs.pop();
        assert!(last.is_some());
        let findings = findings(&sample(&tasks, &pairs));
        assert_eq!(findings.len(), 8 + 1 + 1 + 1);
        assert_eq!(
            findings[8..],
            [
                "12 more pairs of tasks help each other",
                "45 pairs of tasks: no clear relation, after 50 steps or more",
                "1 pair of tasks was in no step together yet",
            ]
        );
    }

    #[test]
    fn advice_fits_the_findings() {
        // Promise: a balancer or groups where tasks hurt each other, nothing where they do not.
        let tasks = [("a", 1.0), ("b", 1.0), ("c", 2.0)];
        let fine = sample(&tasks, &[("a", "b", 0.3, 0.1, 100)]);
        assert_eq!(
            advice(&fine, false),
            ["nothing to change: no pair of tasks clearly hurts each other"]
        );
        let conflict = sample(
            &tasks,
            &[
                ("a", "b", 0.3, 0.1, 100),
                ("a", "c", -0.3, 0.1, 100),
                ("b", "c", 0.1, 0.1, 100),
            ],
        );
        assert_eq!(
            advice(&conflict, false),
            [
                "a balancer that settles conflicts, such as `balancer: upgrad`",
                "one job for each group of tasks that do not hurt each other: [a, b] [c]",
            ]
        );
        assert_eq!(
            advice(&conflict, true),
            [
                "the balancer already settles conflicts; if a still suffers, train it apart",
                "one job for each group of tasks that do not hurt each other: [a, b] [c]",
            ]
        );
        let early = sample(&tasks, &[("a", "b", 0.9, 0.1, 3)]);
        assert_eq!(
            advice(&early, false),
            ["too early for advice: 3 steps so far, at least 10 are needed"]
        );
    }

    #[test]
    fn a_task_that_drowns_others_is_named() {
        // Promise: gradients of very different lengths are pointed out where they matter.
        let uneven = sample(
            &[("loud", 50.0), ("quiet", 2.0), ("frozen", 0.0)],
            &[("loud", "quiet", 0.2, 0.1, 100)],
        );
        assert_eq!(
            advice(&uneven, false),
            [
                "loud's gradient is 25 times as long as quiet's and drowns it: a balancer that evens \
                 lengths, such as `balancer: imtl_g`, or with `mean` a lower `weight` of loud"
            ]
        );
        assert_eq!(
            advice(&uneven, true),
            ["nothing to change: no pair of tasks clearly hurts each other"]
        );
    }

    #[test]
    fn groups_join_what_helps() {
        // Promise: groups follow the sign of the affinity and never join tasks that hurt.
        let affinity = sample(
            &[("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 1.0), ("e", 1.0)],
            &[
                ("a", "b", 0.2, 0.1, 100),
                ("a", "c", -0.2, 0.1, 100),
                ("b", "c", 0.25, 0.1, 100),
                ("c", "d", 0.1, 0.1, 100),
                ("a", "d", -0.05, 0.1, 100),
            ],
        );
        assert_eq!(
            groups(&affinity),
            [vec!["a"], vec!["b", "c", "d"], vec!["e"]]
        );
    }
}
