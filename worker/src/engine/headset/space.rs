//! Heads whose classes are vectors, such as attributes: features are mapped into their space.

use super::HeadSet;
use crate::data::Classes;
use crate::engine::Error;
use tch::Tensor;

impl HeadSet {
    /// Vectors `[C, d]` of a task's classes at length 1; none if it does not know them by that.
    pub(in crate::engine) fn vectors(&self, task: usize) -> Option<&Tensor> {
        let (_, vectors) = self.params[self.spaces[task]?];
        Some(self.block.param(vectors?))
    }

    /// Features `[b, h]` of samples of a task in the space of its classes: `[b, d]`, or as they are where
    /// classes are texts.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(in crate::engine) fn projected(
        &self,
        task: usize,
        features: &Tensor,
    ) -> Result<Tensor, Error> {
        let Some(layer) = self.spaces[task] else {
            return Ok(features.shallow_clone());
        };
        let weight = self.block.param(self.params[layer].0);
        Ok(features.f_linear::<&Tensor>(weight, None)?)
    }

    /// Vectors of the classes that a task is trained on; none if it does not know them by that.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn trained_vectors(
        &self,
        task: usize,
        classes: &Classes,
    ) -> Result<Option<Tensor>, Error> {
        let Some(all) = self.vectors(task) else {
            return Ok(None);
        };
        let places = Tensor::f_from_slice(&classes.places())?.f_to_device(all.device())?;
        Ok(Some(all.f_index_select(0, &places)?))
    }
}
