//! A class for every pixel: what such a task says beside its data.

use serde::{Deserialize, Serialize};

/// Most classes of a mask: its pixels are bytes.
pub const MOST_CLASSES: usize = 256;

/// How a task of the head `segmentation` reads its masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SegmentationSpec {
    /// Value of pixels that have no class: nothing is learned from them, and they count in no figure.
    pub ignore_index: u8,
}

impl Default for SegmentationSpec {
    fn default() -> Self {
        Self { ignore_index: 255 }
    }
}
