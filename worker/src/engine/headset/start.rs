//! Heads, layers of adaptations and tasks' adapters with their first values, in one block.

use super::HeadSet;
use crate::adapt::{self, Adaptation};
use crate::data::{TaskData, total_steps};
use crate::engine::Error;
use crate::heads::{self, CausalLm, Head, Level, Parameter, Ranking};
use crate::model::{Backbone, Block, ParamSpec};
use crate::torch;
use espalier_spec::job::{HeadKind, TaskSpec};
use espalier_spec::{InputGroups, JobSpec};
use std::sync::Arc;
use tch::{Device, Tensor};

impl HeadSet {
    /// Heads with their initial weights, a function of the job's seed and each task's name; those that
    /// predict the next token start as the backbone's own vocabulary matrix.
    ///
    /// # Errors
    /// If a task's loss settings or its head do not fit, or the backbone lacks what a head reads.
    pub fn new(
        spec: &JobSpec,
        tasks: &[Arc<TaskData>],
        backbone: &dyn Backbone,
        device: Device,
    ) -> Result<Self, Error> {
        let groups = InputGroups::of(&spec.tasks);
        let width = backbone.width();
        let mut layers: Vec<Vec<Parameter>> = Vec::new();
        let mut heads = Vec::new();
        for (task, data) in spec.tasks.iter().zip(tasks) {
            if task.head.reads_tokens() && !backbone.gives_rows() {
                let (task, head) = (task.name.clone(), task.head.as_str());
                return Err(heads::Error::NoWords { task, head }.into());
            }
            let (head, own) = match task.head {
                HeadKind::CausalLm => next_token(task, backbone)?,
                HeadKind::Segmentation if backbone.feature_map().is_none() => {
                    let task = task.name.clone();
                    return Err(heads::Error::NoMap { task }.into());
                }
                HeadKind::Ranking => {
                    let head = heads::build(task, &[], &[])?;
                    (head, vec![Ranking::factor(&task.name)])
                }
                _ => {
                    let counts = data.train.labels.counts(data.labels.len());
                    let head = heads::build(task, data.labels.names(), &counts)?;
                    let width = read_by(head.as_ref(), backbone);
                    let own = heads::parameters(spec.seed, &task.name, head.shape(), width);
                    (head, own.to_vec())
                }
            };
            layers.push(own);
            heads.push(head);
        }
        let led = tasks.iter().enumerate().filter(|(k, _)| groups.leads(*k));
        let steps = total_steps(
            &spec.training,
            led.map(|(_, task)| task.train.len() as u64).sum(),
        );
        let mut adaptations = Vec::with_capacity(heads.len());
        for (task, head) in spec.tasks.iter().zip(&heads) {
            if let Some(how) = &task.adaptation
                && !how.method.learns()
                && !backbone.follow_batches(None)
            {
                let task = task.name.clone();
                return Err(adapt::Error::NoBatchNorm { task }.into());
            }
            let Some(how) = task.adaptation.as_ref().filter(|how| how.method.learns()) else {
                adaptations.push(None);
                continue;
            };
            let shape = (width, head.outputs());
            let files = task.data.train.paths().len();
            let adaptation = Adaptation::new(&task.name, how, shape, steps, files)?;
            let first = layers.len();
            for layer in adaptation.layers() {
                let name = format!("adaptation.{}.{}", task.name, layer.name);
                let shape = (layer.outputs, layer.inputs);
                let own = heads::layer(spec.seed, &name, shape, layer.deviation());
                layers.push(own.to_vec());
            }
            adaptations.push(Some((adaptation, first..layers.len())));
        }
        let mut adapters = Vec::with_capacity(heads.len());
        for (task, head) in spec.tasks.iter().zip(&heads) {
            adapters.push(task.adapter.map(|own| {
                let size = own.size as usize;
                let width = read_by(head.as_ref(), backbone);
                let own = heads::adapter(spec.seed, &task.name, size, width);
                let first = layers.len();
                layers.extend(own.map(|layer| layer.to_vec()));
                [first, first + 1]
            }));
        }
        let mut spaces = Vec::with_capacity(heads.len());
        for data in tasks {
            spaces.push(space(spec.seed, data, width).map(|own| {
                layers.push(own);
                layers.len() - 1
            }));
        }
        let mut calibrations = Vec::with_capacity(heads.len());
        for task in &spec.tasks {
            calibrations.push((task.head == HeadKind::Entailment).then(|| {
                let given = task.zero_shot.as_ref().and_then(|spec| spec.calibration);
                #[expect(clippy::cast_possible_truncation, reason = "parameters are 32-bit")]
                let value = given.unwrap_or(0.0) as f32;
                layers.push(vec![heads::calibration(&task.name, value)]);
                layers.len() - 1
            }));
        }
        let params = layers.iter().flatten().map(param).collect();
        let mut block = Block::new("heads", params, true, device)?;
        for parameter in layers.iter().flatten() {
            let tensor = Tensor::f_from_slice(&parameter.values)?;
            block.load(&parameter.name, &tensor.f_view(&parameter.shape[..])?)?;
        }
        let params = places(&block, &layers)?;
        Ok(Self {
            block,
            heads,
            params,
            contrastive: spec.tasks.iter().map(|t| t.loss.contrastive).collect(),
            adaptations,
            adapters,
            spaces,
            calibrations,
            groups,
            frames: backbone.frames(),
            map: backbone.feature_map(),
            dropout: spec.backbone.dropout.unwrap_or(0.1),
        })
    }
}

/// Numbers of what a head reads at once: those of a frame may be more than those of a sample.
fn read_by(head: &dyn Head, backbone: &dyn Backbone) -> usize {
    match (head.level(), backbone.frames()) {
        (Level::Frame, Some(frames)) => frames.width(backbone.width()),
        _ => backbone.width(),
    }
}

/// A parameter as the block wants it.
fn param(parameter: &Parameter) -> ParamSpec {
    let shape = &parameter.shape[..];
    let param = match parameter.decays {
        true => ParamSpec::weight(&parameter.name, shape),
        false => ParamSpec::bias(&parameter.name, shape),
    };
    ParamSpec {
        trained: parameter.trained,
        ..param
    }
}

/// Places of each layer's parameters in the block.
fn places(block: &Block, layers: &[Vec<Parameter>]) -> Result<Vec<(usize, Option<usize>)>, Error> {
    let place = |wanted: &Parameter| {
        let mut all = block.params().iter();
        let found = all.position(|param| param.name == wanted.name);
        found.ok_or_else(|| Error::Plan(format!("no parameter {}", wanted.name)))
    };
    let of = |layer: &Vec<Parameter>| {
        let none = || Error::Plan("a layer without parameters".to_owned());
        let first = place(layer.first().ok_or_else(none)?)?;
        Ok((first, layer.get(1).map(place).transpose()?))
    };
    layers.iter().map(of).collect()
}

/// The map into the space of a task's class vectors, and these vectors, where it has any.
fn space(seed: u64, data: &TaskData, hidden: usize) -> Option<Vec<Parameter>> {
    let vectors = &data.classes.as_ref()?.vectors;
    let is_given = !vectors.is_empty();
    is_given.then(|| heads::space(seed, &data.name, vectors, hidden).to_vec())
}

/// A head that predicts the next token, and its matrix as the backbone has it.
fn next_token(
    task: &TaskSpec,
    backbone: &dyn Backbone,
) -> Result<(Box<dyn Head>, Vec<Parameter>), Error> {
    let Some(decoder) = backbone.decoder() else {
        let task = task.name.clone();
        return Err(heads::Error::NoDecoder { task }.into());
    };
    let matrix = decoder.vocabulary()?.f_contiguous()?;
    let head = CausalLm::new(matrix.size()[0].unsigned_abs() as usize);
    let weight = Parameter {
        name: format!("heads.{}.weight", task.name),
        shape: matrix.size(),
        values: torch::data(&matrix)?.to_vec(),
        decays: true,
        trained: true,
    };
    Ok((Box::new(head), vec![weight]))
}
