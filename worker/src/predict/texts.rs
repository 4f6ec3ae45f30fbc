//! Texts as the tasks of a model were trained to read them: whole, or cut into words.

use super::{Error, Predictor, span};
use crate::checkpoint::ExportedTask;
use crate::data::{self, Encoded, Input, Problem, Tokenizer};
use crate::model;
use espalier_spec::job::HeadKind;

impl Predictor {
    /// Whether a task is about words.
    pub(super) fn reads_words(&self) -> bool {
        let mut tasks = self.meta.tasks.iter();
        tasks.any(|task| task.head == HeadKind::Tags)
    }

    /// Whether a task finds answers in contexts.
    pub(super) fn reads_contexts(&self) -> bool {
        let mut tasks = self.meta.tasks.iter();
        tasks.any(|task| task.head == HeadKind::Span)
    }

    /// Whether a task was trained on texts in words.
    pub(super) fn takes_words(&self, task: &ExportedTask) -> bool {
        // Questions are whole. Exports of before do not say what others read: all took words, if one was
        // about them.
        let is_whole = task.head == HeadKind::Span;
        !is_whole && task.words.unwrap_or_else(|| self.reads_words())
    }

    /// Whether all tasks were.
    fn takes_only_words(&self) -> bool {
        let tasks = &self.meta.tasks;
        !tasks.is_empty() && tasks.iter().all(|task| self.takes_words(task))
    }

    /// Whether some of the named tasks (of all, if none is named) were trained on texts in words, but not all
    /// tasks of the model, so that [`Predictor::words`] is to be asked beside [`Predictor::text`].
    #[must_use]
    pub fn reads_both(&self, wanted: &[String]) -> bool {
        !self.takes_only_words() && self.wanted(wanted).any(|task| self.takes_words(task))
    }

    /// Tokenises a text; at words' borders, if all tasks were trained on words.
    ///
    /// # Errors
    /// If the model reads images, or the text cannot be tokenised.
    pub fn text(&self, text: &str) -> Result<Input, Error> {
        match self.takes_only_words() {
            true => self.words(text),
            false => self.whole(text),
        }
    }

    /// Tokenises a text at words' borders: white space.
    ///
    /// # Errors
    /// As [`Predictor::text`].
    pub fn words(&self, text: &str) -> Result<Input, Error> {
        let words: Vec<&str> = text.split_whitespace().collect();
        self.tokenised(text, |tokenizer| tokenizer.encode_words(&words))
    }

    /// Tokenises a text as it is.
    fn whole(&self, text: &str) -> Result<Input, Error> {
        self.tokenised(text, |tokenizer| tokenizer.encode(text))
    }

    fn tokenised(
        &self,
        text: &str,
        encode: impl FnOnce(&Tokenizer) -> Result<Encoded, Problem>,
    ) -> Result<Input, Error> {
        let data::Modality::Text(tokenizer) = &self.inputs else {
            let message = format!("this model reads {}, not texts", self.reads());
            return Err(model::Error::Input(message).into());
        };
        let encoded = encode(tokenizer.as_ref())
            .map_err(|e| model::Error::Input(format!("cannot tokenise {text:?}: {e}")))?;
        Ok(encoded.into())
    }

    /// Tokenises the text of a class, whether tasks are about words or not.
    ///
    /// # Errors
    /// As [`Predictor::text`].
    pub(super) fn class_text(&self, text: &str) -> Result<Input, Error> {
        self.whole(text)
    }

    /// Tokenises a pair of texts as one input; a question and its context, if a task finds answers.
    ///
    /// # Errors
    /// If the model reads no texts or words alone, or the texts cannot be tokenised.
    pub fn pair(&self, first: &str, second: &str) -> Result<Input, Error> {
        let wrong = |message: String| Error::from(model::Error::Input(message));
        if let (data::Modality::Text(tokenizer), true) = (&self.inputs, self.reads_contexts()) {
            return span::passage(tokenizer, first, second).map_err(wrong);
        }
        if self.takes_only_words() {
            let message = "this model tells words apart in one text: it reads no pairs";
            return Err(wrong(message.to_owned()));
        }
        self.tokenised(first, |tokenizer| tokenizer.encode_pair(first, second))
    }
}
