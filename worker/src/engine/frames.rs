//! Frames of a batch's samples, for heads that read them.

use super::Error;
use super::headset::{HeadSet, ROW_SITE};
use crate::heads::Level;
use crate::model::{Context, mix};
use tch::Tensor;

impl HeadSet {
    /// Frames [b, t, w] of all samples of a batch, out of what the last block gave; none if no head reads
    /// them, or the backbone has none.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn frames(&self, rows: &Tensor) -> Result<Option<Tensor>, Error> {
        match self.frames {
            Some(frames) if self.has(Level::Frame) => Ok(Some(frames.of(rows)?)),
            _ => Ok(None),
        }
    }

    /// The same after dropout; `keys` are the samples' identities.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn dropped_frames(
        &self,
        rows: &Tensor,
        keys: &[u64],
        ctx: &Context,
    ) -> Result<Option<Tensor>, Error> {
        let Some(frames_btw) = self.frames(rows)? else {
            return Ok(None);
        };
        let count = self.frames.map_or(0, |frames| frames.count()) as u64;
        let of_sample = |&key: &u64| (0..count).map(move |place| mix(key ^ mix(place)));
        let keys: Vec<u64> = keys.iter().flat_map(of_sample).collect();
        Ok(Some(ctx.dropout(
            frames_btw,
            &keys,
            ROW_SITE,
            self.dropout,
        )?))
    }
}
