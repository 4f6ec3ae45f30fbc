//! A row-sparse table: word embeddings. A batch reads and trains a few of its rows.

use super::{Batch, Error};
use crate::torch;
use tch::{Device, Kind, Tensor};

/// Word embeddings [rows, width]; gradients exist only for rows that a batch read. All of it is in
/// memory, or only the rows that somebody brought.
#[derive(Debug)]
pub struct Table {
    name: String,
    /// All values; without memory while the table is not whole.
    weight: Tensor,
    /// The rows that are here while it is not whole.
    brought: Option<Brought>,
    trainable: bool,
    /// Where the rows of a batch are wanted; the table itself is on the host.
    device: Device,
}

/// Some rows of a table: their numbers, ascending and distinct, and their values [n, width].
#[derive(Debug)]
struct Brought {
    rows: Vec<u32>,
    values: Tensor,
}

impl Brought {
    /// Where in `values` the row of each id is, i64 `[ids]`.
    fn places(&self, ids: &[u32]) -> Result<Tensor, Error> {
        let place = |id: &u32| match self.rows.binary_search(id) {
            Ok(place) => Ok(place as i64),
            Err(_) => Err(Error::Input(format!(
                "row {id} of the word table was not brought for this batch"
            ))),
        };
        let places: Vec<i64> = ids.iter().map(place).collect::<Result<_, _>>()?;
        Ok(Tensor::f_from_slice(&places)?)
    }
}

impl Table {
    /// A table of zeros with a Hugging Face name, whose rows are read on `device`.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn new(name: &str, size: [i64; 2], trainable: bool, device: Device) -> Result<Self, Error> {
        let weight = Tensor::f_zeros(size, (Kind::Float, Device::Cpu))?;
        Ok(Self {
            name: name.to_owned(),
            weight,
            brought: None,
            trainable,
            device,
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
        let here = self.brought.as_ref().map(|brought| &brought.values);
        here.unwrap_or(&self.weight).numel()
    }

    /// Numbers in a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.weight.size()[1] as usize
    }

    /// Where the rows of a batch are read.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// Whether it is trained.
    #[must_use]
    pub fn trainable(&self) -> bool {
        self.trainable
    }

    /// Whether all rows are in memory.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.brought.is_none()
    }

    /// Gives up the memory of all rows: somebody else has them.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn let_go(&mut self) -> Result<(), Error> {
        let nothing = Tensor::f_zeros([0, self.width() as i64], (Kind::Float, Device::Cpu))?;
        self.bring(Vec::new(), nothing)
    }

    /// Has `rows`, ascending and distinct, and nothing else in memory; `values` f32 [n, width].
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn bring(&mut self, rows: Vec<u32>, values: Tensor) -> Result<(), Error> {
        let expected = vec![rows.len() as i64, self.width() as i64];
        if values.size() != expected {
            return Err(Error::Shape {
                name: self.name.clone(),
                expected,
                found: values.size(),
            });
        }
        if self.is_whole() {
            torch::let_go(&self.weight)?;
        }
        self.brought = Some(Brought { rows, values });
        Ok(())
    }

    /// Has memory for all rows again; their values must be put in.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn hold(&mut self) -> Result<(), Error> {
        if !self.is_whole() {
            torch::hold(&self.weight)?;
            self.brought = None;
        }
        Ok(())
    }

    /// All values, f32 [rows, width].
    ///
    /// # Errors
    /// [`Error::NotWhole`].
    pub fn weight(&self) -> Result<&Tensor, Error> {
        self.whole()?;
        Ok(&self.weight)
    }

    fn whole(&self) -> Result<(), Error> {
        match &self.brought {
            None => Ok(()),
            Some(brought) => Err(Error::NotWhole {
                name: self.name.clone(),
                here: brought.rows.len(),
                rows: self.rows(),
            }),
        }
    }

    /// All values for writing, row after row.
    ///
    /// # Errors
    /// [`Error::NotWhole`], or if the table is not on the CPU.
    pub fn data_mut(&mut self) -> Result<&mut [f32], Error> {
        self.whole()?;
        Ok(torch::data_mut(&mut self.weight)?)
    }

    /// Copies values in.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NotWhole`].
    pub fn load(&mut self, values: &Tensor) -> Result<(), Error> {
        self.whole()?;
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

    /// Whether all ids are rows.
    ///
    /// # Errors
    /// [`Error::Input`] if an id is no row.
    pub fn check(&self, ids: &[u32]) -> Result<(), Error> {
        let rows = self.rows();
        match ids.iter().find(|&&id| id as usize >= rows) {
            None => Ok(()),
            Some(id) => Err(Error::Input(format!(
                "token id {id} is outside the vocabulary of {rows}: does tokenizer.json belong to this model? A \
                 decoder can learn new tokens with backbone.extend_vocabulary"
            ))),
        }
    }

    /// The rows of some tokens, [l, width], of a table that is whole; on its device.
    ///
    /// # Errors
    /// [`Error::Input`] if an id is no row, [`Error::NotWhole`].
    pub fn rows_of(&self, ids: &[u32]) -> Result<Tensor, Error> {
        self.check(ids)?;
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let rows = self
            .weight()?
            .f_index_select(0, &Tensor::f_from_slice(&ids)?)?;
        Ok(torch::sent(&rows, self.device)?)
    }

    /// The rows of a batch's tokens, [T, width], on its device: a leaf that requires grad if the table is trained.
    ///
    /// # Errors
    /// [`Error::Input`] if an id is no row, or its row is not in memory.
    pub fn gather(&self, batch: &Batch) -> Result<Tensor, Error> {
        let Batch::Tokens(tokens) = batch else {
            return Err(Error::Input("a text model was given images".into()));
        };
        self.check(&tokens.host_ids)?;
        let gathered = match &self.brought {
            None if self.device == Device::Cpu => {
                tch::no_grad(|| self.weight.f_index_select(0, &tokens.ids))?
            }
            None => tch::no_grad(|| self.rows_of(&tokens.host_ids))?,
            Some(brought) => {
                let places = brought.places(&tokens.host_ids)?;
                let rows = brought.values.f_index_select(0, &places)?;
                torch::sent(&rows, self.device)?
            }
        };
        Ok(if self.trainable {
            gathered.f_set_requires_grad(true)?
        } else {
            gathered
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::TokenBatch;
    use super::*;

    fn table() -> Table {
        let mut table = Table::new("words", [6, 2], true, Device::Cpu).unwrap();
        let values = Tensor::arange(12, (Kind::Float, Device::Cpu)).view([6, 2]);
        table.load(&values).unwrap();
        table
    }

    fn batch(ids: &[u32]) -> Batch {
        Batch::Tokens(TokenBatch::pack(&[ids], &[0], Device::Cpu).unwrap())
    }

    // Promise: a batch reads the same from the rows that were brought for it as from the whole table.
    #[test]
    fn brought_rows_are_read_like_the_whole_table() {
        let mut table = table();
        let batch = batch(&[4, 1, 4, 3]);
        let whole = table.gather(&batch).unwrap();
        let rows = vec![1, 3, 4];
        let places = Tensor::from_slice(&[1i64, 3, 4]);
        let values = table.weight().unwrap().index_select(0, &places);
        table.bring(rows, values).unwrap();
        assert_eq!(table.numbers(), 6);
        let some = table.gather(&batch).unwrap();
        assert!(some.equal(&whole) && some.requires_grad());
    }

    // Promise: rows that are not here are an error that names them, never other rows.
    #[test]
    fn a_row_that_is_away_is_named() {
        let mut table = table();
        table.let_go().unwrap();
        assert_eq!((table.numbers(), table.rows()), (0, 6));
        let error = table.gather(&batch(&[5])).unwrap_err();
        assert!(error.to_string().contains("row 5"), "{error}");
        let error = table.gather(&batch(&[6])).unwrap_err();
        assert!(error.to_string().contains("vocabulary of 6"), "{error}");
        let said = error.to_string();
        assert!(said.contains("backbone.extend_vocabulary"), "{said}");
        let error = table.weight().unwrap_err();
        assert!(
            matches!(
                error,
                Error::NotWhole {
                    here: 0,
                    rows: 6,
                    ..
                }
            ),
            "{error}"
        );
        table.hold().unwrap();
        assert!(table.is_whole() && table.weight().is_ok());
    }
}
