//! A whole coordinator: as the types that a program embeds, and as the binary that runs.
//!
//! One program, because every one more compiles gRPC's code again.
#![allow(clippy::unwrap_used)] // a test that can't go on fails here

mod access;
mod door;
mod ha;
mod intrusion;
mod jobs;
mod kit;
mod metrics;
mod page;
mod process;
mod reports;
mod requests;
mod secrets;
mod store;
mod tls;
