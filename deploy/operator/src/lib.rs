//! Espalier's operator: `TrainingJob` resources of Kubernetes become jobs.
//!
//! ```text
//!  watch ──> reconcile: observe ─> decide ─> write status ─> act ─> settle ─> write status
//!              ^                   (pure)                            (pure)
//!              └── again after a while, on news of the job, on every change of the resource
//! ```
//!
//! Everything is level-triggered: what is to be done follows from what is seen now, one act at a time, and
//! what must be remembered across a restart is written to the resource before the act that needs it. So the
//! operator may end anywhere and begin again. [`decide`] and [`scale`] hold the rules and do no IO;
//! [`reconcile`], [`scaler`] and [`watches`] are their hands; [`lease`] says which operator works.

pub mod coordinator;
pub mod crd;
pub mod decide;
pub mod health;
pub mod lease;
pub mod names;
pub mod reconcile;
pub mod resource;
pub mod run;
pub mod scale;
pub mod scaler;
pub mod settings;
pub mod watches;
