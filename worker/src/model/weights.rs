//! `model.safetensors`, read tensor by tensor: loading needs little more memory than the model.

use super::Error;
use super::hf::Source;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use tch::{Kind, Tensor};

pub(super) const FILE: &str = "model.safetensors";
/// A header beyond this is damage, not a description.
const HEADER_LIMIT: u64 = 100 << 20;

/// Named tensors of a weights file, taken out one by one.
pub(super) struct Weights<'a> {
    source: &'a Source,
    file: File,
    start: u64,
    tensors: BTreeMap<String, TensorInfo>,
}

impl<'a> Weights<'a> {
    /// Opens a directory's weights and checks that the file is whole; `prefix` (such as `bert.`) is
    /// taken off names that have it.
    pub(super) fn open(source: &'a Source, prefix: &str) -> Result<Self, Error> {
        let read = |source_error| Error::File {
            dir: source.dir().to_owned(),
            file: FILE.to_owned(),
            source: source_error,
        };
        let damaged = |message: String| {
            source.wrong(FILE, format!("not a whole safetensors file: {message}"))
        };
        let mut file = File::open(source.dir().join(FILE)).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        let mut length = [0u8; 8];
        file.read_exact(&mut length)
            .map_err(|_| damaged(format!("it has {size} bytes")))?;
        let header = u64::from_le_bytes(length);
        if header > HEADER_LIMIT || header.saturating_add(8) > size {
            let message = format!("its header claims {header} bytes, the file has {size}");
            return Err(damaged(message));
        }
        let mut bytes = vec![0u8; header as usize];
        file.read_exact(&mut bytes).map_err(read)?;
        let metadata: Metadata =
            serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        let start = 8 + header;
        let needed = start + metadata.data_len() as u64;
        if needed != size {
            let message = format!("its tensors need {needed} bytes, the file has {size}");
            return Err(damaged(message));
        }
        let short = |name: &str| name.strip_prefix(prefix).unwrap_or(name).to_owned();
        let tensors = metadata.tensors().into_iter();
        let tensors = tensors.map(|(name, info)| (short(&name), info.clone()));
        Ok(Self {
            source,
            file,
            start,
            tensors: tensors.collect(),
        })
    }

    /// Takes a tensor out, as f32. Norms may have their old names (gamma, beta).
    pub(super) fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, Error> {
        let old = name
            .replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta");
        let info = self
            .tensors
            .remove(name)
            .or_else(|| self.tensors.remove(&old));
        let Some(info) = info else {
            let message = format!("tensor {name} {shape:?} is missing");
            return Err(self.source.wrong(FILE, message));
        };
        let found = size(&info);
        if found != shape {
            let message =
                format!("tensor {name} has shape {found:?}, expected {shape:?} by config.json");
            return Err(self.source.wrong(FILE, message));
        }
        if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            let message = format!(
                "tensor {name} is {:?}, expected F32, F16 or BF16",
                info.dtype
            );
            return Err(self.source.wrong(FILE, message));
        }
        Ok(self.read(&info)?.f_to_kind(Kind::Float)?)
    }

    /// What nobody took and libtorch can hold, as it came.
    pub(super) fn rest(mut self) -> Result<Vec<(String, Tensor)>, Error> {
        let mut rest = Vec::new();
        for (name, info) in std::mem::take(&mut self.tensors) {
            if kind(info.dtype).is_some() {
                rest.push((name, self.read(&info)?));
            }
        }
        Ok(rest)
    }

    fn read(&mut self, info: &TensorInfo) -> Result<Tensor, Error> {
        let (begin, end) = info.data_offsets;
        let mut bytes = vec![0u8; end - begin];
        let place = SeekFrom::Start(self.start + begin as u64);
        let mut fill = || -> io::Result<()> {
            self.file.seek(place)?;
            self.file.read_exact(&mut bytes)
        };
        fill().map_err(|source| Error::File {
            dir: self.source.dir().to_owned(),
            file: FILE.to_owned(),
            source,
        })?;
        let kind = kind(info.dtype).unwrap_or(Kind::Uint8);
        Ok(Tensor::f_from_data_size(&bytes, &size(info), kind)?)
    }
}

fn size(info: &TensorInfo) -> Vec<i64> {
    info.shape.iter().map(|&n| n as i64).collect()
}

fn kind(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}
