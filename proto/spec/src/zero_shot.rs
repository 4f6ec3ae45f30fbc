//! Classes that are known by their description: what a zero-shot task says beside its data.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where the name or description of a class goes in a template.
pub const PLACE: &str = "{}";

/// How a task of the head `label_embedding` or `entailment` knows its classes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ZeroShotSpec {
    /// What each class is, in words: a mapping of class to text, or a file with the columns `label` and
    /// `description`. Classes that the task does not have may be in it. Either this or `vectors`; with
    /// `entailment` neither is needed: names stand for themselves.
    #[serde(default, skip_serializing_if = "Descriptions::is_empty")]
    pub descriptions: Descriptions,
    /// Sentences around a description, which stands at `{}`. The vectors of several are averaged at length
    /// 1 (Radford et al. 2021, arXiv 2103.00020, section 3.1.4). Default: the description alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub templates: Vec<String>,
    /// Classes that no training row has; validation and test rows may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unseen: Vec<String>,
    /// What is taken from the cosines of classes that were trained on (with `entailment`: from their
    /// outputs), where they compete with unseen ones (calibrated stacking; Chao et al. 2016, arXiv
    /// 1605.04253). Default: the nearest to 0 whose harmonic mean on the validation files is within a
    /// standard error of the best, if they have both kinds of rows, else 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<f64>,
    /// What each class is, in numbers: a file with one vector for each class, all of one length. A `.csv`
    /// names the class in its first column and has one number in each other; a `.jsonl` or `.parquet` has
    /// the columns `label` and `vector`, a list. For any backbone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vectors: Option<String>,
    /// With `entailment`: of how many other classes a training sample is paired with the hypothesis, too; as
    /// many as there are, at most. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negatives: Option<u32>,
}

/// Classes and what they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Descriptions {
    /// A `.parquet`, `.jsonl` or `.csv` file.
    File(String),
    /// Text of each class.
    Given(BTreeMap<String, String>),
}

impl Default for Descriptions {
    fn default() -> Self {
        Descriptions::Given(BTreeMap::new())
    }
}

impl Descriptions {
    /// Whether none are given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Descriptions::Given(given) if given.is_empty())
    }
}
