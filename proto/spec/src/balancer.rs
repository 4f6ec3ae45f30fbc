//! How the gradients of the tasks become one update: method, its parameters, and what is done
//! around it.

mod methods;
mod table;

pub use methods::{Class, MethodInfo, ParamInfo, Range};
pub use table::METHODS;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// How the gradients of the tasks become one update. In a job file the name of a method is a
/// short form: `balancer: upgrad`.
///
/// Everything around the method happens in this order: tasks that are not finite are dealt with
/// (`on_non_finite`), losses are logged (`log_losses`), gradients normalised (`normalize`), the
/// method finds weights (every `update_every` steps), the weights are brought back to the
/// gradients as they were, smoothed (`smoothing`) and scaled (`scale`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct BalancerSpec {
    /// The method; `espalier balance --list` tells them all.
    pub method: Method,
    /// The method's parameters, by name; those left out have the method's defaults.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, f64>,
    /// Factor on the update. Methods are brought to one convention before: with K tasks of
    /// orthogonal gradients of equal length the update is about their sum. 1/K makes it their
    /// mean.
    pub scale: f64,
    /// Balance the gradients of log losses (g/l) instead of those of the losses: the update then
    /// does not depend on the losses' units. Losses have to be above 0.
    pub log_losses: bool,
    /// What each task's gradient is divided by before the method sees it.
    pub normalize: Normalize,
    /// Share of the previous steps' weights in this step's, 0 (off) to below 1: an exponential
    /// moving average per task (CR-MOGM, Zhou et al. 2022).
    pub smoothing: f64,
    /// Find new weights every so many steps and keep them between.
    pub update_every: u64,
    /// Weigh the heads' gradients like the backbone's. By default each head is trained by its own
    /// task's gradient alone, unweighted.
    pub balance_heads: bool,
    /// What happens when a task's loss or gradient is not a finite number.
    pub on_non_finite: OnNonFinite,
}

impl Default for BalancerSpec {
    fn default() -> Self {
        Self {
            method: Method::default(),
            params: BTreeMap::new(),
            scale: 1.0,
            log_losses: false,
            normalize: Normalize::None,
            smoothing: 0.0,
            update_every: 1,
            balance_heads: false,
            on_non_finite: OnNonFinite::Fail,
        }
    }
}

impl BalancerSpec {
    /// A method with everything else at its default.
    #[must_use]
    pub fn of(method: Method) -> Self {
        Self {
            method,
            ..Self::default()
        }
    }

    /// The value of a parameter: the one given, else the method's default. None if the method has
    /// no parameter of this name.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<f64> {
        let known = self.method.info().param(name)?;
        Some(self.params.get(name).copied().unwrap_or(known.default))
    }

    /// Whether a step's weights are found after its losses: all ranks ask for them together, once
    /// a step.
    #[must_use]
    pub fn weighs_by_losses(&self) -> bool {
        let plain = matches!(self.method, Method::Mean | Method::Equal | Method::Fixed);
        !plain || self.log_losses
    }
}

/// A method of balancing. [`Method::info`] tells class, paper and parameters.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Every sample of the batch weighs the same, times its task's weight.
    #[default]
    Mean,
    /// Every task weighs 1.
    Equal,
    /// Every task weighs its `weight`.
    Fixed,
    /// Scale-invariant: the sum of log losses.
    Si,
    /// Random weights, new ones every step.
    Rlw,
    /// Uncertainty weighting: a learned variance per task.
    Uw,
    /// Dynamic weight average: by how slowly each loss fell of late.
    Dwa,
    /// Geometric mean of the losses.
    Gls,
    /// Smooth Tchebycheff: a soft maximum of the losses.
    Stch,
    /// Fast adaptive multitask optimization: equal rates of decrease, from losses alone.
    Famo,
    /// Impartial learning, losses: a learned scale per task.
    ImtlL,
    /// Learned weights that bring the gradients' norms to a common rate.
    Gradnorm,
    /// The shortest vector in the gradients' convex hull.
    Mgda,
    /// Conflicting gradients are projected off each other.
    Pcgrad,
    /// Gradients are turned towards the similarity that they had so far.
    Gradvac,
    /// The best worst-task decrease in a ball round the mean gradient.
    Cagrad,
    /// Impartial learning, gradients: equal projections on every gradient's direction.
    ImtlG,
    /// Nash's bargaining solution.
    NashMtl,
    /// Alpha-fair decrease.
    Fairgrad,
    /// Singular values of the gradient matrix made equal.
    AlignedMtl,
    /// Each gradient projected on the cone where no task loses, then averaged.
    Upgrad,
    /// The mean gradient projected on the cone where no task loses.
    DualProj,
    /// The direction with equal cosines to all gradients.
    Config,
    /// Tracked gradients and multipliers.
    Moco,
    /// Log losses, tracked gradients brought to the largest norm.
    DbMtl,
    /// Weights by estimated excess risk.
    ExcessMtl,
    /// Each coordinate keeps one sign, drawn by purity.
    GradDrop,
    /// Per coordinate the mean without the extremes.
    TrimmedMean,
    /// Direction-oriented min-norm from two independent batches.
    Sdmgrad,
    /// Double-sampled multipliers from two independent batches.
    Modo,
    /// MGDA on the gradients of the representation.
    MgdaUb,
    /// Aligned-MTL on the gradients of the representation.
    AlignedUb,
}

impl Method {
    /// The name in job files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.info().name
    }

    /// The method of a name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        METHODS
            .iter()
            .find(|info| info.name == name)
            .map(|info| info.method)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What each task's gradient is divided by before the method sees it (Sener and Koltun 2018).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Normalize {
    /// Nothing.
    #[default]
    None,
    /// Its L2 norm.
    L2,
    /// The task's loss.
    Loss,
    /// The product of both.
    LossL2,
}

/// What happens when a task's loss or gradient is not a finite number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnNonFinite {
    /// The job fails and names the tasks.
    #[default]
    Fail,
    /// Those tasks take no part in this step, which is reported.
    SkipTaskStep,
}

/// Reads the short form (a method's name) or the long one.
pub(crate) fn short_or_long<'de, D: Deserializer<'de>>(from: D) -> Result<BalancerSpec, D::Error> {
    struct Form;
    impl<'de> Visitor<'de> for Form {
        type Value = BalancerSpec;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the name of a method or a mapping with `method`")
        }

        fn visit_str<E: Error>(self, name: &str) -> Result<BalancerSpec, E> {
            Method::deserialize(StrDeserializer::new(name)).map(BalancerSpec::of)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<BalancerSpec, A::Error> {
            BalancerSpec::deserialize(MapAccessDeserializer::new(map))
        }
    }
    from.deserialize_any(Form)
}

/// Both forms, for the schema.
#[cfg(feature = "schema")]
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code)] // only its schema is used
pub(crate) enum Form {
    /// A method with everything else at its default.
    Short(Method),
    /// Everything.
    Long(BalancerSpec),
}

#[cfg(test)]
mod tests {
    use super::{BalancerSpec, METHODS, Method};

    #[test]
    fn the_table_has_every_method_once() {
        // Name and place in the table agree with the names that job files use.
        for (index, info) in METHODS.iter().enumerate() {
            assert_eq!(info.method as usize, index, "{}", info.name);
            assert_eq!(info.method.info(), info);
            let name = serde_json::to_value(info.method).expect("a word");
            assert_eq!(name, info.name);
            assert_eq!(Method::of_name(info.name), Some(info.method));
            for param in info.params {
                assert!(
                    param.range.holds(param.default),
                    "{}.{}: default out of its own range",
                    info.name,
                    param.name
                );
            }
        }
        let last = METHODS.last().expect("methods");
        assert_eq!(
            last.method,
            Method::AlignedUb,
            "a method is missing in the table"
        );
    }

    #[test]
    fn a_parameter_has_its_default() {
        // What is not given is the method's default; what the method does not have is none.
        let mut spec = BalancerSpec::of(Method::Cagrad);
        assert_eq!(spec.param("c"), Some(0.5));
        spec.params.insert("c".to_owned(), 0.4);
        assert_eq!(spec.param("c"), Some(0.4));
        assert_eq!(spec.param("alpha"), None);
    }
}
