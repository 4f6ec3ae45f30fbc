//! Espalier's coordinator: the thin shell around the state machine in `espalier-core`.
//!
//! ```text
//!  gRPC ─> api ─> driver ─> Machine::step ─> records ─> store (fsync)
//!           ^                                              │ then
//!           └── replies, orders to workers, notices <──────┘
//! ```
//!
//! The shell holds no rules. [`api`] converts and asks; [`driver`] is the one task that owns the
//! machine: it makes records durable before anyone hears of them; [`store`] keeps them; [`logs`]
//! keeps what workers print; [`metrics`] counts; [`access`] stands before all that is served and lets in who
//! may; `series` keeps how figures went; `page` serves the live page and the same services as JSON;
//! `data_key` makes secrets of generations. [`start`] puts them together. Where several coordinators
//! share an [`etcd`], `election` says which of them leads, `leadership` starts and ends its driver, and
//! `role` answers what the others are asked.

pub mod access;
pub mod api;
pub mod config;
mod data_key;
pub mod driver;
mod election;
pub mod etcd;
mod leadership;
pub mod logs;
pub mod metrics;
mod notices;
mod page;
mod role;
mod series;
pub mod serve;
pub mod store;
mod whole;

pub use config::Config;
pub use serve::{Coordinator, Error, start, start_configured};
