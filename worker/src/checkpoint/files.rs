//! Safetensors files: written with hash and fsync, read with verification.

use super::Error;
use safetensors::tensor::{Dtype, SafeTensorError, View};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use tch::{Kind, Tensor};

/// One file of a checkpoint, as its manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Name within the directory.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 hash, hexadecimal.
    pub blake3: String,
}

/// A tensor that is copied out only while it is written.
struct Lazy {
    tensor: Tensor,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl View for Lazy {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = vec![0u8; self.data_len()];
        let count = self.tensor.numel();
        // `copy_data_u8` only fails for a wrong count, and the count is the tensor's own.
        let _ = self.tensor.f_copy_data_u8(&mut bytes, count);
        Cow::Owned(bytes)
    }
    fn data_len(&self) -> usize {
        let width = if self.dtype == Dtype::I64 { 8 } else { 4 };
        self.tensor.numel() * width
    }
}

/// Writes `tensors` (f32 or i64, any device) to `path` as safetensors, in order of name, and makes
/// the file durable.
///
/// # Errors
/// [`Error::DiskFull`], [`Error::Io`], [`Error::Tensor`].
pub fn write_tensors(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: Option<HashMap<String, String>>,
) -> Result<FileEntry, Error> {
    let mut views = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let wrap = |source| Error::Tensor {
            name: name.clone(),
            source,
        };
        let (kind, dtype) = match tensor.f_kind().map_err(wrap)? {
            Kind::Int64 => (Kind::Int64, Dtype::I64),
            _ => (Kind::Float, Dtype::F32),
        };
        let tensor = tensor
            .f_detach()
            .and_then(|t| t.f_to_device(tch::Device::Cpu))
            .and_then(|t| t.f_to_kind(kind))
            .and_then(|t| t.f_contiguous())
            .map_err(wrap)?;
        let shape = tensor
            .size()
            .iter()
            .map(|&n| n.unsigned_abs() as usize)
            .collect();
        views.push((
            name.clone(),
            Lazy {
                tensor,
                dtype,
                shape,
            },
        ));
    }
    safetensors::serialize_to_file(views, metadata, path).map_err(|error| match error {
        SafeTensorError::IoError(source) => Error::io("write", path, source),
        other => Error::Damaged {
            path: path.into(),
            message: other.to_string(),
        },
    })?;
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    file.sync_all().map_err(|e| Error::io("sync", path, e))?;
    entry(path)
}

/// Writes bytes to a new file and makes it durable. The hash is that of the bytes that were meant, not of what the
/// disk made of them.
///
/// # Errors
/// [`Error::DiskFull`], [`Error::Io`].
pub(super) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<FileEntry, Error> {
    let mut file = File::create(path).map_err(|e| Error::io("create", path, e))?;
    file.write_all(bytes)
        .map_err(|e| Error::io("write", path, e))?;
    file.sync_all().map_err(|e| Error::io("sync", path, e))?;
    Ok(FileEntry {
        name: name(path),
        bytes: bytes.len() as u64,
        blake3: blake3::hash(bytes).to_hex().to_string(),
    })
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Length and hash of a file as it is on disk.
pub(super) fn entry(path: &Path) -> Result<FileEntry, Error> {
    let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let length = file.metadata().map_err(|e| Error::io("read", path, e))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0u8; length.len().clamp(1, 1 << 20) as usize];
    let mut bytes = 0u64;
    loop {
        let n = file
            .read(&mut buffer)
            .map_err(|e| Error::io("read", path, e))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        bytes += n as u64;
    }
    Ok(FileEntry {
        name: name(path),
        bytes,
        blake3: hasher.finalize().to_hex().to_string(),
    })
}

/// Reads all tensors of a safetensors file, on the CPU.
///
/// # Errors
/// [`Error::Damaged`] if it is no safetensors file.
pub fn read_tensors(path: &Path) -> Result<HashMap<String, Tensor>, Error> {
    if !path.is_file() {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(Error::io("open", path, source));
    }
    let tensors = Tensor::read_safetensors(path).map_err(|e| Error::Damaged {
        path: path.into(),
        message: e.to_string(),
    })?;
    Ok(tensors.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_bit_by_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let a = Tensor::from_slice(&[1.5f32, -0.0, f32::MIN_POSITIVE]).view([1, 3]);
        let b = Tensor::from_slice(&[7i64, 8]);
        let wanted = vec![
            ("a".to_owned(), a.shallow_clone()),
            ("b".to_owned(), b.shallow_clone()),
        ];
        let entry = write_tensors(&path, &wanted, None).unwrap();
        assert_eq!(entry.bytes, std::fs::metadata(&path).unwrap().len());
        let read = read_tensors(&path).unwrap();
        assert!(read["a"].equal(&a) && read["a"].size() == [1, 3]);
        assert!(read["b"].equal(&b));
    }
}
