//! Whole-cluster tests of Espalier with real processes.
//!
//! - [`Cluster`]: a coordinator and workers as child processes, in a directory of their own;
//! - [`Toy`]: a small random BERT and data that it can learn, written from fixed seeds;
//! - [`job`]: job files as JSON values (JSON is YAML), the base that a test changes.

mod cluster;
mod program;
mod toy;

pub use cluster::{Cluster, PATIENCE};
pub use program::{Run, binary, espalier};
pub use toy::{Toy, job};
