//! What becomes of rows that can't be decoded.

use super::super::Error;
use espalier_spec::job::OnBadSample;

/// What becomes of rows that can't be decoded.
pub(super) struct BadSamples {
    policy: OnBadSample,
    pub(super) skipped: u64,
    first: Option<Error>,
}

impl BadSamples {
    pub(super) fn new(policy: OnBadSample) -> Self {
        Self {
            policy,
            skipped: 0,
            first: None,
        }
    }

    /// Counts a row out, or gives the error back.
    pub(super) fn skip(&mut self, error: Error) -> Result<(), Error> {
        let is_bad = matches!(&error, Error::Row { problem, .. } if problem.is_bad_sample());
        if self.policy == OnBadSample::Fail || !is_bad {
            return Err(error);
        }
        self.skipped += 1;
        self.first.get_or_insert(error);
        Ok(())
    }

    /// Why a split has no rows.
    pub(super) fn nothing_left(self) -> Error {
        match self.first {
            Some(first) => Error::NothingLeft {
                skipped: self.skipped,
                first: Box::new(first),
            },
            None => Error::NoFiles,
        }
    }
}
