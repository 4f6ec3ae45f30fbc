//! Weights of classes in a loss.

use super::Error;
use espalier_spec::job::{ClassWeights, TaskSpec};

/// The weight of each class of a task, or none if all weigh 1. `counts` is how often each class is
/// among the training labels.
///
/// Balanced weights are n / (classes · n_class), where n counts labels and `classes` the classes
/// that have any: every class then weighs the same in sum, and the mean weight over all training
/// labels is 1. Classes that no training sample has weigh 1.
///
/// # Errors
/// Given weights for unknown classes, or that are negative or not finite.
pub fn class_weights(
    task: &TaskSpec,
    classes: &[String],
    counts: &[u64],
) -> Result<Option<Vec<f32>>, Error> {
    match &task.loss.class_weights {
        ClassWeights::None => Ok(None),
        ClassWeights::Balanced => {
            let all: u64 = counts.iter().sum();
            let present = counts.iter().filter(|count| **count > 0).count();
            let count = |class: usize| counts.get(class).copied().unwrap_or(0);
            let weigh = |class: usize| match count(class) {
                0 => 1.0,
                #[expect(
                    clippy::cast_precision_loss,
                    clippy::cast_possible_truncation,
                    reason = "counts of samples; weights are 32-bit"
                )]
                own => (all as f64 / (present as f64 * own as f64)) as f32,
            };
            Ok(Some((0..classes.len()).map(weigh).collect()))
        }
        ClassWeights::Given(given) => {
            let mut weights = vec![1.0; classes.len()];
            for (class, weight) in given {
                let Some(index) = classes.iter().position(|name| name == class) else {
                    let suggestion = nearest(class, classes);
                    let (task, class) = (task.name.clone(), class.clone());
                    return Err(Error::UnknownClass {
                        task,
                        class,
                        suggestion,
                    });
                };
                #[expect(clippy::cast_possible_truncation, reason = "overflow is caught below")]
                let narrow = *weight as f32;
                if !(narrow.is_finite() && narrow >= 0.0) {
                    let (task, class) = (task.name.clone(), class.clone());
                    return Err(Error::ClassWeight {
                        task,
                        class,
                        weight: *weight,
                    });
                }
                weights[index] = narrow;
            }
            Ok(Some(weights))
        }
    }
}

fn nearest(wanted: &str, classes: &[String]) -> Option<String> {
    let scored = classes
        .iter()
        .map(|name| (strsim::jaro_winkler(wanted, name), name));
    let best = scored.reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.filter(|(score, _)| *score >= 0.8)
        .map(|(_, name)| name.clone())
}
