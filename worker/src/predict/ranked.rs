//! Tasks that rank texts: the vector of one text, or how near two are.

use super::{Answer, Error, Predictor};
use crate::data::Input;
use crate::heads;
use espalier_spec::job::HeadKind;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

impl Predictor {
    /// Whether one of the named tasks ranks texts; of all, if none is named.
    #[must_use]
    pub fn ranks(&self, wanted: &[String]) -> bool {
        self.wanted(wanted)
            .any(|task| task.head == HeadKind::Ranking)
    }

    /// Answers of the named tasks (all, if none is named) that rank texts, on each text, alone or with a second
    /// one: its vector at length 1, or the cosine of both.
    ///
    /// # Errors
    /// If a text does not fit the model.
    pub fn ranked(
        &self,
        texts: &[(&str, Option<&str>)],
        wanted: &[String],
    ) -> Result<Vec<BTreeMap<String, Answer>>, Error> {
        let first = texts.iter().map(|(text, _)| self.class_text(text));
        let second = texts.iter().filter_map(|(_, second)| *second);
        let inputs = first.chain(second.map(|text| self.class_text(text)));
        let inputs = inputs.collect::<Result<Vec<Input>, Error>>()?;
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let features = self.features(&inputs)?;
        let rows = tch::no_grad(|| heads::unit(&features))?;
        let mut place = texts.len() as i64;
        let mut answers = Vec::with_capacity(texts.len());
        for (row, (_, second)) in (0..).zip(texts) {
            let own = rows.f_get(row)?;
            let answer = match second {
                None => Answer::Vector {
                    vector: numbers(&own)?,
                },
                Some(_) => {
                    let other = rows.f_get(place)?;
                    place += 1;
                    let cosine = own.f_mul(&other)?.f_sum(Kind::Float)?;
                    Answer::Number {
                        value: f64::try_from(&cosine)?,
                    }
                }
            };
            // Such heads have no weights: what one says all say.
            let tasks = self.wanted(wanted);
            let tasks = tasks.filter(|task| task.head == HeadKind::Ranking);
            answers.push(
                tasks
                    .map(|task| (task.name.clone(), answer.clone()))
                    .collect(),
            );
        }
        Ok(answers)
    }
}

fn numbers(row: &Tensor) -> Result<Vec<f32>, Error> {
    Ok(Vec::<f32>::try_from(&row.f_contiguous()?)?)
}
