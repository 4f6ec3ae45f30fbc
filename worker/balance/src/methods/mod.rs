//! The methods, one file each.

mod aligned;
mod cagrad;
mod config;
mod constant;
mod db_mtl;
mod dual;
mod dwa;
pub(crate) mod excess_mtl;
mod famo;
mod gls;
mod grad_drop;
mod gradnorm;
mod imtl_g;
mod mgda;
mod moco;
mod nash;
mod scales;
mod stch;
pub(crate) mod surgery;
mod trimmed_mean;
mod two_batch;

use crate::error::Error;
use crate::face::{Buffers, Elementwise, Facts, Fallback, Gradients};
use espalier_spec::balancer::{BalancerSpec, Method};
use std::fmt;

/// A method alone: what is around it is the pipeline's. Facts are complete, finite and of the
/// tasks that take part; losses are as the options want them.
pub(crate) trait Rule: Send + fmt::Debug {
    /// The weights of the present tasks, sum-like.
    fn weights(&mut self, facts: &Facts<'_>) -> Result<Vec<f64>, Trouble>;

    /// Takes the losses after the step.
    fn observe(&mut self, _tasks: &[usize], _losses: &[f64]) {}

    /// See [`crate::Balancer::buffers`].
    fn buffers(&self) -> Option<&dyn Buffers> {
        None
    }

    /// See [`crate::Balancer::elementwise`].
    fn elementwise(&self) -> Option<&dyn Elementwise> {
        None
    }

    /// What later steps depend on, by name.
    fn kept(&self) -> Vec<(&'static str, &Vec<f64>)> {
        Vec::new()
    }

    /// The same, to be written.
    fn kept_mut(&mut self) -> Vec<(&'static str, &mut Vec<f64>)> {
        Vec::new()
    }
}

/// Why a method has no weights.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Trouble {
    /// Equal weights are used instead.
    Fallback(Fallback),
    /// The step can't go on.
    Error(Error),
}

impl From<Fallback> for Trouble {
    fn from(fallback: Fallback) -> Self {
        Trouble::Fallback(fallback)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Error(error)
    }
}

/// Names the lists that a rule keeps.
macro_rules! keeps {
    ($($name:literal: $($part:ident).+),+ $(,)?) => {
        fn kept(&self) -> Vec<(&'static str, &Vec<f64>)> {
            vec![$(($name, &self.$($part).+)),+]
        }

        fn kept_mut(&mut self) -> Vec<(&'static str, &mut Vec<f64>)> {
            vec![$(($name, &mut self.$($part).+)),+]
        }
    };
}
pub(crate) use keeps;

/// The rule of a spec whose parameters are checked, for a job of these task weights.
pub(crate) fn rule(spec: &BalancerSpec, task_weights: &[f64]) -> Box<dyn Rule> {
    let tasks = task_weights.len();
    // The parameters asked for are those of the table; a test builds every method.
    let param = |name: &str| spec.param(name).unwrap_or(f64::NAN);
    match spec.method {
        Method::Mean => Box::new(constant::Mean::new(task_weights)),
        Method::Equal => Box::new(constant::Fixed::new(&vec![1.0; tasks])),
        Method::Fixed => Box::new(constant::Fixed::new(task_weights)),
        Method::Rlw => Box::new(constant::Random),
        Method::Si => Box::new(gls::ScaleInvariant),
        Method::Gls => Box::new(gls::Geometric),
        Method::Uw => Box::new(scales::Uncertainty::new(tasks, param("init"), param("lr"))),
        Method::ImtlL => Box::new(scales::Impartial::new(tasks, param("lr"))),
        Method::Dwa => Box::new(dwa::Dwa::new(tasks, param("temperature"), param("window"))),
        Method::Stch => Box::new(stch::Stch::new(tasks, param("mu"), param("warmup"))),
        Method::Famo => Box::new(famo::Famo::new(tasks, param("lr"), param("decay"))),
        Method::Gradnorm => Box::new(gradnorm::GradNorm::new(tasks, param("alpha"), param("lr"))),
        Method::Mgda | Method::MgdaUb => Box::new(mgda::Mgda),
        Method::Pcgrad => Box::new(surgery::PcGrad),
        Method::Gradvac => Box::new(surgery::GradVac::new(tasks, param("beta"))),
        Method::Cagrad => Box::new(cagrad::CaGrad::new(param("c"), param("rescale"))),
        Method::ImtlG => Box::new(imtl_g::ImtlG),
        Method::NashMtl => Box::new(nash::Fair::new(1.0)),
        Method::Fairgrad => Box::new(nash::Fair::new(param("alpha"))),
        Method::AlignedMtl | Method::AlignedUb => {
            Box::new(aligned::Aligned::new(param("scale_mode")))
        }
        Method::Upgrad => Box::new(dual::UpGrad::new(param("reg"))),
        Method::DualProj => Box::new(dual::DualProj::new(param("reg"))),
        Method::Config => Box::new(config::Config),
        Method::Moco => Box::new(moco::MoCo::new(tasks, param)),
        Method::DbMtl => Box::new(db_mtl::DbMtl::new(param("beta"), param("beta_sigma"))),
        Method::ExcessMtl => Box::new(excess_mtl::Excess::new(
            tasks,
            param("eta"),
            param("warmup"),
        )),
        Method::GradDrop => Box::new(grad_drop::GradDrop::new(param("leak"), spec.scale)),
        Method::TrimmedMean => Box::new(trimmed_mean::TrimmedMean::new(param("trim"), spec.scale)),
        Method::Sdmgrad => Box::new(two_batch::SdmGrad::new(tasks, param)),
        Method::Modo => Box::new(two_batch::MoDo::new(tasks, param)),
    }
}

/// What a method needs of the gradients.
pub(crate) fn needed(method: Method) -> Gradients {
    use espalier_spec::balancer::Class;
    match (method.info().class, method) {
        (_, Method::ExcessMtl) => Gradients::Excess,
        (Class::Losses, _) => Gradients::Losses,
        (Class::Gram, _) => Gradients::Gram,
        (Class::Buffers, _) => Gradients::Buffers,
        (Class::Elementwise, _) => Gradients::Elementwise,
        (Class::TwoBatch, _) => Gradients::TwoBatches,
        (Class::Representation, _) => Gradients::Representation,
    }
}

/// The losses, each at least [`crate::math::SMALLEST_LOSS`].
fn positive(facts: &Facts<'_>) -> Result<Vec<f64>, Error> {
    crate::pipeline::positive(facts.tasks, facts.losses)
}

/// The Gram matrix that the pipeline has made sure of.
fn gram<'a>(facts: &Facts<'a>) -> Result<&'a crate::Gram, Error> {
    facts.gram.ok_or(Error::Shape {
        what: "the facts of a step",
        expected: "a Gram matrix".to_owned(),
        found: "none".to_owned(),
    })
}
