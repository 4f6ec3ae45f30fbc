//! Unsupervised domain adaptation: a task learns from labelled samples of one domain (the source, its
//! training files) and unlabelled ones of another (the target).

mod table;

pub use table::METHODS;

use crate::balancer::ParamInfo;
use crate::job::Files;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// How a task's samples of another domain, which have no labels, take part. The task's gradient is that
/// of its own loss plus `weight` times the method's.
///
/// Every step draws as many samples of the target as of the source, and a rank computes both of a pair.
/// What a method measures over a batch it measures over the pairs that a rank computes together, as
/// PyTorch's data parallelism does; ranks weigh by their pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AdaptationSpec {
    /// The method: `dann`, `cdan`, `mmd`, `jan`, `coral`, `mcc`, `mdd`, `entropy`, `self_training`,
    /// `adabn`, `bsp`, `afn` or `information_maximisation`.
    pub method: Adapt,
    /// Samples of the other domain.
    pub target: TargetSpec,
    /// What several files of `data.train` are: one domain, or a domain each.
    #[serde(default)]
    pub sources: Sources,
    /// Factor on the method's loss. Default: the method's own, mostly 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Steps until the method has its full strength: at a share p of them it has
    /// 2 / (1 + exp(-10 p)) - 1 (Ganin et al. 2016, section 5.2.2, where p is the share of the run). It
    /// multiplies what comes back through a gradient reversal, or the loss where there is none. 0:
    /// full strength at once. Default: the whole run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<u64>,
    /// The method's parameters by name: numbers, or `true` and `false`; those left out have the
    /// method's defaults.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "numbers_or_flags"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "BTreeMap<String, NumberOrFlag>"))]
    pub params: BTreeMap<String, f64>,
}

/// What several training files of a task with a target are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Sources {
    /// One domain.
    #[default]
    Together,
    /// A domain each: the loss is the mean of those between each of them and the target.
    Apart,
}

impl Sources {
    /// The name in job files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Together => "together",
            Self::Apart => "apart",
        }
    }
}

/// Samples of the target domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TargetSpec {
    /// Files in the form of the task's own. They need no column of labels; where there is one, its
    /// labels must be the task's classes, and are not read in training.
    pub train: Files,
}

impl AdaptationSpec {
    /// The value of a parameter: the one given, else the method's default. None if the method has no
    /// parameter of this name.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<f64> {
        let known = self.method.info().param(name)?;
        Some(self.params.get(name).copied().unwrap_or(known.default))
    }

    /// Factor on the method's loss.
    #[must_use]
    pub fn weight(&self) -> f64 {
        self.weight.unwrap_or(self.method.info().weight)
    }
}

/// A method of domain adaptation. [`Adapt::info`] tells paper and parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Adapt {
    /// A classifier of domains that features learn to mislead.
    Dann,
    /// The same, given features times predicted probabilities.
    Cdan,
    /// Distance of the domains' mean features under several Gaussian kernels.
    Mmd,
    /// The same of features and predictions together.
    Jan,
    /// Distance of the domains' covariances.
    Coral,
    /// How much predictions on the target confuse pairs of classes.
    Mcc,
    /// Disagreement with a second head that looks for it, with a margin.
    Mdd,
    /// Entropy of predictions on the target.
    Entropy,
    /// Confident predictions on the target taken for labels.
    SelfTraining,
    /// After training, statistics of batch norms are taken anew over the target.
    Adabn,
    /// `dann`, and the largest singular value of a batch's features kept small.
    Bsp,
    /// Norms of features grow step by step.
    Afn,
    /// Predictions on the target: each sure, all together diverse.
    InformationMaximisation,
}

impl Adapt {
    /// Its row in the table.
    #[must_use]
    pub fn info(self) -> &'static AdaptInfo {
        // In order of the enum; a test holds it to that.
        &METHODS[self as usize]
    }

    /// Whether training has a loss of it, on samples of the target.
    #[must_use]
    pub fn learns(self) -> bool {
        self != Adapt::Adabn
    }

    /// Whether it compares two domains, so that each of several sources can be compared with the target.
    #[must_use]
    pub fn compares(self) -> bool {
        use Adapt::{Cdan, Coral, Dann, Jan, Mmd};
        matches!(self, Dann | Cdan | Mmd | Jan | Coral)
    }

    /// The name in job files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.info().name
    }

    /// The method of a name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let mut methods = METHODS.iter();
        methods
            .find(|info| info.name == name)
            .map(|info| info.method)
    }
}

impl fmt::Display for Adapt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a method looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// Features: it fits any head, and needs a backbone that learns.
    Features,
    /// Probabilities of classes: it needs the head `single_label`.
    Classes,
}

/// A method's row in the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptInfo {
    /// The method.
    pub method: Adapt,
    /// Its name in job files.
    pub name: &'static str,
    /// What it looks at.
    pub sees: Sees,
    /// Where it is from: authors and year, with arXiv number where there is one.
    pub paper: &'static str,
    /// `weight` of a job that gives none.
    pub weight: f64,
    /// Its parameters.
    pub params: &'static [ParamInfo],
}

impl AdaptInfo {
    /// The parameter of a name.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&'static ParamInfo> {
        self.params.iter().find(|param| param.name == name)
    }
}

/// A parameter as a job file gives it.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub(crate) enum NumberOrFlag {
    /// A number.
    Number(f64),
    /// On (1) or off (0).
    Flag(bool),
}

fn numbers_or_flags<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let given = BTreeMap::<String, NumberOrFlag>::deserialize(from)?;
    let number = |value| match value {
        NumberOrFlag::Number(number) => number,
        NumberOrFlag::Flag(flag) => f64::from(u8::from(flag)),
    };
    let all = given.into_iter();
    Ok(all.map(|(name, value)| (name, number(value))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_has_every_method_once() {
        // Name and place in the table agree with the names that job files use.
        for (index, info) in METHODS.iter().enumerate() {
            assert_eq!(info.method as usize, index, "{}", info.name);
            assert_eq!(info.method.info(), info);
            let name = serde_json::to_value(info.method).expect("a word");
            assert_eq!(name, info.name);
            assert_eq!(Adapt::of_name(info.name), Some(info.method));
            for param in info.params {
                let name = format!("{}.{}", info.name, param.name);
                assert!(
                    param.range.holds(param.default),
                    "{name}: default out of range"
                );
            }
        }
        let last = METHODS.last().expect("methods");
        assert_eq!(
            last.method,
            Adapt::InformationMaximisation,
            "one is missing"
        );
    }

    #[test]
    fn a_parameter_is_a_number_or_a_flag() {
        // `true` and 1 are the same; what is left out has the method's default.
        let spec =
            json!({"method": "cdan", "target": {"train": "a.csv"}, "params": {"entropy": true}});
        let spec: AdaptationSpec = serde_json::from_value(spec).expect("right types");
        assert_eq!(spec.param("entropy"), Some(1.0));
        assert_eq!(spec.param("hidden"), Some(256.0));
        assert_eq!(spec.param("margin"), None);
        assert_eq!(spec.weight(), 1.0);
    }
}
