//! The machine from outside: placement, scripts of events, recovery, elastic jobs, simulated clusters. One
//! binary, since each would link the same.
#![allow(clippy::unwrap_used)] // a test that can't go on fails here

mod elastic;
mod fallback;
mod figures;
mod holders;
mod kit;
mod leave;
mod place;
mod quiet;
mod recovery;
mod scripts;
mod sim;
