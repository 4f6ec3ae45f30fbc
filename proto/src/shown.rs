//! How messages that hold secrets are shown: without them.

use crate::v1;
use std::fmt;

impl fmt::Debug for v1::Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // All by name: a new field is not forgotten here.
        let Self {
            job,
            generation,
            plan,
            addresses,
            resume,
            restore,
            secret,
        } = self;
        f.debug_struct("Start")
            .field("job", job)
            .field("generation", generation)
            .field("plan", plan)
            .field("addresses", addresses)
            .field("resume", resume)
            .field("restore", restore)
            .field("secret", &format_args!("{} bytes", secret.len()))
            .finish()
    }
}
