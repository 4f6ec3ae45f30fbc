//! What is known of a method: class, paper, parameters with default, range and origin.

use super::Method;
use super::table::METHODS;
use std::fmt;

/// What a method needs, from cheap to dear; decides how gradients are exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Losses alone: one gradient, of the weighted loss.
    Losses,
    /// The K×K matrix of scalar products of the tasks' gradients.
    Gram,
    /// The same of buffers of the backbone's size, one per task.
    Buffers,
    /// The gradients themselves, coordinate by coordinate.
    Elementwise,
    /// Scalar products between the gradients of two independent batches.
    TwoBatch,
    /// The scalar products of the tasks' gradients of the representation: one backward pass
    /// through the backbone for all tasks.
    Representation,
}

impl Class {
    /// The name in tables and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Losses => "losses",
            Class::Gram => "gram",
            Class::Buffers => "buffers",
            Class::Elementwise => "elementwise",
            Class::TwoBatch => "two_batch",
            Class::Representation => "representation",
        }
    }

    /// Whether the owners of a slice need the gradients of the tasks apart.
    #[must_use]
    pub fn separate_gradients(self) -> bool {
        !matches!(self, Class::Losses | Class::Representation)
    }
}

/// A method's row in the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MethodInfo {
    /// The method.
    pub method: Method,
    /// Its name in job files.
    pub name: &'static str,
    /// What it needs.
    pub class: Class,
    /// Where it is from: authors and year, with arXiv number where there is one.
    pub paper: &'static str,
    /// Fewest tasks with which it makes sense.
    pub min_tasks: usize,
    /// Its parameters.
    pub params: &'static [ParamInfo],
}

impl MethodInfo {
    /// The parameter of a name.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&'static ParamInfo> {
        self.params.iter().find(|param| param.name == name)
    }
}

/// A parameter of a method.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParamInfo {
    /// Its name.
    pub name: &'static str,
    /// Its value if none is given.
    pub default: f64,
    /// What it may be.
    pub range: Range,
    /// What it does.
    pub meaning: &'static str,
    /// Whose default it is.
    pub source: &'static str,
}

/// The numbers that a parameter may be; always finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    low: f64,
    high: f64,
    open_low: bool,
    open_high: bool,
    whole: bool,
}

impl Range {
    pub(crate) const fn new(low: f64, high: f64) -> Self {
        Self {
            low,
            high,
            open_low: false,
            open_high: false,
            whole: false,
        }
    }

    pub(crate) const fn above(low: f64) -> Self {
        let mut range = Self::new(low, f64::MAX);
        range.open_low = true;
        range
    }

    pub(crate) const fn at_least(low: f64) -> Self {
        Self::new(low, f64::MAX)
    }

    pub(crate) const fn below(low: f64, high: f64) -> Self {
        let mut range = Self::new(low, high);
        range.open_high = true;
        range
    }

    pub(crate) const fn whole(low: f64, high: f64) -> Self {
        let mut range = Self::new(low, high);
        range.whole = true;
        range
    }

    /// Whether `value` is in it.
    #[must_use]
    pub fn holds(&self, value: f64) -> bool {
        let low = value > self.low || (!self.open_low && value == self.low);
        let high = value < self.high || (!self.open_high && value == self.high);
        low && high && (!self.whole || value.trunc() == value)
    }
}

impl fmt::Display for Range {
    /// `a finite number above 0`, `at least 0 and below 1`, `a whole number from 0 to 2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = (self.low, self.high);
        let noun = if self.whole {
            "a whole number"
        } else {
            "a number"
        };
        let from = if self.open_low {
            "above"
        } else {
            "of at least"
        };
        let to = if self.open_high { "below" } else { "at most" };
        match (low == f64::MIN, high == f64::MAX) {
            (true, true) => f.write_str("a finite number"),
            (false, true) => write!(f, "{noun} {from} {low}"),
            (true, false) => write!(f, "{noun} {to} {high}"),
            (false, false) if self.whole => write!(f, "{noun} from {low} to {high}"),
            (false, false) => write!(f, "{noun} {from} {low} and {to} {high}"),
        }
    }
}

impl Method {
    /// Its row in the table.
    #[must_use]
    pub fn info(self) -> &'static MethodInfo {
        // In order of the enum; a test holds it to that.
        &METHODS[self as usize]
    }
}
