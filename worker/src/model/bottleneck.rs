//! Bottleneck adapters (Houlsby et al. 2019, arXiv 1902.00751; Pfeiffer et al. 2021, arXiv 2005.00247).
//!
//! What a part of a layer gives, y [t, h], becomes y + f(y·Dᵀ + d)·Uᵀ + u with D [size, h] and U [h, size],
//! before dropout and the residual. D, d, U and u are parameters of the block like others. Nothing can
//! merge them into the layer, so a model that has them keeps them in files of their own, beside its
//! unchanged weights: `adapters.json` says what they are, `adapters.safetensors` holds them.

use super::block::{ParamSpec, Part, Role};
use super::init::{key, uniform};
use super::{Block, Error};
use espalier_spec::job::{AdapterKind, AdapterSpec, Init};
use std::path::Path;
use tch::Tensor;

/// Name of the file that says what adapters a model has.
pub const ADAPTERS_META: &str = "adapters.json";
/// Name of the file with the adapters' parameters, named by the layers that they stand behind.
pub const ADAPTERS_FILE: &str = "adapters.safetensors";

/// Ends of the names of D, d, U and u.
const ENDS: [&str; 4] = [
    ".adapter_down.weight",
    ".adapter_down.bias",
    ".adapter_up.weight",
    ".adapter_up.bias",
];

/// An adapter of a block: the parameter of the linear layer that it stands behind, and its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bottleneck {
    target: usize,
    /// D, d, U, u.
    own: [usize; 4],
    kind: AdapterKind,
}

/// The adapters that the model of a directory has; none if it has none.
///
/// # Errors
/// [`Error::File`], [`Error::Content`].
pub fn adapters_of(dir: &Path) -> Result<Option<AdapterSpec>, Error> {
    let text = match std::fs::read(dir.join(ADAPTERS_META)) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(Error::File {
                dir: dir.to_owned(),
                file: ADAPTERS_META.to_owned(),
                source,
            });
        }
    };
    let content = |e: serde_json::Error| wrong(dir, ADAPTERS_META, e.to_string());
    let found: AdapterSpec = serde_json::from_slice(&text).map_err(content)?;
    if found.size == 0 {
        let message = "size is 0, expected at least 1".to_owned();
        return Err(wrong(dir, ADAPTERS_META, message));
    }
    Ok(Some(found))
}

/// Adds the parameters of adapters to those of all blocks.
///
/// # Errors
/// [`Error::NoPlace`] if no layer says where they stand.
pub(super) fn add(
    blocks: &mut [Vec<ParamSpec>],
    adapter: AdapterSpec,
    dir: &Path,
) -> Result<(), Error> {
    let size = i64::from(adapter.size);
    let stands_behind = |part: Part| match part {
        Part::Feed => true,
        Part::Attention => adapter.kind == AdapterKind::Houlsby,
    };
    let mut added = 0;
    for specs in blocks {
        let mut more = Vec::new();
        for spec in specs.iter() {
            let Some((part, h)) = spec.gives else {
                continue;
            };
            if !stands_behind(part) {
                continue;
            }
            let layer = spec.name.trim_end_matches(".weight");
            let [down, down_bias, up, up_bias] = ENDS.map(|end| format!("{layer}{end}"));
            more.extend([
                ParamSpec::weight(down, &[size, h]),
                ParamSpec::bias(down_bias, &[size]),
                ParamSpec::weight(up, &[h, size]),
                ParamSpec::bias(up_bias, &[h]),
            ]);
        }
        added += more.len();
        let role = |spec| ParamSpec {
            role: Role::Adapter(adapter.kind),
            ..spec
        };
        specs.extend(more.into_iter().map(role));
    }
    match added {
        0 => Err(Error::NoPlace {
            dir: dir.to_owned(),
        }),
        _ => Ok(()),
    }
}

impl Block {
    /// Connects the parameters that [`add`] added with their layers, and starts them: D uniform in
    /// ±1/√h, a function of seed and name; the others are 0.
    ///
    /// # Errors
    /// If libtorch refuses.
    fn start_bottlenecks(&mut self, seed: u64) -> Result<(), Error> {
        let place = |name: &str| self.params().iter().position(|param| param.name == name);
        let mut bottlenecks = Vec::new();
        for (target, param) in self.params().iter().enumerate() {
            let layer = param.name.trim_end_matches(".weight");
            let own = ENDS.map(|end| place(&format!("{layer}{end}")));
            if let [Some(down), Some(down_bias), Some(up), Some(up_bias)] = own
                && let Role::Adapter(kind) = self.params()[down].role
            {
                bottlenecks.push(Bottleneck {
                    target,
                    own: [down, down_bias, up, up_bias],
                    kind,
                });
            }
        }
        for bottleneck in &bottlenecks {
            let down = bottleneck.own[0];
            let (name, shape) = (self.params()[down].name.clone(), self.param(down).size());
            let bound = 1.0 / (shape[1].max(1) as f64).sqrt();
            let count = shape.iter().product::<i64>() as usize;
            let values = uniform(count, key(seed, &name), bound);
            self.load(&name, &Tensor::f_from_slice(&values)?.f_view(&shape[..])?)?;
        }
        self.bottlenecks = bottlenecks;
        Ok(())
    }

    /// What a linear layer gives, through the adapter behind it, if there is one.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn adapt(&self, weight: usize, y: Tensor) -> Result<Tensor, Error> {
        let mut own = self.bottlenecks.iter();
        let Some(bottleneck) = own.find(|bottleneck| bottleneck.target == weight) else {
            return Ok(y);
        };
        let [down, down_bias, up, up_bias] = bottleneck.own.map(|place| self.param(place));
        let low = y.f_linear(down, Some(down_bias))?;
        let low = match bottleneck.kind {
            AdapterKind::Pfeiffer => low.f_relu()?,
            AdapterKind::Houlsby => low.f_gelu("none")?,
        };
        Ok(low.f_linear(up, Some(up_bias))?.f_add(&y)?)
    }

    /// The adapters, by names; views.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn bottlenecks(&self) -> Result<Vec<(String, Tensor)>, Error> {
        let own = self.pieces().filter(|piece| piece.role.is_adapter());
        own.map(|piece| Ok((piece.name.to_owned(), self.value(&piece)?)))
            .collect()
    }
}

/// Starts the adapters of all blocks: as the model's directory has them, or anew (always with a random start). Does nothing where
/// there are none.
///
/// # Errors
/// [`Error::Content`] if a parameter is missing or has another shape; or if libtorch refuses.
pub(super) fn start(
    dir: &Path,
    (init, seed): (Init, u64),
    blocks: &mut [Block],
) -> Result<(), Error> {
    for block in blocks.iter_mut() {
        block.start_bottlenecks(seed)?;
    }
    let has = blocks.iter().any(|block| !block.bottlenecks.is_empty());
    if !has || init == Init::Random || adapters_of(dir)?.is_none() {
        return Ok(());
    }
    let path = dir.join(ADAPTERS_FILE);
    let saved = Tensor::read_safetensors(&path);
    let saved = saved.map_err(|e| wrong(dir, ADAPTERS_FILE, e.to_string()))?;
    for block in blocks.iter_mut() {
        for (name, own) in block.bottlenecks()? {
            let found = saved.iter().find(|(other, _)| *other == name);
            let Some((_, values)) = found else {
                let message = format!("tensor {name} {:?} is missing", own.size());
                return Err(wrong(dir, ADAPTERS_FILE, message));
            };
            if values.size() != own.size() {
                let message = format!(
                    "tensor {name} has shape {:?}, expected {:?} by {ADAPTERS_META} and config.json",
                    values.size(),
                    own.size()
                );
                return Err(wrong(dir, ADAPTERS_FILE, message));
            }
            block.load(&name, &values.f_to_kind(tch::Kind::Float)?)?;
        }
    }
    Ok(())
}

fn wrong(dir: &Path, file: &str, message: String) -> Error {
    Error::Content {
        dir: dir.to_owned(),
        file: file.to_owned(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch;
    use tch::Device;

    fn specs() -> Vec<ParamSpec> {
        vec![
            ParamSpec::linear("attention.weight", &[2, 2]).giving(Part::Attention, 2),
            ParamSpec::linear("feed.weight", &[2, 3]).giving(Part::Feed, 2),
            ParamSpec::bias("feed.bias", &[2]),
        ]
    }

    fn block(kind: AdapterKind, dir: &Path) -> Block {
        let mut blocks = vec![specs()];
        add(&mut blocks, AdapterSpec { size: 1, kind }, dir).unwrap();
        let specs = blocks.remove(0);
        let mut block = [Block::new("test", specs, true, Device::Cpu).unwrap()];
        start(dir, (Init::Pretrained, 3), &mut block).unwrap();
        let [block] = block;
        block
    }

    // Promise: an adapter adds f(y D' + d) U' + u to what its layer gives, and nothing at first.
    #[test]
    fn an_adapter_has_its_formula() {
        let dir = tempfile::tempdir().unwrap();
        let mut block = block(AdapterKind::Pfeiffer, dir.path());
        let y = Tensor::from_slice(&[1f32, 2.0, -3.0, 0.5]).view([2, 2]);
        let feed = block.params().iter().position(|p| p.name == "feed.weight");
        let feed = feed.unwrap();
        let at_first = block.adapt(feed, y.shallow_clone()).unwrap();
        assert!(at_first.equal(&y));
        for (end, shape, values) in [
            ("down.weight", [1, 2].as_slice(), [2f32, 1.0].as_slice()),
            ("down.bias", &[1], &[-1.0]),
            ("up.weight", &[2, 1], &[0.5, -1.0]),
            ("up.bias", &[2], &[0.25, 0.0]),
        ] {
            let values = Tensor::from_slice(values).view(shape);
            block.load(&format!("feed.adapter_{end}"), &values).unwrap();
        }
        // Rows: relu(2*1 + 2 - 1) = 3 and relu(-6 + 0.5 - 1) = 0.
        let expected = [1.0 + 1.5 + 0.25, 2.0 - 3.0, -3.0 + 0.25, 0.5];
        let found = block.adapt(feed, y).unwrap().contiguous();
        assert_eq!(torch::data(&found).unwrap(), expected);
    }

    // Promise: a kind says where adapters stand; they are no part of a model's file of weights.
    #[test]
    fn kinds_differ_in_places() {
        let dir = tempfile::tempdir().unwrap();
        for (kind, count) in [(AdapterKind::Pfeiffer, 4), (AdapterKind::Houlsby, 8)] {
            let block = block(kind, dir.path());
            assert_eq!(block.bottlenecks().unwrap().len(), count);
            assert_eq!(block.model_names().len(), 3);
            assert_eq!(block.names().len(), 3 + count);
        }
        let plain = || vec![vec![ParamSpec::weight("w", &[2, 2])]];
        let error = add(&mut plain(), AdapterSpec::default(), dir.path()).unwrap_err();
        assert!(matches!(error, Error::NoPlace { .. }), "{error}");
    }

    // Promise: files of adapters that are not whole are named, with what they lack.
    #[test]
    fn broken_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let meta = dir.path().join(ADAPTERS_META);
        assert!(adapters_of(dir.path()).unwrap().is_none());
        for (text, says) in [("{\"size\": 0}", "at least 1"), ("{\"sise\": 8}", "sise")] {
            std::fs::write(&meta, text).unwrap();
            let error = adapters_of(dir.path()).unwrap_err().to_string();
            assert!(
                error.contains(ADAPTERS_META) && error.contains(says),
                "{error}"
            );
        }
        std::fs::write(&meta, "{\"size\": 1}").unwrap();
        let mut specs = vec![specs()];
        add(&mut specs, AdapterSpec::default(), dir.path()).unwrap();
        let mut blocks = [Block::new("test", specs.remove(0), true, Device::Cpu).unwrap()];
        let error = start(dir.path(), (Init::Pretrained, 3), &mut blocks).unwrap_err();
        assert!(error.to_string().contains(ADAPTERS_FILE), "{error}");
    }
}
