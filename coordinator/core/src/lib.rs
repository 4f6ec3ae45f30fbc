//! Espalier's coordinator as a pure, deterministic state machine.

pub mod command;
pub mod config;
pub mod event;
mod machine;
pub mod record;
pub mod state;
pub mod view;

pub use command::{Answer, Command, Error, ErrorKind, Order, StopMode};
pub use config::Config;
pub use event::{ConnId, Event, Hello, Outcome, PeerAddress, ReplyId, RunningJob, Time};
pub use machine::{Machine, Output};
pub use record::{Record, ReplayError, Snapshot};
pub use view::{
    ClusterView, Detail, DeviceView, JobEvent, JobState, JobView, WorkerState, WorkerView,
};
