//! What a worker loads once for all its ranks of a job: data, tokenizer, model configuration.

use super::Error;
use super::headset::HeadSet;
use crate::allow::Roots;
use crate::data::{self, MediaReader, Order, TaskData, Tokenizer};
use crate::heads;
use crate::model::{self, Backbone, Frames, Modality, Options, Source};
use espalier_spec::job::{HeadKind, Metric, TaskSpec};
use espalier_spec::plan::{BlockProfile, Profile, TaskProfile};
use espalier_spec::{InputGroups, JobSpec};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tch::Device;

/// What all ranks of a job on one worker share.
#[derive(Debug)]
pub struct Sources {
    /// The model directory.
    pub model: Source,
    /// What the model reads.
    pub modality: Modality,
    /// The tasks' data, in the order of the job spec.
    pub tasks: Arc<Vec<Arc<TaskData>>>,
    /// Which samples each step takes.
    pub order: Arc<Order>,
    /// A backbone that was built to see that the model is whole; the first rank takes it.
    spare: Mutex<Option<Box<dyn Backbone>>>,
}

impl Sources {
    /// Reads configuration, tokenizer and data.
    ///
    /// # Errors
    /// What is wrong with them, with file, row and column.
    pub fn load(spec: &JobSpec) -> Result<Self, Error> {
        Self::load_within(spec, &Roots::default())
    }

    /// The same, of samples whose files lie in `roots`.
    ///
    /// # Errors
    /// As [`Sources::load`]; a sample names a file that lies elsewhere.
    pub fn load_within(spec: &JobSpec, roots: &Roots) -> Result<Self, Error> {
        let model = Source::open(&spec.backbone.path)?.tuned(&spec.tuning);
        let modality = model.modality()?;
        let inputs = inputs(&model, modality, spec.backbone.max_tokens, roots)?;
        let model = match spec.backbone.extend_vocabulary {
            true => model.with_vocabulary(inputs.tokens())?,
            false => model,
        };
        let mut tasks = Vec::with_capacity(spec.tasks.len());
        let mut shelf = data::Shelf::default();
        let frames = model.frames()?;
        for task in &spec.tasks {
            if task.head == HeadKind::Ctc && frames.is_none() {
                let task = task.name.clone();
                return Err(heads::Error::NoFrames { task }.into());
            }
            let mut data = data::load_beside(task, &inputs, &mut shelf)?;
            measurable(task, &data)?;
            if let Some(most) = task.data.samples_per_class {
                data.thin(most as usize, spec.seed);
            }
            tracing::info!(
                task = task.name,
                train = data.train.len(),
                validation = data.validation.as_ref().map_or(0, data::Split::len),
                test = data.test.as_ref().map_or(0, data::Split::len),
                target = data.target.as_ref().map_or(0, data::Split::len),
                classes = data.labels.len(),
                cut = data.splits().map(data::Split::cut).sum::<u64>(),
                skipped = data.splits().map(data::Split::skipped).sum::<u64>(),
                unlabelled = data.splits().map(data::Split::unlabelled).sum::<u64>(),
                lost_answers = data.splits().map(data::Split::lost).sum::<u64>(),
                "loaded"
            );
            tasks.push(Arc::new(data));
        }
        let names: Vec<data::OrderTask<'_>> = tasks
            .iter()
            .zip(&spec.tasks)
            .map(|(task, asked)| data::OrderTask {
                name: &task.name,
                samples: task.train.len() as u64,
                target: (task.target.as_ref())
                    .filter(|_| {
                        asked
                            .adaptation
                            .as_ref()
                            .is_some_and(|how| how.method.learns())
                    })
                    .map(|target| target.len() as u64),
            })
            .collect();
        let groups = InputGroups::of(&spec.tasks);
        alike(&tasks, &groups)?;
        let batch = spec.training.batch_size;
        let led = names
            .iter()
            .enumerate()
            .filter(|(task, _)| groups.leads(*task));
        let samples = led.map(|(_, task)| task.samples).sum();
        let length = (batch, data::total_steps(&spec.training, samples));
        let order = Order::of_groups(spec.seed, length, &names, groups, &spec.sampler);
        drop(names);
        Ok(Self {
            model,
            modality,
            tasks: Arc::new(tasks),
            order: Arc::new(order),
            spare: Mutex::default(),
        })
    }

    /// Steps of the whole run.
    #[must_use]
    pub fn total_steps(&self, spec: &JobSpec) -> u64 {
        data::total_steps(&spec.training, self.order.samples())
    }

    /// A backbone for one rank.
    ///
    /// # Errors
    /// What is wrong with the model directory.
    pub fn backbone(&self, spec: &JobSpec, device: Device) -> Result<Box<dyn Backbone>, Error> {
        let spare = self.spare.lock().ok().and_then(|mut spare| spare.take());
        // The profile was made of one that computes on the host.
        if let Some(backbone) = spare.filter(|_| device == Device::Cpu) {
            return Ok(backbone);
        }
        let options = Options {
            init: spec.backbone.init,
            seed: spec.seed,
            tuning: spec.tuning.clone(),
            pooling: spec.backbone.pooling,
            dropout: spec.backbone.dropout,
            device,
        };
        Ok(model::build(&self.model, &options)?)
    }

    /// What the coordinator must know to plan; the same on all workers.
    ///
    /// # Errors
    /// What is wrong with the model directory or the heads.
    pub fn profile(&self, spec: &JobSpec) -> Result<Profile, Error> {
        let backbone = self.backbone(spec, Device::Cpu)?;
        let heads = HeadSet::new(spec, &self.tasks, backbone.as_ref(), Device::Cpu)?;
        let mut blocks = Vec::new();
        if let Some(table) = backbone.table() {
            let total = (table.rows() * table.width()) as u64;
            let trainable = if table.trainable() { total } else { 0 };
            blocks.push(BlockProfile {
                name: table.name().to_owned(),
                trainable,
                total,
            });
        }
        for block in backbone.blocks().iter().chain([heads.block()]) {
            let own = block.len() as u64;
            blocks.push(BlockProfile {
                name: block.name().to_owned(),
                trainable: if block.trainable() { own } else { 0 },
                total: own + block.untrained() as u64,
            });
        }
        let tasks = self
            .tasks
            .iter()
            .enumerate()
            .map(|(index, task)| TaskProfile {
                name: task.name.clone(),
                train_samples: task.train.len() as u64,
                share: self.order.share(index),
                sample_cost: task.sample_cost,
            });
        if let Ok(mut spare) = self.spare.lock() {
            *spare = Some(backbone);
        }
        Ok(Profile {
            blocks,
            tasks: tasks.collect(),
            // Only who fetched them knows.
            fetched: String::new(),
        })
    }
}

/// That the validation samples are of the classes which a task's metric is about. Without them no evaluation has
/// the figure, all would be equally good, and the first would give the model.
fn measurable(task: &TaskSpec, data: &TaskData) -> Result<(), Error> {
    let (Some(validation), Some(classes)) = (&data.validation, &data.classes) else {
        return Ok(());
    };
    let metric = task.metric.unwrap_or(task.head.default_metric());
    let (of_seen, of_unseen) = match metric {
        Metric::SeenAccuracy => (true, false),
        Metric::UnseenAccuracy | Metric::ZeroShotAccuracy => (false, true),
        Metric::HarmonicMean => (true, true),
        _ => return Ok(()),
    };
    let counts = validation.labels.counts(classes.seen.len());
    let has = |seen: bool| {
        let mut all = counts.iter().zip(&classes.seen);
        all.any(|(count, is_seen)| *count > 0 && *is_seen == seen)
    };
    let lacks = match (of_seen && !has(true), of_unseen && !has(false)) {
        (true, _) => "a class that is trained on",
        (_, true) => "a class in zero_shot.unseen",
        (false, false) => return Ok(()),
    };
    Err(Error::Unmeasurable {
        task: task.name.clone(),
        metric: metric.as_str(),
        lacks,
    })
}

/// That tasks which share inputs read them alike, as words or not: a head of words finds none in the inputs
/// of a task of whole texts, and would never be trained.
fn alike(tasks: &[Arc<TaskData>], groups: &InputGroups) -> Result<(), Error> {
    for (task, own) in tasks.iter().enumerate() {
        let first = &tasks[groups.leader(task)];
        let (words, texts) = match (first.words, own.words) {
            (true, false) => (first, own),
            (false, true) => (own, first),
            (true, true) | (false, false) => continue,
        };
        return Err(Error::MixedWords {
            words: words.name.clone(),
            texts: texts.name.clone(),
        });
    }
    Ok(())
}

/// How the data side must read inputs for a model; files of samples lie in `roots`.
///
/// # Errors
/// If the tokenizer is missing, or it or the preprocessor's configuration is unusable.
pub fn inputs(
    model: &Source,
    modality: Modality,
    max_tokens: u32,
    roots: &Roots,
) -> Result<data::Modality, Error> {
    Ok(match modality {
        Modality::Text => {
            let limit = model.max_positions().unwrap_or(u64::from(max_tokens));
            let limit = u32::try_from(limit).unwrap_or(u32::MAX).min(max_tokens);
            let tokenizer = Tokenizer::load(Path::new(model.dir()), limit)?;
            data::Modality::Text(Arc::new(tokenizer.ending_with(model.end_tokens())))
        }
        Modality::Image(shape) => {
            let shape = shape.map(|size| size.unsigned_abs() as usize);
            let frames = model.frames()?.map(Frames::count);
            let reader = MediaReader::load(model.dir(), shape)?.with_frames(frames);
            data::Modality::Media(Arc::new(reader.within(roots.clone())))
        }
    })
}
