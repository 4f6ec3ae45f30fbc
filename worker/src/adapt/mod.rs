//! Unsupervised domain adaptation: what a task learns from samples of another domain that have no
//! labels. A method is one file: a loss over pairs of samples, one of the source and one of the target.
//!
//! A method sees features and outputs of both domains, and layers of its own where it has some. Those lie
//! in the flat block of all heads, so they are stepped, sharded and checkpointed like heads, and are not
//! exported. Losses are means over what a rank computes together; the caller weighs them by pairs.
//! Nothing here has a state between steps. The layers' first values are random, and so is what is dropped
//! between them: a function of seed, step and sample.
//!
//! Where a task's source is several domains that are kept apart, each is compared with the whole target, by
//! layers of its own, and the loss is the mean over those of which there are samples. For classifiers of domains
//! that is MDAN (Zhao et al. 2018, arXiv 1705.09684) with the same weight for every source, in place of weights
//! that grow with their losses.
//!
//! Shapes: n pairs, f features, c classes. All tensors are 32-bit floats. Where defaults come from TLLib,
//! that is thuml's Transfer-Learning-Library.

mod afn;
mod bsp;
mod cdan;
mod coral;
mod dann;
mod discriminator;
mod entropy;
mod information;
mod jan;
mod kernels;
mod mcc;
mod mdd;
mod mmd;
mod pairs;
mod self_training;

pub use pairs::{Domain, Pairs, reversed, strength};

use crate::heads::Linear;
use crate::model::Context;
use discriminator::Discriminator;
use espalier_spec::job::{Adapt, AdaptationSpec, Sources};
use std::fmt::Debug;
use tch::{Kind, TchError, Tensor};

/// A method of domain adaptation.
pub trait Method: Debug + Send + Sync {
    /// The layers of its own, in the order in which [`Method::loss`] takes them.
    fn layers(&self) -> Vec<Layer> {
        Vec::new()
    }

    /// Whether its strength acts where features are reversed; else it is a factor on the loss.
    fn reverses(&self) -> bool {
        false
    }

    /// The loss of some pairs, a scalar: a mean over them or over what they have in common.
    ///
    /// # Errors
    /// If libtorch refuses.
    fn loss(&self, pairs: &Pairs<'_>, own: &[Linear<'_>]) -> Result<Tensor, TchError>;
}

/// A linear layer of a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its name among the method's.
    pub name: String,
    /// What it reads.
    pub inputs: usize,
    /// What it gives.
    pub outputs: usize,
}

impl Layer {
    fn new(name: &str, inputs: usize, outputs: usize) -> Self {
        Self {
            name: name.to_owned(),
            inputs,
            outputs,
        }
    }

    /// Standard deviation of its first weights: that of PyTorch's `nn.Linear`, which draws uniformly
    /// from ±1/√inputs.
    #[must_use]
    pub fn deviation(&self) -> f64 {
        1.0 / (3.0 * self.inputs.max(1) as f64).sqrt()
    }
}

/// A task's adaptation: method, factor and schedule.
#[derive(Debug)]
pub struct Adaptation {
    method: Box<dyn Method>,
    kind: Adapt,
    weight: f64,
    warm_up: u64,
    /// How many domains the source is.
    sources: usize,
}

/// Errors of adaptation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `adabn` on a backbone without batch norms.
    #[error(
        "task {task}: adaptation.method is adabn, but this backbone has no batch normalisation whose statistics could follow the target; use another method"
    )]
    NoBatchNorm {
        /// Name of the task.
        task: String,
    },
}

/// A loss, and what to multiply it by.
#[derive(Debug)]
pub struct Weighed {
    /// The method's loss, a scalar.
    pub loss: Tensor,
    /// Its weight and, where it reverses nothing, its strength.
    pub factor: f64,
}

impl Adaptation {
    /// The adaptation of a task on `features` features and `classes` outputs, in a run of `steps` steps, with
    /// samples of `files` training files.
    ///
    /// # Errors
    /// [`Error::NoBatchNorm`].
    pub fn new(
        task: &str,
        spec: &AdaptationSpec,
        (features, classes): (usize, usize),
        steps: u64,
        files: usize,
    ) -> Result<Self, Error> {
        Ok(Self {
            method: build(task, spec, features, classes)?,
            kind: spec.method,
            weight: spec.weight(),
            warm_up: spec.warm_up.unwrap_or(steps),
            sources: match spec.sources {
                Sources::Together => 1,
                Sources::Apart => files.max(1),
            },
        })
    }

    /// The layers of the method's own: for each of several sources, those of the first one first.
    #[must_use]
    pub fn layers(&self) -> Vec<Layer> {
        let layers = self.method.layers();
        if self.sources == 1 {
            return layers;
        }
        let of = |source: usize| {
            let layers = layers.iter();
            layers.map(move |layer| Layer {
                name: format!("source.{source}.{}", layer.name),
                ..*layer
            })
        };
        (0..self.sources).flat_map(of).collect()
    }

    /// The method.
    #[must_use]
    pub fn kind(&self) -> Adapt {
        self.kind
    }

    /// The loss of n pairs, the samples of `source` and `target` in their order, in the step of a context.
    /// `files` are the numbers of the training files that the samples of the source are of.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn loss(
        &self,
        source: Domain<'_>,
        target: Domain<'_>,
        files: &[usize],
        own: &[Linear<'_>],
        context: &Context,
    ) -> Result<Weighed, TchError> {
        let factor = if self.method.reverses() {
            1.0
        } else {
            strength(context.step, self.warm_up)
        };
        Ok(Weighed {
            loss: match self.sources {
                1 => self.between(source, target, own, context)?,
                _ => self.apart(source, target, files, own, context)?,
            },
            factor: factor * self.weight,
        })
    }

    /// The mean over sources of which there are samples of the method's loss of each and the target.
    fn apart(
        &self,
        all: Domain<'_>,
        target: Domain<'_>,
        files: &[usize],
        own: &[Linear<'_>],
        context: &Context,
    ) -> Result<Tensor, TchError> {
        let layers = own.len() / self.sources;
        let mut losses = Vec::with_capacity(self.sources);
        for source in 0..self.sources {
            let places = (0i64..).zip(files);
            let places = places.filter(|(_, file)| **file == source);
            let places: Vec<i64> = places.map(|(place, _)| place).collect();
            if places.is_empty() {
                continue;
            }
            let keys = all.keys.iter().zip(files);
            let keys = keys.filter(|(_, file)| **file == source);
            let keys: Vec<u64> = keys.map(|(key, _)| *key).collect();
            let places = Tensor::f_from_slice(&places)?.f_to_device(all.features.device())?;
            let some = Domain {
                features: &all.features.f_index_select(0, &places)?,
                logits: &all.logits.f_index_select(0, &places)?,
                keys: &keys,
            };
            let own = &own[source * layers..][..layers];
            losses.push(self.between(some, target, own, context)?);
        }
        Tensor::f_stack(&losses, 0)?.f_mean(Kind::Float)
    }

    /// The method's loss of two domains.
    fn between(
        &self,
        source: Domain<'_>,
        target: Domain<'_>,
        own: &[Linear<'_>],
        context: &Context,
    ) -> Result<Tensor, TchError> {
        let keys = [source.keys, target.keys].concat();
        let pairs = Pairs {
            source: source.features,
            target: target.features,
            source_logits: source.logits,
            target_logits: target.logits,
            strength: strength(context.step, self.warm_up),
            context: *context,
            keys: &keys,
        };
        self.method.loss(&pairs, own)
    }
}

/// The method of a job.
///
/// # Errors
/// [`Error::NoBatchNorm`].
pub fn build(
    task: &str,
    spec: &AdaptationSpec,
    features: usize,
    classes: usize,
) -> Result<Box<dyn Method>, Error> {
    // Parameters exist and are in range: the spec was checked.
    let number = |name| spec.param(name).unwrap_or(0.0);
    let count = |name| number(name) as usize;
    let kernels = || kernels::Kernels {
        count: count("kernels"),
        smallest: number("smallest"),
    };
    let hidden = count("hidden");
    let discriminator = |inputs| Discriminator {
        inputs,
        hidden,
        dropout: number("dropout"),
    };
    Ok(match spec.method {
        Adapt::Dann => Box::new(dann::Dann {
            discriminator: discriminator(features),
        }),
        Adapt::Cdan => Box::new(cdan::Cdan {
            discriminator: discriminator(features * classes),
            entropy: number("entropy") != 0.0,
            reversed_entropy: number("reversed_entropy") != 0.0,
        }),
        Adapt::Mmd => Box::new(mmd::Mmd { kernels: kernels() }),
        Adapt::Jan => Box::new(jan::Jan {
            kernels: kernels(),
            sigma: number("sigma"),
        }),
        Adapt::Coral => Box::new(coral::Coral),
        Adapt::Mcc => Box::new(mcc::Mcc {
            temperature: number("temperature"),
        }),
        Adapt::Mdd => Box::new(mdd::Mdd {
            features,
            hidden,
            classes,
            margin: number("margin"),
        }),
        Adapt::Entropy => Box::new(entropy::Entropy),
        Adapt::SelfTraining => Box::new(self_training::SelfTraining {
            threshold: number("threshold"),
        }),
        // It has no loss: statistics are taken after training, and who has batch norms never asks for one.
        Adapt::Adabn => {
            return Err(Error::NoBatchNorm {
                task: task.to_owned(),
            });
        }
        Adapt::Bsp => Box::new(bsp::Bsp {
            dann: dann::Dann {
                discriminator: discriminator(features),
            },
            penalty: number("penalty"),
        }),
        Adapt::Afn => Box::new(afn::Afn {
            step: number("step"),
            radius: number("radius"),
        }),
        Adapt::InformationMaximisation => Box::new(information::Information {
            diversity: number("diversity"),
        }),
    })
}

#[cfg(test)]
mod tests;
