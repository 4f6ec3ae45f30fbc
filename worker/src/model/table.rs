//! A row-sparse table: word embeddings. A batch reads and trains a few of its rows.

use super::{Batch, Error};
use crate::torch;
use tch::{Device, Kind, Tensor};

/// Word embeddings [rows, width]; gradients exist only for rows that a batch read.
#[derive(Debug)]
pub struct Table {
    name: String,
    weight: Tensor,
    trainable: bool,
}

impl Table {
    /// A table of zeros with a Hugging Face name.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn new(name: &str, size: [i64; 2], trainable: bool, device: Device) -> Result<Self, Error> {
        let weight = Tensor::f_zeros(size, (Kind::Float, device))?;
        Ok(Self {
            name: name.to_owned(),
            weight,
            trainable,
        })
    }

    /// Hugging Face name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.weight.size()[0] as usize
    }

    /// Numbers of the table that are in memory.
    #[must_use]
    pub fn numbers(&self) -> usize {
        self.weight.numel()
    }

    /// Numbers in a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.weight.size()[1] as usize
    }

    /// Whether it is trained.
    #[must_use]
    pub fn trainable(&self) -> bool {
        self.trainable
    }

    /// The values, f32 [rows, width].
    #[must_use]
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The values for writing, row after row.
    ///
    /// # Errors
    /// If the table is not on the CPU.
    pub fn data_mut(&mut self) -> Result<&mut [f32], Error> {
        Ok(torch::data_mut(&mut self.weight)?)
    }

    /// Copies values in.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn load(&mut self, values: &Tensor) -> Result<(), Error> {
        let (expected, found) = (self.weight.size(), values.size());
        if expected != found {
            return Err(Error::Shape {
                name: self.name.clone(),
                expected,
                found,
            });
        }
        self.weight.f_copy_(values)?;
        Ok(())
    }

    /// The rows of a batch's tokens, [T, width]: a leaf that requires grad if the table is trained.
    ///
    /// # Errors
    /// [`Error::Input`] if an id is no row.
    pub fn gather(&self, batch: &Batch) -> Result<Tensor, Error> {
        let Batch::Tokens(tokens) = batch else {
            return Err(Error::Input("a text model was given images".into()));
        };
        let rows = self.rows();
        if let Some(id) = tokens.host_ids.iter().find(|&&id| id as usize >= rows) {
            return Err(Error::Input(format!(
                "token id {id} is outside the vocabulary of {rows}: does tokenizer.json belong to this model?"
            )));
        }
        let gathered = tch::no_grad(|| self.weight.f_index_select(0, &tokens.ids))?;
        Ok(if self.trainable {
            gathered.f_set_requires_grad(true)?
        } else {
            gathered
        })
    }
}
