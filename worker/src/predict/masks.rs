//! A class for every pixel of an image, as it is shown and written.

use super::{Answer, Error, Predictor};
use crate::checkpoint::ExportedTask;
use crate::data::{self, mask_png};
use crate::heads::{self, Head, Segmentation, shares, upsampled};
use crate::metrics::Values;
use crate::model::Leaves;
use espalier_spec::job::{HeadKind, SegmentationSpec};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// A mask of the size that the backbone's images have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Height and width.
    pub size: [usize; 2],
    /// Classes of the pixels, row by row.
    pub values: Arc<[u8]>,
}

impl Predictor {
    /// Whether one of the tasks gives pixels their classes.
    #[must_use]
    pub fn makes_masks(&self, wanted: &[String]) -> bool {
        let mut tasks = self.wanted(wanted);
        tasks.any(|task| task.head == HeadKind::Segmentation)
    }

    /// Whether a task reads a map of features.
    pub(super) fn reads_map(&self) -> bool {
        self.meta.tasks.iter().any(|task| task.head.reads_map())
    }

    /// The answers of a task that gives pixels their classes, one for each image of a batch; the outputs of
    /// one image are in memory at once.
    ///
    /// # Errors
    /// If the model leaves no map of features, or the head is missing.
    pub(super) fn masks(&self, task: &ExportedTask, leaves: &Leaves) -> Result<Vec<Answer>, Error> {
        let (Some(map), Some(rows), data::Modality::Media(reader)) =
            (self.backbone.feature_map(), &leaves.rows, &self.inputs)
        else {
            let task = task.name.clone();
            return Err(heads::Error::NoMap { task }.into());
        };
        let [_, height, width] = reader.shape();
        let size = [height, width];
        let ignore = SegmentationSpec::default().ignore_index;
        let head = Segmentation::new(task.labels.clone(), None, ignore);
        let mut answers = Vec::new();
        tch::no_grad(|| {
            let maps = map.of(rows)?;
            for sample in 0..maps.size()[0] {
                let outputs = self.outputs(&task.name, &maps.f_narrow(0, sample, 1)?)?;
                let found = head.decide(&upsampled(&outputs, size)?)?;
                let Values::Masks { values, .. } = found else {
                    continue;
                };
                answers.extend(values.into_iter().map(|values| {
                    let shares = shares(&values, task.labels.len());
                    Answer::Mask {
                        shares: task.labels.iter().cloned().zip(shares).collect(),
                        mask: None,
                        pixels: Mask { size, values },
                    }
                }));
            }
            Ok(answers)
        })
    }
}

/// Writes the masks among `answers` into the directory `dir`, each as `<number>.<task>.png`, and says in the
/// answer where it is; `first` is the number of the first of the answers. A pixel's value is the number of its
/// class in the task's labels.
///
/// # Errors
/// [`Error::Mask`] if a file cannot be written.
pub fn write_masks(
    answers: &mut [BTreeMap<String, Answer>],
    dir: &Path,
    first: usize,
) -> Result<(), Error> {
    for (number, answers) in (first..).zip(answers) {
        for (task, answer) in answers {
            let Answer::Mask { mask, pixels, .. } = answer else {
                continue;
            };
            let file = dir.join(format!("{number}.{task}.png"));
            let wrong = |message: String| Error::Mask {
                file: file.display().to_string(),
                message,
            };
            let bytes = mask_png(&pixels.values, pixels.size).map_err(wrong)?;
            std::fs::write(&file, bytes).map_err(|error| wrong(error.to_string()))?;
            *mask = Some(file.display().to_string());
        }
    }
    Ok(())
}
