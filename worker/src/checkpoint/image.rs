//! Safetensors images in memory: what a rank holds of a run, sends and writes as it is. Values are copied once,
//! from where they are kept into the image. [`super::Images`] keeps two of them.

use super::Error;
use crate::torch;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use tch::{Kind, TchError, Tensor};

/// What an image holds under one name.
#[derive(Debug)]
pub enum Values<'a> {
    /// f32 `[n]`: all numbers of a contiguous tensor on the CPU.
    Tensor(Tensor),
    /// f32 `[n]`.
    Numbers(Cow<'a, [f32]>),
    /// f32 `[n * width]`: rows of a table, one after another.
    Rows {
        /// The table, row after row.
        table: &'a [f32],
        /// Numbers of the rows.
        rows: Vec<usize>,
        /// Numbers in a row.
        width: usize,
    },
    /// i64 `[n]`.
    Ids(Vec<i64>),
}

impl Values<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Tensor(tensor) => tensor.numel(),
            Self::Numbers(numbers) => numbers.len(),
            Self::Rows { rows, width, .. } => rows.len() * width,
            Self::Ids(ids) => ids.len(),
        }
    }

    /// Name of the type, and bytes of all values.
    fn size(&self) -> (&'static str, usize) {
        match self {
            Self::Ids(ids) => ("I64", 8 * ids.len()),
            _ => ("F32", 4 * self.len()),
        }
    }

    /// Appends all values.
    fn write(&self, out: &mut Vec<[u8; 4]>) -> Result<(), TchError> {
        match self {
            Self::Tensor(tensor) => copy(torch::data(tensor)?, out),
            Self::Numbers(numbers) => copy(numbers, out),
            Self::Rows { table, rows, width } => {
                for row in rows {
                    copy(&table[row * width..(row + 1) * width], out);
                }
            }
            Self::Ids(ids) => {
                for id in ids {
                    let bytes = id.to_le_bytes();
                    out.extend_from_slice(bytes.as_chunks().0);
                }
            }
        }
        Ok(())
    }
}

fn copy(numbers: &[f32], out: &mut Vec<[u8; 4]>) {
    out.extend(numbers.iter().map(|number| number.to_le_bytes()));
}

/// An image that is not written yet: its header, and where its values are.
#[derive(Debug)]
pub struct Draft<'a> {
    /// As in the file, with its length before it; a multiple of eight bytes.
    header: Vec<u8>,
    entries: Vec<(String, Values<'a>)>,
    /// Bytes of all values; a multiple of four.
    values: usize,
}

impl<'a> Draft<'a> {
    /// Of `entries`, in their order; `notes` are its metadata.
    #[must_use]
    pub fn new(entries: Vec<(String, Values<'a>)>, notes: &[(&str, String)]) -> Self {
        let notes = notes.iter();
        let notes: Map<String, Value> = notes
            .map(|(name, text)| ((*name).to_owned(), json!(text)))
            .collect();
        let mut about = Map::new();
        about.insert("__metadata__".to_owned(), Value::Object(notes));
        let mut end = 0;
        for (name, values) in &entries {
            let (dtype, bytes) = values.size();
            let entry = json!({"dtype": dtype, "shape": [values.len()], "data_offsets": [end, end + bytes]});
            about.insert(name.clone(), entry);
            end += bytes;
        }
        let text = Value::Object(about).to_string();
        let length = text.len().next_multiple_of(8);
        let mut header = (length as u64).to_le_bytes().to_vec();
        header.extend_from_slice(text.as_bytes());
        header.resize(8 + length, b' ');
        Self {
            header,
            entries,
            values: end,
        }
    }

    /// Bytes of the image; a multiple of four.
    #[must_use]
    pub fn length(&self) -> usize {
        self.header.len() + self.values
    }

    /// Appends the image, in words of four bytes: so values are written where they stay, once, and no zeros before
    /// them.
    ///
    /// # Errors
    /// [`Error::Tensor`] names the one whose memory cannot be read.
    pub fn write(&self, out: &mut Vec<[u8; 4]>) -> Result<(), Error> {
        out.extend_from_slice(self.header.as_chunks().0);
        for (name, values) in &self.entries {
            values.write(out).map_err(|source| Error::Tensor {
                name: name.clone(),
                source,
            })?;
        }
        Ok(())
    }
}

/// An image that is being read.
#[derive(Debug)]
pub struct Image<'a> {
    what: String,
    notes: HashMap<String, String>,
    tensors: SafeTensors<'a>,
}

impl<'a> Image<'a> {
    /// Reads the header; `what` says in errors what this is.
    ///
    /// # Errors
    /// [`Error::Image`] if the bytes are none, or too few or too many.
    pub fn read(bytes: &'a [u8], what: impl Into<String>) -> Result<Self, Error> {
        let what: String = what.into();
        let bad = |error: safetensors::SafeTensorError| Error::Image {
            what: what.clone(),
            message: format!("not a safetensors image of {} bytes: {error}", bytes.len()),
        };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(bad)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(bad)?;
        Ok(Self {
            notes: header.metadata().clone().unwrap_or_default(),
            tensors,
            what,
        })
    }

    /// An error about it.
    #[must_use]
    pub fn bad(&self, message: impl Into<String>) -> Error {
        Error::Image {
            what: self.what.clone(),
            message: message.into(),
        }
    }

    /// A text of its metadata.
    ///
    /// # Errors
    /// [`Error::Image`] if it has none of this name.
    pub fn note(&self, name: &str) -> Result<&str, Error> {
        let text = self.notes.get(name).map(String::as_str);
        text.ok_or_else(|| self.bad(format!("its header says no {name}")))
    }

    /// Names of all tensors, ascending.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .tensors
            .names()
            .into_iter()
            .map(str::to_owned)
            .collect();
        names.sort_unstable();
        names
    }

    fn bytes(&self, name: &str, dtype: Dtype) -> Result<&'a [u8], Error> {
        let view = self.tensors.tensor(name);
        let view = view.map_err(|_| self.bad(format!("tensor {name} is missing")))?;
        if view.dtype() != dtype {
            let found = view.dtype();
            return Err(self.bad(format!("tensor {name} is {found:?}, expected {dtype:?}")));
        }
        Ok(view.data())
    }

    /// The numbers of an f32 tensor, little-endian.
    ///
    /// # Errors
    /// [`Error::Image`] if it is missing, of another type, or not of `length` numbers.
    pub fn numbers(&self, name: &str, length: usize) -> Result<&'a [[u8; 4]], Error> {
        let (words, _) = self.bytes(name, Dtype::F32)?.as_chunks::<4>();
        if words.len() != length {
            let found = words.len();
            let message = format!("tensor {name} has {found} numbers, expected {length}");
            return Err(self.bad(message));
        }
        Ok(words)
    }

    /// The values of an i64 tensor.
    ///
    /// # Errors
    /// [`Error::Image`] if it is missing or of another type.
    pub fn ids(&self, name: &str) -> Result<Vec<i64>, Error> {
        let (words, _) = self.bytes(name, Dtype::I64)?.as_chunks::<8>();
        Ok(words.iter().map(|word| i64::from_le_bytes(*word)).collect())
    }

    /// All tensors, f32 or i64 `[n]`, copied.
    ///
    /// # Errors
    /// [`Error::Image`] if one is of another type, [`Error::Tensor`] if memory cannot be had.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>, Error> {
        let mut all = BTreeMap::new();
        for (name, view) in self.tensors.iter() {
            let (kind, width) = match view.dtype() {
                Dtype::F32 => (Kind::Float, 4),
                Dtype::I64 => (Kind::Int64, 8),
                found => {
                    let message = format!("tensor {name} is {found:?}, expected F32 or I64");
                    return Err(self.bad(message));
                }
            };
            let length = (view.data().len() / width) as i64;
            let tensor = Tensor::f_from_data_size(view.data(), &[length], kind);
            let tensor = tensor.map_err(|source| Error::Tensor {
                name: name.to_owned(),
                source,
            })?;
            all.insert(name.to_owned(), tensor);
        }
        Ok(all)
    }
}

/// Puts little-endian numbers in their place, of the same length.
pub fn fill(place: &mut [f32], words: &[[u8; 4]]) {
    for (number, word) in place.iter_mut().zip(words) {
        *number = f32::from_le_bytes(*word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Vec<u8> {
        let odd = [1.5, -0.0, f32::MIN_POSITIVE, f32::NAN, f32::INFINITY];
        let table = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        let entries = vec![
            ("t".to_owned(), Values::Tensor(Tensor::from_slice(&odd))),
            ("n".to_owned(), Values::Numbers(Cow::Borrowed(&odd[..3]))),
            ("none".to_owned(), Values::Numbers(Cow::Borrowed(&[]))),
            ("ids".to_owned(), Values::Ids(vec![-1, i64::MAX])),
            (
                "rows".to_owned(),
                Values::Rows {
                    table: &table,
                    rows: vec![2, 0],
                    width: 2,
                },
            ),
        ];
        let draft = Draft::new(entries, &[("state", "{\"a\": \"b\"}".to_owned())]);
        let mut words = Vec::new();
        draft.write(&mut words).unwrap();
        let bytes = words.into_flattened();
        assert_eq!(bytes.len(), draft.length());
        bytes
    }

    // Promise: every kind of value comes back bit by bit, and any reader of safetensors reads it.
    #[test]
    fn what_is_encoded_is_read_back() {
        let bytes = image();
        let image = Image::read(&bytes, "it").unwrap();
        let mut place = [0f32; 5];
        fill(&mut place, image.numbers("t", 5).unwrap());
        let bits: Vec<u32> = place.iter().map(|number| number.to_bits()).collect();
        let odd = [1.5, -0.0, f32::MIN_POSITIVE, f32::NAN, f32::INFINITY];
        assert_eq!(bits, odd.map(f32::to_bits));
        assert_eq!(image.numbers("n", 3).unwrap().len(), 3);
        assert!(image.numbers("none", 0).unwrap().is_empty());
        assert_eq!(image.ids("ids").unwrap(), [-1, i64::MAX]);
        let mut rows = [0f32; 4];
        fill(&mut rows, image.numbers("rows", 4).unwrap());
        assert_eq!(rows, [4.0, 5.0, 0.0, 1.0]);
        assert_eq!(image.note("state").unwrap(), "{\"a\": \"b\"}");
        assert_eq!(image.names(), ["ids", "n", "none", "rows", "t"]);
        let tensors = image.tensors().unwrap();
        assert!(tensors["ids"].equal(&Tensor::from_slice(&[-1, i64::MAX])));
        assert_eq!(tensors["none"].size(), [0]);
    }

    // Promise: what is not as expected is an error that names the tensor.
    #[test]
    fn errors_name_the_tensor() {
        let bytes = image();
        let image = Image::read(&bytes, "the part of rank 1").unwrap();
        let said = |error: Error| error.to_string();
        for (found, expected) in [
            (
                said(image.numbers("w", 1).unwrap_err()),
                "tensor w is missing",
            ),
            (
                said(image.numbers("t", 4).unwrap_err()),
                "tensor t has 5 numbers, expected 4",
            ),
            (
                said(image.numbers("ids", 2).unwrap_err()),
                "tensor ids is I64, expected F32",
            ),
            (
                said(image.ids("t").unwrap_err()),
                "tensor t is F32, expected I64",
            ),
            (said(image.note("rank").unwrap_err()), "no rank"),
        ] {
            assert!(found.contains(expected), "{found}");
            assert!(found.contains("the part of rank 1"), "{found}");
        }
        for length in [0, 7, 20, bytes.len() - 1] {
            let error = Image::read(&bytes[..length], "it").unwrap_err();
            assert!(said(error).contains("not a safetensors image"));
        }
    }
}
