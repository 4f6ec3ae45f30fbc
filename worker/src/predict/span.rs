//! Tasks that find the answer to a question in a context.

use super::{Answer, Error, Predictor};
use crate::checkpoint::ExportedTask;
use crate::data::{Input, Tokenizer};
use crate::engine::Words;
use crate::heads::Span;
use crate::model::Batch;
use espalier_spec::span::SpanSpec;
use std::collections::BTreeMap;
use tch::Tensor;

/// A question with its context, which it keeps: the answer is a part of it.
///
/// # Errors
/// Why it cannot be tokenised, in words.
pub(super) fn passage(
    tokenizer: &Tokenizer,
    question: &str,
    context: &str,
) -> Result<Input, String> {
    let encoded = tokenizer.encode_passage(question, context, None);
    let mut encoded = encoded.map_err(|e| format!("cannot tokenise {question:?}: {e}"))?;
    if let Some(passage) = &mut encoded.passage {
        passage.context = Some(context.into());
    }
    Ok(encoded.into())
}

impl Predictor {
    /// Adds a task's answers to those of the inputs that are questions with their contexts, from the vectors
    /// of the rows of a batch of all inputs.
    ///
    /// # Errors
    /// [`Error::NoExport`] if the head is missing.
    pub(super) fn find_answers(
        &self,
        task: &ExportedTask,
        (batch, rows): (&Batch, &Tensor),
        inputs: &[Input],
        answers: &mut [BTreeMap<String, Answer>],
    ) -> Result<(), Error> {
        let most = task.max_answer_tokens;
        let most = most.unwrap_or(SpanSpec::default().max_answer_tokens);
        let head = Span::new(most as usize);
        for (place, (input, answer)) in inputs.iter().zip(answers).enumerate() {
            let Some(passage) = input.passage() else {
                continue;
            };
            let words = Words::of(batch, [place], std::iter::once(input));
            let best = head.best(&self.outputs(&task.name, &words.vectors(rows)?)?)?;
            let context = passage.context.as_deref().unwrap_or_default();
            let found = passage.answer(context, best.places);
            let found = found.filter(|found| !found.text.is_empty());
            let said = Answer::Span {
                answer: found.map(|found| found.text.to_owned()),
                score: best.score,
                start: found.map(|found| found.start),
                end: found.map(|found| found.end),
            };
            answer.insert(task.name.clone(), said);
        }
        Ok(())
    }
}
