//! The agent: obeys the coordinator over one gRPC stream and hosts jobs in threads of this process.
//!
//! A lost stream stops nothing: jobs go on, what they report is kept, and the agent connects again
//! and says what it runs. What lasts of it (`outbox`) is kept until a coordinator acknowledges it, and sent again
//! until then, also to another one.

pub mod control;
pub mod held;
mod host;
mod leader;
mod leave;
mod limits;
pub mod log;
pub mod metrics;
mod outbox;
pub mod report;
mod stream;
mod telemetry;
mod watchdog;
pub mod watched;
mod wire;

pub use host::{Assignment, Hosted, StartOrder};
pub use leave::{Leave, told_to_leave};
pub use limits::Limits;
pub use stream::{Config, Error, run};
pub use telemetry::{Telemetry, TelemetryError, TelemetryFlags};
