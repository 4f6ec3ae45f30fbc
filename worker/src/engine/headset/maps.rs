//! What heads that read a map of features make of every pixel of the samples' images.

use super::{Cost, Error, HeadSet, Run, Seen, rows_of, targets};
use crate::data::{Sample, TaskData};
use crate::engine::next::parts;
use crate::heads;
use crate::metrics::Values;
use std::ops::Range;
use std::sync::Arc;
use tch::Tensor;

impl HeadSet {
    /// Outputs [p, C, height, width] of a task's head for the samples `places`, all or some of `run`, of
    /// images of `size` (height, width); `rows` is the last block's output for the whole batch.
    ///
    /// # Errors
    /// If the backbone leaves no map or libtorch refuses.
    pub(in crate::engine) fn map_outputs(
        &self,
        task: usize,
        rows: &Tensor,
        (run, places): (&Range<usize>, &[usize]),
        size: [usize; 2],
    ) -> Result<Tensor, Error> {
        let none = || Error::Plan("the backbone leaves no map of features".to_owned());
        let map = self.map.ok_or_else(none)?.of(rows)?;
        let outputs = self.outputs(task, &rows_of(&map, run, places)?, None)?;
        Ok(heads::upsampled(&outputs, size)?)
    }

    /// Gives what the labelled samples of a run cost whose pixels a task labels, in parts whose outputs fit
    /// into memory.
    pub(super) fn map_costs(
        &self,
        data: &TaskData,
        (task, run): Run,
        (rows, seen): (&Tensor, Seen<'_>),
        give: &mut impl FnMut(Cost) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(size) = data.train.labels.mask_size() else {
            return Ok(());
        };
        let sample = |place: usize| seen.samples[place];
        let has_label = |place: &usize| data.train.has_label(sample(*place).at.sample as usize);
        let places: Vec<usize> = run.filter(has_label).collect();
        let pixels = (size[0] * size[1]) as u64;
        let head = self.heads[task].as_ref();
        for part in parts(0..places.len(), |_| pixels, head.outputs()) {
            let places = &places[part];
            let (Some(first), Some(last)) = (places.first(), places.last()) else {
                continue;
            };
            let run = *first..last + 1;
            let samples: Vec<&Sample> = places.iter().map(|place| sample(*place)).collect();
            let outputs = self.map_outputs(task, rows, (&run, places), size)?;
            give(Cost {
                task,
                target: run.end..run.end,
                losses: head.loss(&outputs, &moved(data, &samples))?,
                rows: run,
                adaptation: None,
            })?;
        }
        Ok(())
    }
}

/// The masks of a task's training samples, each seen through the window that its image is seen through; what
/// lies beyond the image has no class.
fn moved(data: &TaskData, samples: &[&Sample]) -> Values {
    let which = samples.iter().map(|sample| sample.at.sample as usize);
    let mut all = targets(data, which);
    if let Values::Masks {
        size,
        ignore,
        values,
        ..
    } = &mut all
    {
        for (mask, sample) in values.iter_mut().zip(samples) {
            if let Some(window) = sample.window {
                *mask = Arc::from(window.of(&mask[..], *size, *ignore));
            }
        }
    }
    all
}
