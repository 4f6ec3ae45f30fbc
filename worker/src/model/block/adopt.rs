//! Parameters that somebody else computes with.

use super::{Block, Error, view};
use crate::torch;
use tch::Tensor;

impl Block {
    /// Makes a tensor that somebody else computes with, such as a TorchScript module, the parameter of
    /// this name: its values are copied into the block, whose memory it has from then on, and autograd
    /// accumulates for it where it does for the block.
    ///
    /// # Errors
    /// As [`Block::load`].
    pub(in crate::model) fn adopt(&mut self, name: &str, tensor: Tensor) -> Result<(), Error> {
        self.load(name, &tensor.f_detach()?)?;
        let Some(param) = self.params.iter_mut().find(|param| param.name == name) else {
            return Err(Error::UnknownParameter {
                name: name.to_owned(),
            });
        };
        let home = if param.frozen { &self.rest } else { &self.flat };
        let shape = param.tensor.size();
        let mut tensor = tensor;
        tensor.f_set_data(&view(home, &param.range, &shape)?.f_detach()?)?;
        let grad = self.grads.first().filter(|_| !param.frozen);
        let tensor = tensor.f_set_requires_grad(grad.is_some())?;
        if let Some(grad) = grad {
            torch::set_grad(&tensor, &view(grad, &param.range, &shape)?)?;
        }
        param.tensor = tensor;
        Ok(())
    }
}
