//! The built `espalier` command, run as a person runs it.

mod help;
mod run;
mod schema;
mod validate;
