//! Classes as hypotheses: the one that goes with a text best.

use super::{Answer, Error, Predictor};
use crate::checkpoint::ExportedTask;
use crate::data::{self, Input};
use crate::heads;
use crate::model;
use espalier_spec::job::HeadKind;
use espalier_spec::zero_shot::PLACE;
use std::collections::{BTreeMap, BTreeSet};
use tch::{Kind, Tensor};

/// Pairs that are computed at once: of many classes in many templates there are more than fit into memory.
const BATCH: usize = 64;

/// What some classes say of a text, for the head of a task to judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hypotheses {
    task: String,
    names: Vec<String>,
    /// Whether the task was trained on each class.
    seen: Vec<bool>,
    /// Class by class, template by template.
    texts: Vec<String>,
    templates: usize,
}

impl Hypotheses {
    /// Names and words of classes, in templates, judged as a task has learned to.
    #[must_use]
    pub fn new(task: &ExportedTask, classes: &[(&str, &str)], templates: &[String]) -> Self {
        let in_templates = |(_, text): &(&str, &str)| -> Vec<String> {
            let all = templates.iter();
            all.map(|template| template.replace(PLACE, text)).collect()
        };
        let known = task.classes.as_ref();
        let known = known.map_or(&[][..], |known| known.seen.as_slice());
        let trained = task.labels.iter().zip(known).filter(|(_, seen)| **seen);
        let trained: BTreeSet<&str> = trained.map(|(name, _)| name.as_str()).collect();
        Self {
            task: task.name.clone(),
            seen: classes
                .iter()
                .map(|(name, _)| trained.contains(name))
                .collect(),
            names: classes.iter().map(|(name, _)| (*name).to_owned()).collect(),
            texts: classes.iter().flat_map(in_templates).collect(),
            templates: templates.len(),
        }
    }

    /// The classes of an exported task; none if it does not read them so.
    fn of_task(task: &ExportedTask) -> Option<Self> {
        if task.head != HeadKind::Entailment {
            return None;
        }
        let known = task.classes.as_ref()?;
        let classes = task.labels.iter().zip(&known.texts);
        let classes: Vec<(&str, &str)> = classes.map(|(n, t)| (n.as_str(), t.as_str())).collect();
        Some(Self::new(task, &classes, &known.templates))
    }

    /// The class whose hypothesis goes with a text best: softmax over the outputs of all pairs, less the
    /// calibration where the task was trained on the class.
    ///
    /// # Errors
    /// If the text does not fit the model.
    pub fn answer(&self, predictor: &Predictor, text: &str) -> Result<Answer, Error> {
        let pair = |hypothesis: &String| predictor.pair_of(text, hypothesis);
        let mut outputs = Vec::with_capacity(self.texts.len());
        for part in self.texts.chunks(BATCH) {
            let pairs: Result<Vec<Input>, Error> = part.iter().map(pair).collect();
            let found = predictor.outputs(&self.task, &predictor.features(&pairs?)?)?;
            let found = found.f_contiguous()?.f_flatten(0, -1)?;
            outputs.extend(Vec::<f32>::try_from(&found)?);
        }
        let outputs = heads::over_templates(&outputs, (self.names.len(), self.templates))?;
        #[expect(clippy::cast_possible_truncation, reason = "it was written as 32 bits")]
        let calibration = predictor.number(&self.task, "calibration")? as f32;
        let off = |seen: &bool| if *seen { calibration } else { 0.0 };
        let off: Vec<f32> = self.seen.iter().map(off).collect();
        let outputs = outputs.f_sub(&Tensor::f_from_slice(&off)?)?;
        let likely = outputs.f_softmax(-1, Kind::Float)?.f_flatten(0, -1)?;
        let likely = Vec::<f32>::try_from(&likely)?;
        let scores = self.names.iter().zip(likely);
        let scores: BTreeMap<String, f64> = scores
            .map(|(name, score)| (name.clone(), f64::from(score)))
            .collect();
        Ok(Answer::single(scores))
    }
}

impl Predictor {
    /// The first task that reads classes together with a text.
    #[must_use]
    pub fn entailing(&self) -> Option<&ExportedTask> {
        let mut tasks = self.meta.tasks.iter();
        tasks.find(|task| task.head == HeadKind::Entailment)
    }

    /// Whether one of the tasks does; of all, if none is named.
    #[must_use]
    pub fn entails(&self, wanted: &[String]) -> bool {
        self.wanted(wanted)
            .any(|task| task.head == HeadKind::Entailment)
    }

    /// Answers on a text of the named tasks (all, if none is named) that read classes together with it.
    ///
    /// # Errors
    /// If the text does not fit the model.
    pub fn entailed(
        &self,
        text: &str,
        wanted: &[String],
    ) -> Result<BTreeMap<String, Answer>, Error> {
        let mut answers = BTreeMap::new();
        for task in self.wanted(wanted) {
            if let Some(hypotheses) = Hypotheses::of_task(task) {
                answers.insert(task.name.clone(), hypotheses.answer(self, text)?);
            }
        }
        Ok(answers)
    }

    /// Tokenises a text with a hypothesis, whether tasks are about words or not.
    fn pair_of(&self, text: &str, hypothesis: &str) -> Result<Input, Error> {
        let data::Modality::Text(tokenizer) = &self.inputs else {
            let message = format!("this model reads {}, not texts", self.reads());
            return Err(model::Error::Input(message).into());
        };
        let encoded = tokenizer.encode_pair(text, hypothesis);
        let encoded =
            encoded.map_err(|e| model::Error::Input(format!("cannot tokenise {text:?}: {e}")))?;
        Ok(encoded.into())
    }
}
