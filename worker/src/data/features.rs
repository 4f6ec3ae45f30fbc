//! Features of a frozen backbone: what stands for the inputs of a split once they are computed.

use super::Error;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A row of numbers for each sample of a split, in memory or in a file.
#[derive(Debug)]
pub struct Features {
    width: usize,
    rows: usize,
    store: Store,
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
        let store = match spill {
            None => Store::Memory(vec![0.0; rows * width]),
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
                file.set_len((rows * width * size_of::<f32>()) as u64)
                    .map_err(failed)?;
                Store::File { file, path }
            }
        };
        Ok(Self { width, rows, store })
    }

    /// Samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Numbers of a sample.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Sets the row of sample `index` from its bytes, `width` little-endian 32-bit floats.
    ///
    /// # Errors
    /// [`Error::Spill`]: the file can't be written, such as for want of room.
    pub fn put(&mut self, index: usize, bytes: &[u8]) -> Result<(), Error> {
        let start = index * self.width;
        match &mut self.store {
            Store::Memory(values) => {
                let row = values.iter_mut().skip(start).take(self.width);
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

    /// The row of sample `index`; of zeros beyond the last.
    ///
    /// # Errors
    /// [`Error::Spill`]: the file can't be read.
    pub fn row(&self, index: usize) -> Result<Arc<[f32]>, Error> {
        if index >= self.rows {
            return Ok(vec![0.0; self.width].into());
        }
        let start = index * self.width;
        match &self.store {
            Store::Memory(values) => Ok(values[start..start + self.width].into()),
            Store::File { file, path } => {
                let mut bytes = vec![0; self.width * size_of::<f32>()];
                let at = (start * size_of::<f32>()) as u64;
                file.read_exact_at(&mut bytes, at)
                    .map_err(|cause| Error::Spill {
                        file: path.clone(),
                        cause,
                    })?;
                let (numbers, _) = bytes.as_chunks::<4>();
                Ok(numbers.iter().map(|b| f32::from_le_bytes(*b)).collect())
            }
        }
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
            assert_eq!(&*features.row(3).unwrap(), [0.0, 0.0]);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let no_dir = dir.path().join("file");
        fs::write(&no_dir, "").unwrap();
        let error = Features::new(1, 1, Some(&no_dir)).unwrap_err();
        assert!(error.to_string().contains("features"), "{error}");
    }
}
