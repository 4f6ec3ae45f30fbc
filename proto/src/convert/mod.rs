//! Wire <-> vocabulary. Reading collects every bad field with its path, as in a job file, before it
//! gives up; writing can't fail.
//!
//! A message that is too loose for its type (an absent part, an unknown enum value) is a
//! [`Violation`]. Defaults are those of the types in `espalier-spec`. Rules that connect fields are
//! `espalier_spec::check`'s; [`checked_job`] applies both.

mod adaptation;
mod balancer;
mod job;
mod plan;
mod recovery;
mod report;
mod task;
mod training;
mod tuning;

pub use job::checked_job;
pub use plan::{plan_from_wire, plan_to_wire};
pub use recovery::{milestone, milestone_to_wire};

use espalier_spec::Violation;
use std::fmt;

/// A type of the vocabulary that travels as a message.
pub trait Wire: Sized {
    /// The message.
    type Message;

    /// Writes the message.
    fn to_wire(&self) -> Self::Message;

    /// Reads the message, with absent fields at their defaults. Errors: every bad field, its path
    /// relative to the message.
    fn from_wire(message: Self::Message) -> Result<Self, Violations> {
        let mut bad = Bad::default();
        let value = Self::read(message, &mut bad, "");
        if bad.0.is_empty() {
            Ok(value)
        } else {
            Err(Violations(bad.0))
        }
    }

    /// Reads the message at `path` of a larger one. What is wrong goes to `bad`; then the value is
    /// a stand-in that only serves to read on.
    #[doc(hidden)]
    fn read(message: Self::Message, bad: &mut Bad, path: &str) -> Self;
}

/// Every bad field of a message; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violations(pub Vec<Violation>);

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{violation}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}

/// Collects bad fields while a message is read.
#[derive(Debug, Default)]
pub struct Bad(Vec<Violation>);

impl Bad {
    fn add(&mut self, field: String, message: impl Into<String>) {
        self.0.push(Violation {
            field,
            message: message.into(),
        });
    }

    /// Reads a required part; if it is absent says so with `hint` and reads an empty one in its
    /// place without further complaints.
    fn required<T: Wire>(&mut self, part: Option<T::Message>, path: String, hint: &str) -> T
    where
        T::Message: Default,
    {
        match part {
            Some(part) => T::read(part, self, &path),
            None => {
                self.add(path.clone(), format!("is required: {hint}"));
                T::read(T::Message::default(), &mut Bad::default(), &path)
            }
        }
    }

    /// Looks an enum's number up. `known` lists the names that a job file knows.
    fn choice<E: TryFrom<i32> + Default>(
        &mut self,
        number: i32,
        path: impl FnOnce() -> String,
        known: &str,
    ) -> E {
        E::try_from(number).unwrap_or_else(|_| {
            self.add(
                path(),
                format!("{number} is no known value, expected {known}"),
            );
            E::default()
        })
    }
}

/// `path.field`, or `field` at the top.
fn at(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

/// `path.field[index]`.
fn item(path: &str, field: &str, index: usize) -> String {
    format!("{}[{index}]", at(path, field))
}

/// Empty text means absent.
fn text(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

/// 0 means the default.
fn or_default(number: u32, default: u32) -> u32 {
    if number == 0 { default } else { number }
}
