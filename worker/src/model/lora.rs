//! Low-rank updates of linear layers (LoRA; Hu et al. 2022, arXiv 2106.09685).
//!
//! A layer of weight W [out, in] computes x·Wᵀ + b + s·x·Aᵀ·Bᵀ with A [r, in], B [out, r] and
//! s = alpha/r. W is not trained and takes part in no exchange; A and B are parameters of the block
//! like others. A fused weight (query, key and value) gets an update for each of its parts.

use super::block::{ParamSpec, Piece, Role};
use super::context::{Context, mix};
use super::init::{key, uniform};
use super::{Block, Error};
use espalier_spec::job::LoraSpec;
use tch::Tensor;

/// Ends of the names of A and B, as PEFT has them.
const ENDS: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];
/// Dropout sites of updates begin here; the backbone counts its own from 0.
const SITES: u64 = 1 << 40;

/// The low-rank update of one linear layer of a block.
#[derive(Clone, Debug)]
pub(super) struct Update {
    /// Hugging Face name of the layer, without `.weight`.
    layer: String,
    /// The parameter that it is added to, and which part of it.
    target: usize,
    part: i64,
    /// The parameters A and B.
    down: usize,
    up: usize,
    scale: f64,
    dropout: f64,
}

/// Names of the linear layers among parameters.
pub(super) fn layers(specs: &[ParamSpec]) -> Vec<String> {
    let is_linear = |spec: &&ParamSpec| matches!(spec.role, Role::Linear | Role::Transposed);
    let linear = specs.iter().filter(is_linear);
    let names = linear.flat_map(|spec| match spec.parts.is_empty() {
        true => std::slice::from_ref(&spec.name).to_vec(),
        false => spec.parts.clone(),
    });
    names
        .map(|name| name.trim_end_matches(".weight").to_owned())
        .collect()
}

/// Adds the parameters of updates to a block's; all others are not trained.
pub(super) fn add(specs: &mut Vec<ParamSpec>, lora: &LoraSpec) {
    let rank = i64::from(lora.rank);
    let mut more = Vec::new();
    for spec in specs.iter_mut() {
        spec.trained = false;
        for layer in layers(std::slice::from_ref(spec)) {
            if lora.targets(&layer) {
                let (out, inner) = match spec.role {
                    Role::Transposed => (spec.shape[1], spec.shape[0]),
                    _ => (
                        spec.shape[0] / spec.parts.len().max(1) as i64,
                        spec.shape[1],
                    ),
                };
                for (end, shape) in ENDS.iter().zip([[rank, inner], [out, rank]]) {
                    more.push(ParamSpec {
                        role: Role::Update,
                        ..ParamSpec::weight(format!("{layer}{end}"), &shape)
                    });
                }
            }
        }
    }
    specs.extend(more);
}

impl Block {
    /// Connects the parameters that [`add`] added with their layers, and starts them: A uniform in
    /// ±1/√in, a function of seed and name; B is 0.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn start_updates(&mut self, lora: &LoraSpec, seed: u64) -> Result<(), Error> {
        let place = |name: &str| self.params().iter().position(|param| param.name == name);
        let mut updates = Vec::new();
        for (target, param) in self.params().iter().enumerate() {
            for (part, name) in param.names().into_iter().enumerate() {
                let layer = name.trim_end_matches(".weight");
                let [down, up] = ENDS.map(|end| place(&format!("{layer}{end}")));
                if let (Some(down), Some(up)) = (down, up) {
                    updates.push(Update {
                        layer: layer.to_owned(),
                        target,
                        part: part as i64,
                        down,
                        up,
                        scale: lora.alpha / f64::from(lora.rank),
                        dropout: lora.dropout,
                    });
                }
            }
        }
        for update in &updates {
            let name = format!("{}{}", update.layer, ENDS[0]);
            let shape = self.param(update.down).size();
            let bound = 1.0 / (shape[1].max(1) as f64).sqrt();
            let count = shape.iter().product::<i64>() as usize;
            let values = uniform(count, key(seed, &name), bound);
            self.load(&name, &Tensor::f_from_slice(&values)?.f_view(&shape[..])?)?;
        }
        self.updates = updates;
        Ok(())
    }

    /// x·Wᵀ + b of the parameters `weight` and `bias`, with the updates of W and the adapter behind it;
    /// where W is stored as `[in, out]`, x·W + b. `keys` are the rows' identities for dropout, `site` the
    /// layer's own dropout site.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn linear(
        &self,
        x: &Tensor,
        (weight, bias): (usize, Option<usize>),
        keys: &[u64],
        (ctx, site): (&Context, u64),
    ) -> Result<Tensor, Error> {
        let bias = bias.map(|place| self.param(place));
        let y = match self.params()[weight].is_transposed {
            true => x.f_linear(&self.param(weight).f_transpose(0, 1)?, bias)?,
            false => x.f_linear(self.param(weight), bias)?,
        };
        for update in self.updates.iter().filter(|update| update.target == weight) {
            let site = SITES ^ mix(site ^ ((update.down as u64) << 32));
            let x = ctx.dropout(x.shallow_clone(), keys, site, update.dropout)?;
            let no_bias: Option<&Tensor> = None;
            let low = x.f_linear(self.param(update.down), no_bias)?;
            let more = low.f_linear(self.param(update.up), no_bias)?;
            let out = self.param(update.up).size()[0];
            let mut own = y.f_narrow(-1, update.part * out, out)?;
            let _ = own.f_add_(&more.f_mul_scalar(update.scale)?)?;
        }
        self.adapt(weight, y)
    }

    /// Hugging Face names and values, low-rank updates merged into their layers: W + s·B·A. Tensors
    /// that nothing is merged into are views.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn export(&self) -> Result<Vec<(String, Tensor)>, Error> {
        let merged = |piece: Piece<'_>| {
            let value = self.value(&piece)?;
            let of = |update: &&Update| {
                piece.name.strip_suffix(".weight") == Some(update.layer.as_str())
            };
            let value = match self.updates.iter().find(of) {
                None => value,
                Some(update) => tch::no_grad(|| {
                    let product = self.host(update.up)?.f_matmul(&self.host(update.down)?)?;
                    let product = match self.params()[update.target].is_transposed {
                        true => product.f_transpose(0, 1)?,
                        false => product,
                    };
                    Ok::<_, Error>(value.f_add(&product.f_mul_scalar(update.scale)?)?)
                })?,
            };
            Ok((piece.name.to_owned(), value))
        };
        let model = self.pieces().filter(|piece| !piece.role.is_beside());
        model.map(merged).collect()
    }

    /// The low-rank updates, by names; views.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn updates(&self) -> Result<Vec<(String, Tensor)>, Error> {
        let updates = self.pieces().filter(|piece| piece.role == Role::Update);
        updates
            .map(|piece| Ok((piece.name.to_owned(), self.value(&piece)?)))
            .collect()
    }
}
