//! `model.safetensors`, or the files that `model.safetensors.index.json` lists, read tensor by tensor: loading
//! needs little more memory than the model.

use super::Error;
use super::hf::Source;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use tch::{Kind, Tensor};

const FILE: &str = "model.safetensors";
/// What a model in several files has in its place.
const INDEX: &str = "model.safetensors.index.json";
/// A header beyond this is damage, not a description.
const HEADER_LIMIT: u64 = 100 << 20;

/// Named tensors of a model's files, taken out one by one.
pub(super) struct Weights<'a> {
    source: &'a Source,
    shards: Vec<Shard>,
    /// By name: the place of its file, and where it lies there.
    tensors: BTreeMap<String, (usize, TensorInfo)>,
}

/// One file.
struct Shard {
    name: String,
    file: File,
    /// Where its tensors begin.
    start: u64,
}

/// What an index says.
#[derive(Deserialize)]
struct Index {
    /// The file of every tensor.
    weight_map: BTreeMap<String, String>,
}

impl<'a> Weights<'a> {
    /// Opens a directory's weights and checks that its files are whole; `prefix` (such as `bert.`) is
    /// taken off names that have it.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Content`].
    pub(super) fn open(source: &'a Source, prefix: &str) -> Result<Self, Error> {
        let index = match source.dir().join(FILE).exists() {
            true => None,
            false => read_index(source)?,
        };
        let names: BTreeSet<&str> = match &index {
            Some(index) => index.weight_map.values().map(String::as_str).collect(),
            None => [FILE].into(),
        };
        let mut weights = Self {
            source,
            shards: Vec::new(),
            tensors: BTreeMap::new(),
        };
        for name in names {
            let (shard, tensors) = Shard::open(source, name)?;
            if let Some(index) = &index {
                let listed = index.weight_map.iter().filter(|(_, file)| *file == name);
                let mut names = listed.map(|(tensor, _)| tensor);
                if let Some(tensor) = names.find(|tensor| !tensors.contains_key(*tensor)) {
                    let message = format!("tensor {tensor} is missing, which {INDEX} places here");
                    return Err(source.wrong(name, message));
                }
            }
            let place = weights.shards.len();
            for (name, info) in tensors {
                let name = name.strip_prefix(prefix).unwrap_or(&name).to_owned();
                weights.tensors.insert(name, (place, info));
            }
            weights.shards.push(shard);
        }
        Ok(weights)
    }

    /// Takes a tensor out, as f32. Norms may have their old names (gamma, beta).
    ///
    /// # Errors
    /// [`Error::Content`] if it is missing, or of another shape or kind; [`Error::File`].
    pub(super) fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, Error> {
        let old = name
            .replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta");
        let tensor = self
            .tensors
            .remove(name)
            .or_else(|| self.tensors.remove(&old));
        let Some((place, info)) = tensor else {
            let message = format!("tensor {name} {shape:?} is missing");
            return Err(self.source.wrong(listing(self.source.dir()), message));
        };
        let wrong = |message: String| Err(self.source.wrong(&self.shards[place].name, message));
        let found = size(&info);
        if found != shape {
            return wrong(format!(
                "tensor {name} has shape {found:?}, expected {shape:?} by config.json"
            ));
        }
        if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return wrong(format!(
                "tensor {name} is {:?}, expected F32, F16 or BF16",
                info.dtype
            ));
        }
        Ok(self.read(place, &info)?.f_to_kind(Kind::Float)?)
    }

    /// What nobody took and libtorch can hold, as it came.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn rest(mut self) -> Result<Vec<(String, Tensor)>, Error> {
        let mut rest = Vec::new();
        for (name, (place, info)) in std::mem::take(&mut self.tensors) {
            if kind(info.dtype).is_some() {
                rest.push((name, self.read(place, &info)?));
            }
        }
        Ok(rest)
    }

    fn read(&mut self, place: usize, info: &TensorInfo) -> Result<Tensor, Error> {
        let shard = &mut self.shards[place];
        let (begin, end) = info.data_offsets;
        let mut bytes = vec![0u8; end - begin];
        let place = SeekFrom::Start(shard.start + begin as u64);
        let mut fill = || -> io::Result<()> {
            shard.file.seek(place)?;
            shard.file.read_exact(&mut bytes)
        };
        fill().map_err(|error| unreadable(self.source, &shard.name, error))?;
        let kind = kind(info.dtype).unwrap_or(Kind::Uint8);
        Ok(Tensor::f_from_data_size(&bytes, &size(info), kind)?)
    }
}

impl Shard {
    /// Opens a file and reads what it holds, by full names.
    fn open(source: &Source, name: &str) -> Result<(Self, BTreeMap<String, TensorInfo>), Error> {
        let read = |error| unreadable(source, name, error);
        let damaged = |message: String| {
            source.wrong(name, format!("not a whole safetensors file: {message}"))
        };
        let mut file = File::open(source.dir().join(name)).map_err(read)?;
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
        let tensors = metadata.tensors().into_iter();
        let tensors = tensors.map(|(name, info)| (name, info.clone())).collect();
        let name = name.to_owned();
        Ok((Self { name, file, start }, tensors))
    }
}

/// The file that says which tensors a directory has: what an error names where one is missing.
pub(super) fn listing(dir: &Path) -> &'static str {
    let indexed = !dir.join(FILE).exists() && dir.join(INDEX).exists();
    if indexed { INDEX } else { FILE }
}

/// The index of a directory; none if it has no such file, and so `model.safetensors` is missed.
fn read_index(source: &Source) -> Result<Option<Index>, Error> {
    let text = match std::fs::read(source.dir().join(INDEX)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| unreadable(source, INDEX, error))?,
    };
    let index: Index =
        serde_json::from_slice(&text).map_err(|e| source.wrong(INDEX, e.to_string()))?;
    if index.weight_map.is_empty() {
        return Err(source.wrong(INDEX, "weight_map names no tensor".to_owned()));
    }
    // A file of this directory, and no other.
    let is_plain = |name: &&String| !name.contains(['/', '\\']) && name.ends_with(".safetensors");
    if let Some(name) = index.weight_map.values().find(|name| !is_plain(name)) {
        let message =
            format!("weight_map names the file {name:?}, expected a safetensors file beside it");
        return Err(source.wrong(INDEX, message));
    }
    Ok(Some(index))
}

fn unreadable(source: &Source, file: &str, error: io::Error) -> Error {
    Error::File {
        dir: source.dir().to_owned(),
        file: file.to_owned(),
        source: error,
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
