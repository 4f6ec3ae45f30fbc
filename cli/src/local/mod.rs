//! A cluster on this machine: coordinator and workers as child processes of `espalier up`.
//!
//! `folder` is where it keeps its state, `program` finds and starts a process, `supervise` keeps
//! one running, `cluster` runs them all and stops them in order: workers first, so that they can
//! say good-bye to the coordinator. `leftovers` ends what a cluster left that was killed.

mod cluster;
mod folder;
mod leftovers;
mod program;
mod stops;
mod supervise;

pub(crate) use cluster::{Options, run};
pub(crate) use folder::Folder;
pub(crate) use program::find;
