//! The commands of the binary, as far as they have flags of their own.

mod choices;
mod run;

pub(crate) use choices::{Generation, ZeroShot};
pub(crate) use run::{Run, work};
