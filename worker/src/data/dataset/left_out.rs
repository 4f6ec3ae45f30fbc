//! Rows of a split that become no samples: how many, and why.

use crate::data::Error;
use espalier_spec::job::{DataSpec, OnBadSample};

/// What became of rows that can't be used.
pub(super) struct LeftOut {
    policy: OnBadSample,
    /// Rows that could not be decoded.
    pub(super) skipped: u64,
    /// Rows without a label.
    pub(super) unlabelled: u64,
    first: Option<Error>,
}

impl LeftOut {
    pub(super) fn new(data: &DataSpec) -> Self {
        Self {
            policy: data.on_bad_sample,
            skipped: 0,
            unlabelled: 0,
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

    /// Why a split has no rows with a label, which stands in `column`.
    pub(super) fn nothing_left(self, column: &str) -> Error {
        match self.first {
            Some(first) => Error::NothingLeft {
                skipped: self.skipped,
                first: Box::new(first),
            },
            None if self.unlabelled > 0 => Error::NoLabels {
                column: column.to_owned(),
                rows: self.unlabelled,
            },
            None => Error::NoFiles,
        }
    }
}
