//! How texts become samples of language modelling.

use serde::{Deserialize, Serialize};

/// How the texts of a `causal_lm` task become samples. Windows are `max_tokens` long. In training they
/// begin at a place that is drawn anew in every pass over the data; in evaluations they begin at the
/// start and the last one is shorter, so that every token but the first is predicted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Join {
    /// One after another with nothing between, cut into windows.
    #[default]
    Nothing,
    /// The same, with the model's end token behind each text.
    EndToken,
    /// Each text is a sample of its own, cut at `max_tokens`.
    Apart,
}
