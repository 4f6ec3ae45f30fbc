//! Answers from an exported model.

mod answer;
mod described;
mod entail;
mod error;
mod go_on;
mod masks;
mod ranked;
mod span;
mod texts;

use crate::allow::Roots;
use crate::checkpoint::{
    Export, ExportedClasses, ExportedTask, HEADS_FILE, META_FILE, read_tensors,
};
use crate::data::{self, Input};
use crate::engine::{self, Words, inputs};
use crate::heads::{ADAPTER, Ctc, Linear, TaskAdapter};
use crate::model::{self, Backbone, Batch, Context, Leaves, Modality, Options, Pass, Source, mix};
use espalier_spec::job::{HeadKind, Init, Pooling, Tuning};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use tch::{Device, Kind, Tensor};

pub use answer::{Answer, Scored};
use answer::{ordered, shape, tagged};
pub use described::Described;
pub use entail::Hypotheses;
pub use error::Error;
pub use masks::{Mask, write_masks};

/// An exported model, loaded.
#[derive(Debug)]
pub struct Predictor {
    meta: Export,
    backbone: Box<dyn Backbone>,
    heads: HashMap<String, Tensor>,
    /// Classes of tasks that know them by their description.
    classes: BTreeMap<String, Described>,
    modality: Modality,
    inputs: data::Modality,
    /// The same for texts that are gone on with.
    prompts: data::Modality,
    /// The only tokens that texts go on with; all if none.
    only: Option<Vec<u32>>,
}

impl Predictor {
    /// Loads an export.
    ///
    /// # Errors
    /// [`Error::NoExport`], or what is wrong with its files.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let wrong = |message: String| Error::NoExport {
            dir: dir.display().to_string(),
            message,
        };
        let text =
            std::fs::read(dir.join(META_FILE)).map_err(|e| wrong(format!("{META_FILE}: {e}")))?;
        let meta: Export =
            serde_json::from_slice(&text).map_err(|e| wrong(format!("{META_FILE}: {e}")))?;
        let heads = read_tensors(&dir.join(HEADS_FILE))?;
        Self::build(dir, meta, heads)
    }

    /// Loads a Hugging Face directory that was not exported here: features only, no tasks.
    ///
    /// # Errors
    /// What is wrong with its files.
    pub fn load_plain(dir: &Path, pooling: Pooling, max_tokens: u32) -> Result<Self, Error> {
        let meta = Export {
            format: 1,
            job: String::new(),
            step: 0,
            pooling,
            max_tokens,
            tasks: Vec::new(),
        };
        Self::build(dir, meta, HashMap::new())
    }

    fn build(dir: &Path, meta: Export, heads: HashMap<String, Tensor>) -> Result<Self, Error> {
        let source = Source::open(dir)?;
        let options = Options {
            init: Init::Pretrained,
            seed: 0,
            tuning: Tuning::Heads,
            pooling: meta.pooling,
            dropout: None,
            device: Device::Cpu,
        };
        let modality = source.modality()?;
        let generates = meta.tasks.iter().any(|t| t.head == HeadKind::CausalLm);
        let read = |limit: u32| inputs(&source, modality, limit, &Roots::default());
        let texts = read(meta.max_tokens)?;
        // Prompts may be as long as the model sees, whatever windows it was trained on; other heads read
        // no more of a text than they were trained on.
        let prompts = match generates {
            true => read(u32::MAX)?,
            false => texts.clone(),
        };
        let backbone = model::build(&source, &options)?;
        let mut predictor = Self {
            meta,
            backbone,
            heads,
            classes: BTreeMap::new(),
            modality,
            inputs: texts,
            prompts,
            only: None,
        };
        let tasks: Vec<ExportedTask> = predictor.meta.tasks.clone();
        for task in tasks {
            if let Some(classes) = Described::of_task(&predictor, &task)? {
                predictor.classes.insert(task.name, classes);
            }
        }
        Ok(predictor)
    }

    /// What the model reads.
    #[must_use]
    pub fn modality(&self) -> Modality {
        self.modality
    }

    /// Names of the tasks.
    #[must_use]
    pub fn tasks(&self) -> Vec<&str> {
        self.meta
            .tasks
            .iter()
            .map(|task| task.name.as_str())
            .collect()
    }

    /// The first task that knows classes by their description.
    #[must_use]
    pub fn described(&self) -> Option<&ExportedTask> {
        let by_words = |c: &ExportedClasses| !c.texts.is_empty();
        let tasks = self.meta.tasks.iter();
        let mut tasks = tasks.filter(|task| task.head == HeadKind::LabelEmbedding);
        tasks.find(|task| task.classes.as_ref().is_some_and(by_words))
    }

    /// The first task that knows classes by vectors.
    #[must_use]
    pub fn with_vectors(&self) -> Option<&ExportedTask> {
        let by_numbers = |c: &ExportedClasses| c.texts.is_empty();
        let mut tasks = self.meta.tasks.iter();
        tasks.find(|task| task.classes.as_ref().is_some_and(by_numbers))
    }

    /// A number of a task's head, such as `scale`.
    ///
    /// # Errors
    /// [`Error::NoExport`] if it is missing.
    fn number(&self, task: &str, name: &str) -> Result<f64, Error> {
        let values = Vec::<f32>::try_from(self.part(task, name)?)?;
        Ok(values.first().map_or(0.0, |value| f64::from(*value)))
    }

    /// Checks names of tasks.
    ///
    /// # Errors
    /// [`Error::UnknownTask`].
    pub fn check_tasks(&self, wanted: &[String]) -> Result<(), Error> {
        let known = self.tasks();
        match wanted.iter().find(|name| !known.contains(&name.as_str())) {
            Some(found) => Err(Error::UnknownTask {
                found: found.clone(),
                known: known.join(", "),
            }),
            None => Ok(()),
        }
    }

    /// Whether a task reads texts out of frames.
    fn reads_frames(&self) -> bool {
        let mut tasks = self.meta.tasks.iter();
        tasks.any(|task| task.head == HeadKind::Ctc)
    }

    /// What the model reads, in words: `texts`, `images` or `sounds`.
    #[must_use]
    pub fn reads(&self) -> &'static str {
        match &self.inputs {
            data::Modality::Text(_) => "texts",
            data::Modality::Media(reader) if reader.is_audio() => "sounds",
            data::Modality::Media(_) => "images",
        }
    }

    /// Reads an image or a sound from a file.
    ///
    /// # Errors
    /// If the model reads texts, or the file cannot be read or decoded.
    pub fn file(&self, path: &str) -> Result<Input, Error> {
        let wrong = |message: String| Error::from(model::Error::Input(message));
        let data::Modality::Media(reader) = &self.inputs else {
            return Err(wrong("this model reads texts, not files".to_owned()));
        };
        let (numbers, _) = reader
            .file(path)
            .map_err(|e| wrong(format!("{path}: {e}")))?;
        Ok(Input::Numbers(numbers.into()))
    }

    /// Features [b, h] of some inputs, in order.
    ///
    /// # Errors
    /// If an input does not fit the model.
    pub fn features(&self, inputs: &[Input]) -> Result<Tensor, Error> {
        Ok(self.leaves(inputs)?.1.features)
    }

    /// A batch of inputs, and what heads read of it.
    fn leaves(&self, inputs: &[Input]) -> Result<(Batch, Leaves), Error> {
        let all: Vec<&Input> = inputs.iter().collect();
        let keys: Vec<u64> = (0..inputs.len() as u64).map(mix).collect();
        let batch = engine::pack(&all, &keys, self.modality, Device::Cpu)?;
        let pass = Pass::forward(self.backbone.as_ref(), &batch, &Context::eval(), |_| {
            Ok::<(), model::Error>(())
        })?;
        let of_texts = self.reads_words() || self.reads_contexts();
        let leaves = pass.leaves(of_texts || self.reads_frames() || self.reads_map())?;
        Ok((batch, leaves))
    }

    /// What the last block gives before pooling: for texts the vectors of all tokens, [T, h], texts
    /// in order one after another. BERT's own pooler is a block, and then these are the features.
    ///
    /// # Errors
    /// If an input does not fit the model.
    pub fn hidden(&self, inputs: &[Input]) -> Result<Tensor, Error> {
        let all: Vec<&Input> = inputs.iter().collect();
        let keys: Vec<u64> = (0..inputs.len() as u64).map(mix).collect();
        let batch = engine::pack(&all, &keys, self.modality, Device::Cpu)?;
        let last = || -> Result<Tensor, Error> {
            let mut x = self.backbone.input(&batch)?;
            for block in 0..self.backbone.blocks().len() {
                x = self.backbone.forward(block, &x, &batch, &Context::eval())?;
            }
            let Batch::Tokens(tokens) = &batch else {
                return Ok(x);
            };
            let lengths = tokens.layout.groups.iter();
            let lengths: Vec<i64> = lengths
                .flat_map(|group| std::iter::repeat_n(group.length, group.samples as usize))
                .collect();
            if x.size().first() != Some(&(tokens.host_ids.len() as i64)) {
                return Ok(x.f_index_select(0, &tokens.inverse)?);
            }
            let parts = x.f_split_with_sizes(&lengths[..], 0)?;
            let packed = Vec::<i64>::try_from(&tokens.inverse)?;
            let given: Vec<&Tensor> = packed.iter().map(|&at| &parts[at as usize]).collect();
            Ok(Tensor::f_cat(&given, 0)?)
        };
        tch::no_grad(last)
    }

    /// The named tasks; all, if none is named.
    fn wanted<'a>(&'a self, names: &'a [String]) -> impl Iterator<Item = &'a ExportedTask> {
        let is_wanted = move |task: &&ExportedTask| names.is_empty() || names.contains(&task.name);
        self.meta.tasks.iter().filter(is_wanted)
    }

    /// A parameter of a task's head, if it has it.
    fn part(&self, task: &str, name: &str) -> Result<&Tensor, Error> {
        let name = format!("heads.{task}.{name}");
        self.heads.get(&name).ok_or_else(|| Error::NoExport {
            dir: HEADS_FILE.to_owned(),
            message: format!("tensor {name} is missing"),
        })
    }

    /// A layer of a task's head.
    fn layer(&self, task: &str, name: &str) -> Result<Linear<'_>, Error> {
        Ok(Linear {
            weight: self.part(task, &format!("{name}.weight"))?,
            bias: Some(self.part(task, &format!("{name}.bias"))?),
        })
    }

    /// A task's own adapter, if it has one.
    fn adapter(&self, task: &str) -> Result<Option<TaskAdapter<'_>>, Error> {
        let [down, up] = ADAPTER;
        if !self
            .heads
            .contains_key(&format!("heads.{task}.{down}.weight"))
        {
            return Ok(None);
        }
        Ok(Some(TaskAdapter {
            down: self.layer(task, down)?,
            up: self.layer(task, up)?,
        }))
    }

    /// Outputs [b, C] of a task's head, behind its adapter, before softmax or sigmoid.
    ///
    /// # Errors
    /// [`Error::NoExport`] if the head is missing.
    pub fn outputs(&self, task: &str, features: &Tensor) -> Result<Tensor, Error> {
        let is_language = |t: &ExportedTask| t.name == task && t.head == HeadKind::CausalLm;
        let bias = match self.meta.tasks.iter().any(is_language) {
            true => None,
            false => Some(self.part(task, "bias")?),
        };
        let linear = Linear {
            weight: self.part(task, "weight")?,
            bias,
        };
        let adapter = self.adapter(task)?;
        let outputs = || {
            let adapted = adapter.as_ref().map(|own| own.forward(features));
            let adapted = adapted.transpose()?;
            linear.forward(adapted.as_ref().unwrap_or(features), None)
        };
        tch::no_grad(outputs).map_err(|e| Error::Engine(e.into()))
    }

    /// Answers of the named tasks (all, if none is named) for each input; those that go on with a text, read it
    /// together with hypotheses, or compare it with another one have none here. Texts in words are for the tasks
    /// that were trained on words, others for the other tasks.
    ///
    /// # Errors
    /// If an input does not fit the model.
    pub fn predict(
        &self,
        inputs: &[Input],
        wanted: &[String],
    ) -> Result<Vec<BTreeMap<String, Answer>>, Error> {
        let mut answers = vec![BTreeMap::new(); inputs.len()];
        let tasks = self.wanted(wanted);
        let in_words = inputs.iter().any(Input::is_words);
        let is_here = |t: &&ExportedTask| {
            let elsewhere = matches!(
                t.head,
                HeadKind::CausalLm | HeadKind::Entailment | HeadKind::Ranking
            );
            !elsewhere && self.takes_words(t) == in_words
        };
        let tasks: Vec<_> = tasks.filter(is_here).collect();
        if tasks.is_empty() {
            return Ok(answers);
        }
        let only_answers = tasks.iter().all(|t| t.head == HeadKind::Span);
        if only_answers && inputs.iter().any(|input| input.passage().is_none()) {
            let message =
                "this model finds answers in contexts: expected a question and its context";
            return Err(model::Error::Input(message.to_owned()).into());
        }
        let (batch, leaves) = self.leaves(inputs)?;
        for task in tasks {
            if let (HeadKind::Span, Some(rows)) = (task.head, &leaves.rows) {
                self.find_answers(task, (&batch, rows), inputs, &mut answers)?;
                continue;
            }
            if let (HeadKind::Tags, Some(rows)) = (task.head, &leaves.rows) {
                let words = Words::of(&batch, 0..inputs.len(), inputs.iter());
                let outputs = self.outputs(&task.name, &words.vectors(rows)?)?;
                let tags = words.spread(tagged(&outputs, &words.ends(), &task.labels)?);
                for ((answer, tags), input) in answers.iter_mut().zip(tags).zip(inputs) {
                    // The words of a question with its context are none.
                    if input.passage().is_none() {
                        answer.insert(task.name.clone(), Answer::Tags { tags });
                    }
                }
                continue;
            }
            if let (HeadKind::Ctc, Some(rows), Some(frames)) =
                (task.head, &leaves.rows, self.backbone.frames())
            {
                let outputs = self.outputs(&task.name, &frames.of(rows)?)?;
                let texts = Ctc::new(task.labels.clone()).texts(&outputs)?;
                for (answer, text) in answers.iter_mut().zip(texts) {
                    answer.insert(task.name.clone(), Answer::Read { text });
                }
                continue;
            }
            if task.head.reads_map() {
                for (answer, mask) in answers.iter_mut().zip(self.masks(task, &leaves)?) {
                    answer.insert(task.name.clone(), mask);
                }
                continue;
            }
            if let Some(classes) = self.classes.get(&task.name) {
                let found = classes.answers(&task.labels, &leaves.features)?;
                for (answer, found) in answers.iter_mut().zip(found) {
                    answer.insert(task.name.clone(), found);
                }
                continue;
            }
            let outputs = self.outputs(&task.name, &leaves.features)?;
            if task.head == HeadKind::Ordinal {
                let found = ordered(&outputs, &task.labels)?;
                for (answer, found) in answers.iter_mut().zip(found) {
                    answer.insert(task.name.clone(), found);
                }
                continue;
            }
            let scores = match task.head {
                HeadKind::SingleLabel
                | HeadKind::Tags
                | HeadKind::LabelEmbedding
                | HeadKind::Entailment => outputs.f_softmax(-1, Kind::Float)?,
                HeadKind::MultiLabel => outputs.f_sigmoid()?,
                HeadKind::Regression
                | HeadKind::Ordinal
                | HeadKind::CausalLm
                | HeadKind::Ctc
                | HeadKind::Segmentation
                | HeadKind::Span
                | HeadKind::Ranking => outputs,
            };
            let width = scores
                .size()
                .last()
                .map_or(1, |&n| n.unsigned_abs() as usize)
                .max(1);
            let flat = Vec::<f32>::try_from(&scores.f_contiguous()?.f_flatten(0, -1)?)?;
            for (answer, row) in answers.iter_mut().zip(flat.chunks_exact(width)) {
                answer.insert(task.name.clone(), shape(task.head, &task.labels, row));
            }
        }
        Ok(answers)
    }
}
