//! What crosses the wire: one program, since every one more compiles the messages' code again.
#![allow(clippy::unwrap_used)]

mod defaults;
mod fuzz;
mod plans;
mod reports;
mod round_trip;
