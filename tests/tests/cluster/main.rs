//! Whole clusters of real processes.
#![allow(clippy::unwrap_used)] // a test that can't go on fails here

mod bits;
mod fetch;
mod input;
mod job;
mod leader;
mod refuse;
mod secure;
mod steer;
mod upload;
