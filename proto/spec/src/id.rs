//! Identifiers: ordered, printable newtypes, so that a rank is never taken for a step.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $prefix:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }
    };
}

number!(
    /// One membership of a job; any change of membership makes the next one. Starts at 1.
    Generation, u64, "g"
);
number!(
    /// A device of a worker within one generation of a job: 0 to world size - 1.
    Rank, u32, "rank "
);
number!(
    /// A logical rank: a fixed share of the work of every step. Ranks host one or more shards;
    /// what a shard computes does not depend on which rank hosts it.
    Shard, u32, "shard "
);
number!(
    /// Optimizer steps done; 0 before the first.
    Step, u64, ""
);

name!(
    /// A job's name: unique among the jobs that exist, lower-case DNS label (RFC 1035).
    JobId
);
name!(
    /// A worker's name: unique in the cluster, chosen by the worker (default: host name and port).
    WorkerId
);
