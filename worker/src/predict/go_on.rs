//! Tasks that predict the next token: going on with a text.

use super::{Answer, Error, Predictor};
use crate::data;
use crate::generate::{self, Generator, Sampling};
use crate::model;
use espalier_spec::job::HeadKind;
use std::collections::BTreeMap;

impl Predictor {
    /// Whether one of the tasks goes on with texts; of all, if none is named.
    #[must_use]
    pub fn generates(&self, wanted: &[String]) -> bool {
        self.wanted(wanted)
            .any(|task| task.head == HeadKind::CausalLm)
    }

    /// From now on texts go on with tokens alone that begin with `prefix`.
    ///
    /// # Errors
    /// If the model reads no texts, or has no such token.
    pub fn keep_to(&mut self, prefix: &str) -> Result<(), Error> {
        let found = match &self.inputs {
            data::Modality::Text(tokenizer) => tokenizer.beginning_with(prefix),
            data::Modality::Media(_) => Vec::new(),
        };
        if found.is_empty() {
            let prefix = prefix.to_owned();
            return Err(generate::Error::NoneBegins { prefix }.into());
        }
        self.only = Some(found);
        Ok(())
    }

    /// How a text goes on by the named tasks (all, if none is named) that predict the next token; `number`
    /// tells the prompts of one seed apart.
    ///
    /// # Errors
    /// A prompt that is empty or too long, numbers out of range.
    pub fn go_on(
        &self,
        prompt: &str,
        wanted: &[String],
        (sampling, number): (&Sampling, u64),
    ) -> Result<BTreeMap<String, Answer>, Error> {
        let (data::Modality::Text(tokenizer), Some(decoder)) =
            (&self.prompts, self.backbone.decoder())
        else {
            let message = "this model predicts no next token".to_owned();
            return Err(model::Error::Input(message).into());
        };
        let wrong =
            |e: data::Problem| model::Error::Input(format!("cannot tokenise {prompt:?}: {e}"));
        if prompt.is_empty() {
            return Err(generate::Error::Empty.into());
        }
        let encoded = tokenizer.encode(prompt).map_err(wrong)?;
        if encoded.cut {
            let tokens = tokenizer.encode_all(prompt).map_err(wrong)?.len();
            let limit = tokenizer.max_tokens();
            return Err(generate::Error::Long { tokens, limit }.into());
        }
        let mut answers = BTreeMap::new();
        for task in self.wanted(wanted) {
            if task.head != HeadKind::CausalLm {
                continue;
            }
            let matrix = self.part(&task.name, "weight")?;
            let generator = Generator::new(decoder, matrix, tokenizer.end_tokens());
            let generator = generator.only(self.only.as_deref());
            let made = generator.generate(&encoded.ids, sampling, number)?;
            let ids = [&encoded.ids[..], &made.ids].concat();
            let begun = tokenizer.decode(&encoded.ids).map_err(wrong)?;
            let whole = tokenizer.decode(&ids).map_err(wrong)?;
            let completion = match whole.strip_prefix(&begun) {
                Some(rest) => rest.to_owned(),
                None => tokenizer.decode(&made.ids).map_err(wrong)?,
            };
            let answer = Answer::Text {
                completion,
                tokens: made.ids.len(),
                stop: made.stop,
            };
            answers.insert(task.name.clone(), answer);
        }
        Ok(answers)
    }
}
