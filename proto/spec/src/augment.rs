//! Samples that are not whole, and random changes for training.

use serde::{Deserialize, Serialize};

/// What happens when an image, a sound or a mask cannot be decoded: its file is missing or damaged, or it
/// has another sample rate than the backbone takes; or when labels do not fit their input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnBadSample {
    /// The job fails and names file and row.
    #[default]
    Fail,
    /// The row is left out; the log says how many were.
    Skip,
}

/// What happens when a text has more tokens than `backbone.max_tokens`, or a sound more frames than the backbone
/// takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// Its end is cut off; the log says of how many.
    #[default]
    Truncate,
    /// It is a bad sample: `on_bad_sample` decides on its row.
    Error,
}

/// What happens when a row has no label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnMissingLabel {
    /// The job fails and names file and row.
    #[default]
    Error,
    /// The row is left out, and the log says how many were. In an `input_group` a training row stays for
    /// the other tasks, and this task learns from its labelled rows only.
    Skip,
}

/// Random changes of training samples, new in every epoch; 0 and `false` change nothing. What is
/// drawn is a function of the job's seed, the task, the epoch and the sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Images: pixels of black on all sides, out of which a window of the image's size is cut.
    #[serde(default)]
    pub crop: u32,
    /// Images: half of them, drawn at random, are mirrored left for right.
    #[serde(default)]
    pub flip: bool,
    /// Sounds: most frames (columns) that are set to the spectrogram's mean.
    #[serde(default)]
    pub time_mask: u32,
    /// Sounds: most mel bins (rows) that are set to the spectrogram's mean.
    #[serde(default)]
    pub frequency_mask: u32,
}

impl Augment {
    /// Whether something is asked for that only images have.
    #[must_use]
    pub fn of_images(&self) -> bool {
        self.crop > 0 || self.flip
    }

    /// Whether something is asked for that only spectrograms have.
    #[must_use]
    pub fn of_sounds(&self) -> bool {
        self.time_mask > 0 || self.frequency_mask > 0
    }
}
