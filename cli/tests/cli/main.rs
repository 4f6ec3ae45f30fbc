//! The built `espalier` command, run as a person runs it.

mod affinity;
mod audit;
mod balance;
mod fake;
mod help;
mod local;
mod predict;
mod run;
mod schema;
mod token;
mod unreachable;
mod validate;
