//! Features of a frozen backbone: what stands for the inputs of a split once they are computed.

use super::Error;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A row of numbers for each sample of a split, in memory or in a file.
#[derive(Debug)]
pub struct Features {
    rows: Rows,
    store: Store,
}

/// Where the rows stand.
#[derive(Debug)]
enum Rows {
    /// So many, all of one width.
    Even(usize, usize),
    /// Where each one ends.
    Ends(Vec<usize>),
}

impl Rows {
    fn len(&self) -> usize {
        match self {
            Rows::Even(rows, _) => *rows,
            Rows::Ends(ends) => ends.len(),
        }
    }

    fn numbers(&self) -> usize {
        match self {
            Rows::Even(rows, width) => rows * width,
            Rows::Ends(ends) => ends.last().copied().unwrap_or(0),
        }
    }

    /// The numbers of a row; nothing beyond the last.
    fn of(&self, index: usize) -> Range<usize> {
        match self {
            Rows::Even(rows, width) if index < *rows => index * width..(index + 1) * width,
            Rows::Ends(ends) if index < ends.len() => {
                let before = index.checked_sub(1).map_or(0, |before| ends[before]);
                before..ends[index]
            }
            _ => 0..0,
        }
    }
}

#[derive(Debug)]
enum Store {
    Memory(Vec<f32>),
    /// A file whose name is gone already: it goes with this process, however that ends.
    File {
        file: File,
        path: PathBuf,
    },
}

impl Features {
    /// Room for `rows` rows of `width` numbers: in a file of the directory `spill`, if there is one.
    ///
    /// # Errors
    /// [`Error::Spill`]: the file can't be made.
    pub fn new(rows: usize, width: usize, spill: Option<&Path>) -> Result<Self, Error> {
        Self::of(Rows::Even(rows, width), spill)
    }

    /// The same for rows of different widths.
    ///
    /// # Errors
    /// [`Error::Spill`]: the file can't be made.
    pub fn ragged(
        widths: impl IntoIterator<Item = usize>,
        spill: Option<&Path>,
    ) -> Result<Self, Error> {
        let ends = widths.into_iter().scan(0, |end, width| {
            *end += width;
            Some(*end)
        });
        Self::of(Rows::Ends(ends.collect()), spill)
    }

    fn of(rows: Rows, spill: Option<&Path>) -> Result<Self, Error> {
        let numbers = rows.numbers();
        let store = match spill {
            None => Store::Memory(vec![0.0; numbers]),
            Some(dir) => {
                let path = dir.join(format!(".features-{}", uuid::Uuid::new_v4()));
                let failed = |cause| Error::Spill {
                    file: path.clone(),
                    cause,
                };
                fs::create_dir_all(dir).map_err(failed)?;
                let mut options = File::options();
                let file = options.read(true).write(true).create_new(true);
                let file = file.open(&path).map_err(failed)?;
                fs::remove_file(&path).map_err(failed)?;
                file.set_len((numbers * size_of::<f32>()) as u64)
                    .map_err(failed)?;
                Store::File { file, path }
            }
        };
        Ok(Self { rows, store })
    }

    /// Samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers of sample `index`; 0 beyond the last.
    #[must_use]
    pub fn width(&self, index: usize) -> usize {
        self.rows.of(index).len()
    }

    /// Sets the row of sample `index` from its bytes, as many little-endian 32-bit floats as it is wide.
    ///
    /// # Errors
    /// [`Error::Spill`]: the file can't be written, such as for want of room.
    pub fn put(&mut self, index: usize, bytes: &[u8]) -> Result<(), Error> {
        let Range { start, end } = self.rows.of(index);
        match &mut self.store {
            Store::Memory(values) => {
                let row = values[start..end].iter_mut();
                let (numbers, _) = bytes.as_chunks::<4>();
                row.zip(numbers)
                    .for_each(|(value, bytes)| *value = f32::from_le_bytes(*bytes));
                Ok(())
            }
            Store::File { file, path } => {
                let at = (start * size_of::<f32>()) as u64;
                file.write_all_at(bytes, at).map_err(|cause| Error::Spill {
                    file: path.clone(),
                    cause,
                })
            }
        }
    }

    /// The row of sample `index`; nothing beyond the last.
    ///
    /// # Errors
    /// [`Error::Spill`]: the file can't be read.
    pub fn row(&self, index: usize) -> Result<Arc<[f32]>, Error> {
        let mut row = Vec::with_capacity(self.width(index));
        self.append(index, &mut row)?;
        Ok(row.into())
    }

    /// Adds the row of sample `index` to `numbers`; nothing beyond the last.
    ///
    /// # Errors
    /// [`Error::Spill`]: the file can't be read.
    pub fn append(&self, index: usize, numbers: &mut Vec<f32>) -> Result<(), Error> {
        let Range { start, end } = self.rows.of(index);
        match &self.store {
            Store::Memory(values) => numbers.extend_from_slice(&values[start..end]),
            Store::File { file, path } => {
                let mut bytes = vec![0; (end - start) * size_of::<f32>()];
                let at = (start * size_of::<f32>()) as u64;
                file.read_exact_at(&mut bytes, at)
                    .map_err(|cause| Error::Spill {
                        file: path.clone(),
                        cause,
                    })?;
                let (words, _) = bytes.as_chunks::<4>();
                numbers.extend(words.iter().map(|word| f32::from_le_bytes(*word)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: what was put comes back, bit by bit, from memory and from a file, which leaves nothing
    // behind.
    #[test]
    fn rows_come_back_from_memory_and_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        for spill in [None, Some(dir.path())] {
            let mut features = Features::new(3, 2, spill).unwrap();
            for (index, row) in [(2, [1.5f32, -2.0]), (0, [f32::MIN_POSITIVE, 7.25])] {
                let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
                features.put(index, &bytes).unwrap();
            }
            assert_eq!(&*features.row(0).unwrap(), [f32::MIN_POSITIVE, 7.25]);
            assert_eq!(&*features.row(1).unwrap(), [0.0, 0.0]);
            assert_eq!(&*features.row(2).unwrap(), [1.5, -2.0]);
            assert!(features.row(3).unwrap().is_empty());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let no_dir = dir.path().join("file");
        fs::write(&no_dir, "").unwrap();
        let error = Features::new(1, 1, Some(&no_dir)).unwrap_err();
        assert!(error.to_string().contains("features"), "{error}");
    }

    // Promise: rows of different widths stand one after another, in memory and in a file.
    #[test]
    fn rows_may_differ_in_width() {
        let dir = tempfile::tempdir().unwrap();
        for spill in [None, Some(dir.path())] {
            let mut features = Features::ragged([2, 0, 3], spill).unwrap();
            for (index, row) in [(2, &[1f32, 2.0, 3.0][..]), (0, &[4.0, 5.0])] {
                let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
                features.put(index, &bytes).unwrap();
            }
            let mut all = Vec::new();
            for index in 0..4 {
                features.append(index, &mut all).unwrap();
            }
            assert_eq!(all, [4.0, 5.0, 1.0, 2.0, 3.0]);
            assert_eq!(
                [0, 1, 2, 3].map(|index| features.width(index)),
                [2, 0, 3, 0]
            );
        }
    }
}
