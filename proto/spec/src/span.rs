//! Answers that stand in a context: what a task of the head `span` says beside its data.

use serde::{Deserialize, Serialize};

/// How a task of the head `span` searches a context for the answer to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SpanSpec {
    /// Longest answer that is given, in tokens. Answers to learn may be longer.
    pub max_answer_tokens: u32,
}

impl Default for SpanSpec {
    fn default() -> Self {
        Self {
            max_answer_tokens: 30,
        }
    }
}
