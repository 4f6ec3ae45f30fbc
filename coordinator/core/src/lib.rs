//! Espalier's coordinator as a pure, deterministic state machine.
//!
//! ```text
//!   clients ──┐                          ┌─> records: made durable first
//!   workers ──┼─ Event ─> Machine::step ─┤
//!   time    ──┘        (now, event)      └─> commands: replies, orders to workers, notices
//! ```
//!
//! A [`Machine`] knows no clock, network, disk or chance: the same events at the same times have
//! the same outcome, so any fault of a cluster can be replayed as a list of events. State that must
//! survive ([`state::State`]) changes only by applying [`Record`]s; [`Machine::replay`] applies the
//! same ones again. What can be asked of workers again (connections, heartbeats, progress,
//! acknowledgements) is not recorded.
//!
//! | question | file |
//! | --- | --- |
//! | what may a client ask, and when is it refused? | `job.rs` |
//! | which job is next? | `queue.rs` |
//! | on which devices? | `seat.rs` |
//! | on how many workers does an elastic job sit, and who hosts which ranks? | `elastic.rs` |
//! | who is prepared in advance? | `spare.rs`, `spares.rs` |
//! | when does an elastic job take more workers in? | `grow.rs` |
//! | when is a worker unreachable, when gone? | `member.rs` |
//! | what follows when one is drained, or leaves? | `leave.rs` |
//! | which devices are taken; what does a reconnecting worker keep? | `lease.rs` |
//! | when is a worker dead at once; who could take its place? | `detect.rs` |
//! | prepare and start; from which state? | `generation.rs` |
//! | what follows when a generation ends early? | `recover.rs` |
//! | what did an incident cost; how useful was a job's time? | `account.rs` |
//! | which reports count? | `report.rs` |
//! | who computes and owns what, and why? | `place.rs`, `reason.rs` |
//! | how many, how far, how long? | `figures.rs` |
//! | who has changed, and what is there of the whole cluster? | `roster.rs`, `index.rs`, `refresh.rs` |
//! | what is always true? | `invariants.rs` |
//!
//! What workers must hold to, besides the words of `WorkerService`:
//!
//! - `running` in Hello and Heartbeat names every generation from its Prepare on until its Stopped
//!   is sent; a Stopped that could not be sent is sent after the next Hello, which may name the generation still.
//! - What lasts (all but Heartbeat and Progress) may be told again after the next Hello, in its order and
//!   before anything newer, as if it were new.
//! - A Stop is answered with Stopped, whatever the state of the generation's ranks; a repeated one
//!   is harmless; so is a repeated Start.
//! - A Prepare for a spare is answered with Prepared without addresses, and named in `running` without
//!   ranks, until a Stop or a Prepare of a later generation comes.

pub mod account;
pub mod command;
pub mod config;
mod detect;
mod elastic;
pub mod event;
pub mod exchange;
pub mod figures;
mod generation;
mod grow;
mod index;
pub mod invariants;
mod job;
mod lease;
mod leave;
mod live;
mod machine;
mod member;
pub mod place;
mod queue;
mod read;
mod reason;
pub mod record;
mod recover;
mod refresh;
mod report;
mod roster;
mod seat;
mod spare;
mod spares;
pub mod state;
pub mod view;

pub use command::{Answer, Command, Error, ErrorKind, Order, StopMode};
pub use config::Config;
pub use event::{ConnId, Event, Hello, Outcome, PeerAddress, ReplyId, RunningJob, Time};
pub use figures::{Figures, JobFigures};
pub use machine::{Machine, Output};
pub use record::{Record, ReplayError, Snapshot};
pub use view::{
    ClusterView, Detail, DeviceView, JobEvent, JobState, JobView, WorkerState, WorkerView,
};
