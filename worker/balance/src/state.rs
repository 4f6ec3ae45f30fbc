//! What later steps depend on, in a form for checkpoints.

use crate::error::Error;
use espalier_spec::job::Method;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a balancer's later steps depend on: lists of finite numbers by name. Any format that keeps
/// f64 as they are keeps it to the bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The method that it belongs to.
    pub method: Method,
    /// Steps that fell back to equal weights.
    pub fallbacks: u64,
    /// The numbers.
    pub values: BTreeMap<String, Vec<f64>>,
}

impl State {
    /// Copies the list of a name into `list`.
    pub(crate) fn read(&self, name: &str, list: &mut Vec<f64>) -> Result<(), Error> {
        let Some(found) = self.values.get(name) else {
            return Err(Error::State {
                what: format!("it has no list `{name}`"),
            });
        };
        if found.len() != list.len() {
            return Err(Error::State {
                what: format!(
                    "its list `{name}` has {} numbers, this job needs {}",
                    found.len(),
                    list.len()
                ),
            });
        }
        list.clone_from(found);
        Ok(())
    }
}
