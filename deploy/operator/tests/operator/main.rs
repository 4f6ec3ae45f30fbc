//! The operator between a small API server, which kube's own client speaks to over HTTP, and a real coordinator.
#![allow(clippy::unwrap_used)] // a test that can't go on fails here

#[path = "../apiserver/mod.rs"]
mod apiserver;
mod ends;
#[path = "../../../../coordinator/tests/server/kit/mod.rs"]
mod kit;
mod lease;
mod life;
mod listed;
mod permissions;
mod restarts;
mod scale;
mod stage;
mod trouble;
mod watches;
