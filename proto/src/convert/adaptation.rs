//! Domain adaptation, and what makes an evaluation the best.

use super::task::files;
use super::{Bad, Wire, at, or_default};
use crate::v1;
use espalier_spec::adaptation::METHODS;
use espalier_spec::check::nearest;
use espalier_spec::job::{Adapt, AdaptationSpec, EvaluationSpec, SelectBy, Sources, TargetSpec};

impl Wire for AdaptationSpec {
    type Message = v1::Adaptation;

    fn to_wire(&self) -> v1::Adaptation {
        v1::Adaptation {
            method: self.method.as_str().to_owned(),
            target_train: self.target.train.paths().to_vec(),
            weight: self.weight,
            warm_up: self.warm_up,
            params: self.params.clone().into_iter().collect(),
            sources: match self.sources {
                Sources::Together => v1::adaptation::Sources::Together,
                Sources::Apart => v1::adaptation::Sources::Apart,
            }
            .into(),
        }
    }

    fn read(m: v1::Adaptation, bad: &mut Bad, path: &str) -> Self {
        let method = method(&m.method).unwrap_or_else(|message| {
            bad.add(at(path, "method"), message);
            Adapt::Dann
        });
        let sources = bad.choice(m.sources, || at(path, "sources"), "together or apart");
        AdaptationSpec {
            method,
            target: TargetSpec {
                train: files(m.target_train),
            },
            weight: m.weight,
            warm_up: m.warm_up,
            params: m.params.into_iter().collect(),
            sources: match sources {
                v1::adaptation::Sources::Unspecified | v1::adaptation::Sources::Together => {
                    Sources::Together
                }
                v1::adaptation::Sources::Apart => Sources::Apart,
            },
        }
    }
}

/// The method of a name, or what to say.
fn method(name: &str) -> Result<Adapt, String> {
    let names = || METHODS.iter().map(|info| info.name);
    let all = || names().collect::<Vec<_>>().join(", ");
    if name.is_empty() {
        return Err(format!("is required: one of {}", all()));
    }
    Adapt::of_name(name).ok_or_else(|| {
        let advice = match nearest(name, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("expected one of {}", all()),
        };
        format!("{name:?} is no known method; {advice}")
    })
}

impl Wire for EvaluationSpec {
    type Message = v1::EvaluationPolicy;

    fn to_wire(&self) -> v1::EvaluationPolicy {
        use v1::evaluation_policy::SelectBy as By;
        let by = match self.select_by {
            SelectBy::Metric => By::Metric,
            SelectBy::Entropy => By::Entropy,
            SelectBy::InformationMaximisation => By::InformationMaximisation,
            SelectBy::SoftNeighbourhoodDensity => By::SoftNeighbourhoodDensity,
        };
        v1::EvaluationPolicy {
            every_steps: self.every_steps,
            batch_size: self.batch_size,
            select_best: Some(self.select_best),
            select_by: by.into(),
            early_stopping_patience: self.early_stopping_patience,
        }
    }

    fn read(m: v1::EvaluationPolicy, bad: &mut Bad, path: &str) -> Self {
        use v1::evaluation_policy::SelectBy as By;
        const KNOWN: &str =
            "metric, entropy, information_maximisation or soft_neighbourhood_density";
        let default = EvaluationSpec::default();
        let by = bad.choice(m.select_by, || at(path, "select_by"), KNOWN);
        EvaluationSpec {
            every_steps: m.every_steps,
            batch_size: or_default(m.batch_size, default.batch_size),
            select_best: m.select_best.unwrap_or(default.select_best),
            select_by: match by {
                By::Unspecified => default.select_by,
                By::Metric => SelectBy::Metric,
                By::Entropy => SelectBy::Entropy,
                By::InformationMaximisation => SelectBy::InformationMaximisation,
                By::SoftNeighbourhoodDensity => SelectBy::SoftNeighbourhoodDensity,
            },
            early_stopping_patience: m.early_stopping_patience,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: a slip in a method's name is answered with the name that was meant, at its field.
    #[test]
    fn a_mistyped_method_has_a_suggestion() {
        let bad = AdaptationSpec::from_wire(v1::Adaptation {
            method: "corl".into(),
            ..Default::default()
        });
        let bad = bad.expect_err("no such method").0;
        assert_eq!(bad[0].field, "method");
        assert!(bad[0].message.contains("did you mean `coral`?"), "{bad:?}");
    }
}
