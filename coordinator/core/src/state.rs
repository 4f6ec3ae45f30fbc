//! The durable state.
use serde::{Deserialize, Serialize};

/// The durable state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {}
