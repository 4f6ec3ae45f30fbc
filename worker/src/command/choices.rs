//! What is chosen when an exported model answers: how texts go on, and between which classes.

use anyhow::bail;
use espalier_worker::generate::Sampling;
use espalier_worker::predict::Predictor;
use espalier_worker::zero_shot::{Class, Classes};
use std::path::PathBuf;

/// How a model that predicts the next token goes on with texts.
#[derive(clap::Args)]
pub(crate) struct Generation {
    /// Most tokens that are made of one text; default 128.
    #[arg(long)]
    max_new_tokens: Option<usize>,
    /// Logits are divided by it; default 0, which takes the most probable token.
    #[arg(long)]
    temperature: Option<f64>,
    /// Draw from so many of the most probable tokens.
    #[arg(long)]
    top_k: Option<usize>,
    /// Draw from the most probable tokens that have this share of probability together.
    #[arg(long)]
    top_p: Option<f64>,
    /// Seed of what is drawn; default 0.
    #[arg(long)]
    seed: Option<u64>,
    /// Go on with tokens alone whose text in tokenizer.json begins so.
    #[arg(long, value_name = "PREFIX")]
    pub(crate) only_tokens: Option<String>,
}

impl Generation {
    /// How tokens are chosen; none if the model goes on with no texts.
    pub(crate) fn sampling(&self, generates: bool) -> anyhow::Result<Option<Sampling>> {
        let numbers = self.temperature.is_some() || self.top_p.is_some() || self.seed.is_some();
        if !generates {
            let others = self.max_new_tokens.is_some() || self.only_tokens.is_some();
            if numbers || others || self.top_k.is_some() {
                bail!(
                    "--max-new-tokens, --temperature, --top-k, --top-p, --seed and --only-tokens are for tasks \
                     with the head causal_lm, and there is none here; remove them"
                );
            }
            return Ok(None);
        }
        let usual = Sampling::default();
        let sampling = Sampling {
            max_new_tokens: self.max_new_tokens.unwrap_or(usual.max_new_tokens),
            temperature: self.temperature.unwrap_or(usual.temperature),
            top_k: self.top_k,
            top_p: self.top_p.unwrap_or(usual.top_p),
            seed: self.seed.unwrap_or(usual.seed),
        };
        sampling.check()?;
        Ok(Some(sampling))
    }
}

/// Classes that are named at prediction.
#[derive(clap::Args)]
pub(crate) struct ZeroShot {
    /// Classes to choose from in place of the tasks' own, comma-separated.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "CLASS,CLASS",
        conflicts_with = "tasks"
    )]
    labels: Vec<String>,
    /// Words for a class, to compare texts with in place of its name; may be repeated.
    #[arg(long = "description", value_name = "CLASS=TEXT", requires = "labels")]
    descriptions: Vec<String>,
    /// A sentence with `{}` where the class stands; may be repeated, and then the mean counts.
    #[arg(long = "template", value_name = "TEXT", requires = "labels")]
    templates: Vec<String>,
    /// File of vectors to choose from, for a model that was trained with zero_shot.vectors; with --labels,
    /// only these of its classes.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tasks", "descriptions", "templates"])]
    labels_vectors: Option<PathBuf>,
}

impl ZeroShot {
    /// What the answers are called.
    pub(crate) const TASK: &str = "label";

    /// The classes; none if none are named.
    pub(crate) fn classes(&self, predictor: &Predictor) -> anyhow::Result<Option<Classes>> {
        if let Some(file) = &self.labels_vectors {
            let vectors = espalier_worker::data::vectors::read(file)?;
            let wanted: Vec<String> = self.labels.iter().map(|l| l.trim().to_owned()).collect();
            return Ok(Some(Classes::by_vectors(predictor, &vectors, &wanted)?));
        }
        if self.labels.is_empty() {
            return Ok(None);
        }
        // What the model was trained on is called what it was called there.
        let known = |name: &str| {
            let task = predictor.entailing().or(predictor.described())?;
            let place = task.labels.iter().position(|label| label == name)?;
            task.classes.as_ref()?.texts.get(place).cloned()
        };
        let mut classes: Vec<Class> = Vec::with_capacity(self.labels.len());
        for label in &self.labels {
            let name = label.trim().to_owned();
            if name.is_empty() {
                bail!("--labels holds an empty class; name the classes, separated by commas");
            }
            let text = known(&name).unwrap_or_else(|| name.clone());
            classes.push(Class { name, text });
        }
        for description in &self.descriptions {
            let Some((name, text)) = description.split_once('=') else {
                bail!("--description {description:?} is not CLASS=TEXT");
            };
            let class = classes.iter_mut().find(|class| class.name == name.trim());
            let Some(class) = class else {
                bail!("--description names the class {name:?}, which is not among --labels");
            };
            class.text = text.trim().to_owned();
        }
        Ok(Some(Classes::new(predictor, &classes, &self.templates)?))
    }
}
