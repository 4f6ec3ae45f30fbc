//! One function per kind of input: it takes any bytes and must not panic, hang or grow without bound.
//!
//! Each file here is included by the tests of the crate that it is about, too, which feed it with what
//! `mutate` makes of a few seeds; so it names nothing of this crate but its neighbours.

pub mod job_file;
pub mod mutate;
pub mod peer;
pub mod rpc;

#[cfg(feature = "worker")]
use espalier_worker::{checkpoint as checkpoints, data::source};

#[cfg(feature = "worker")]
pub mod checkpoint;
#[cfg(feature = "worker")]
pub mod data_file;
