//! What reports are taken apart into, and how the figures are called.

use super::job::{Kind, Report};
use espalier_spec::report::{Evaluation, Progress};

/// The figures of a report of progress.
pub(super) fn of_progress(progress: &Progress) -> Report {
    let mut figures = vec![
        ("samples_per_second".to_owned(), progress.samples_per_second),
        ("learning_rate".to_owned(), progress.learning_rate),
        ("gradient_norm".to_owned(), progress.gradient_norm),
    ];
    // Images have no tokens.
    if progress.tokens > 0 {
        figures.push(("tokens_per_second".to_owned(), progress.tokens_per_second));
    }
    let losses = progress.losses.iter();
    figures.extend(losses.map(|(task, loss)| (format!("loss/{task}"), *loss)));
    if let Some(affinity) = &progress.affinity {
        for task in &affinity.tasks {
            figures.push((format!("weight/{}", task.task), task.weight));
        }
        for pair in &affinity.pairs {
            figures.push((format!("cosine/{}/{}", pair.a, pair.b), pair.cosine));
        }
    }
    Report {
        kind: Kind::Progress,
        step: progress.step.0,
        figures,
    }
}

/// The figures of an evaluation; none if its split is none that charts show.
pub(super) fn of_evaluation(evaluation: &Evaluation) -> Option<Report> {
    let kind = match evaluation.split.as_str() {
        "validation" => Kind::Validation,
        "test" => Kind::Test,
        _ => return None,
    };
    let split = &evaluation.split;
    let mut figures = Vec::new();
    for (task, scores) in &evaluation.tasks {
        figures.push((format!("{split}/{task}/loss"), scores.loss));
        for (metric, value) in &scores.metrics {
            figures.push((format!("{split}/{task}/{}", metric.as_str()), *value));
        }
    }
    Some(Report {
        kind,
        step: evaluation.step.0,
        figures,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use espalier_spec::Step;
    use espalier_spec::report::{Affinity, TaskGradient, TaskPair, TaskScores};

    // Promise: figures are called as the protos say.
    #[test]
    fn names() {
        let progress = Progress {
            step: Step(3),
            tokens: 1,
            losses: [("topic".to_owned(), 0.5)].into(),
            affinity: Some(Affinity {
                tasks: vec![TaskGradient {
                    task: "topic".into(),
                    ..TaskGradient::default()
                }],
                pairs: vec![TaskPair {
                    a: "topic".into(),
                    b: "mood".into(),
                    ..TaskPair::default()
                }],
            }),
            ..Progress::default()
        };
        let report = of_progress(&progress);
        let mut names: Vec<_> = report
            .figures
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        names.sort_unstable();
        let expected = [
            "cosine/topic/mood",
            "gradient_norm",
            "learning_rate",
            "loss/topic",
            "samples_per_second",
            "tokens_per_second",
            "weight/topic",
        ];
        assert_eq!((report.step, names), (3, expected.to_vec()));
        let scores = TaskScores {
            metrics: [(espalier_spec::job::Metric::Accuracy, 0.75)].into(),
            ..TaskScores::default()
        };
        let evaluation = Evaluation {
            split: "validation".into(),
            tasks: [("topic".to_owned(), scores)].into(),
            ..Evaluation::default()
        };
        let report = of_evaluation(&evaluation).unwrap();
        assert_eq!(
            report.figures[1],
            ("validation/topic/accuracy".to_owned(), 0.75)
        );
        let odd = Evaluation::default();
        assert_eq!(of_evaluation(&odd), None);
    }
}
