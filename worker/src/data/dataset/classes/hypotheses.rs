//! Classes as hypotheses about a text, each of which is read together with it.

use super::{Classes, columns, descriptions, with_unseen};
use crate::data::mix::mix;
use crate::data::{Error, LabelSet};
use espalier_spec::job::ZeroShotSpec;
use espalier_spec::zero_shot::PLACE;

/// Other classes of a training sample, where the job does not say how many.
const NEGATIVES: u32 = 1;
/// Sets the choice of classes apart from that of templates.
const CLASSES: u64 = 0x6f74_6865_7220_636c;

/// The label set with the classes that are not trained on, and a hypothesis on each in every template; a class
/// that nobody describes stands for itself.
///
/// # Errors
/// What is wrong with a file of descriptions.
pub(in crate::data::dataset) fn read(
    spec: &ZeroShotSpec,
    trained: &LabelSet,
) -> Result<(LabelSet, Classes), Error> {
    let (labels, seen) = with_unseen(trained, &spec.unseen);
    let described = descriptions(&spec.descriptions)?;
    let text = |name: &String| described.get(name).unwrap_or(name).clone();
    let texts: Vec<String> = labels.names().iter().map(text).collect();
    let templates = match spec.templates.is_empty() {
        true => vec![PLACE.to_owned()],
        false => spec.templates.clone(),
    };
    let in_templates = |text: &String| -> Vec<String> {
        let all = templates.iter();
        all.map(|template| template.replace(PLACE, text)).collect()
    };
    let others = seen.iter().filter(|seen| **seen).count().saturating_sub(1);
    let classes = Classes {
        hypotheses: texts.iter().flat_map(in_templates).collect(),
        negatives: others.min(spec.negatives.unwrap_or(NEGATIVES) as usize),
        texts,
        vectors: Vec::new(),
        templates,
        columns: columns(&seen),
        seen,
        inputs: Vec::new(),
    };
    Ok((labels, classes))
}

impl Classes {
    /// Pairs that a training sample is read in; 1 where it is read alone.
    #[must_use]
    pub fn pairs(&self) -> usize {
        match self.hypotheses.is_empty() {
            true => 1,
            false => 1 + self.negatives,
        }
    }

    /// What a training sample is read together with: the hypothesis on its own class, and those on some of the
    /// other classes trained on, none twice. Which ones, and in which template each, is a function of `key`.
    #[must_use]
    pub fn drawn(&self, own: u32, key: u64) -> (&str, Vec<&str>) {
        let own = own as usize;
        let templates = self.templates.len().max(1);
        let hypothesis = |class: usize, number: u64| {
            let template = (mix(key ^ mix(number)) % templates as u64) as usize;
            let found = self.hypotheses.get(class * templates + template);
            found.map_or("", String::as_str)
        };
        let is_other = |class: &usize| self.seen[*class] && *class != own;
        let mut others: Vec<usize> = (0..self.seen.len()).filter(is_other).collect();
        let count = self.negatives.min(others.len());
        for place in 0..count {
            let left = (others.len() - place) as u64;
            let far = mix(key ^ mix(CLASSES ^ place as u64)) % left;
            others.swap(place, place + far as usize);
        }
        let others = others[..count].iter().zip(1..);
        let others = others.map(|(class, number)| hypothesis(*class, number));
        (hypothesis(own, 0), others.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn classes(negatives: u32) -> Classes {
        let spec: ZeroShotSpec = serde_json::from_value(serde_json::json!({
            "descriptions": {"a": "apples"}, "templates": ["on {}", "about {}"], "unseen": ["u"],
            "negatives": negatives,
        }))
        .unwrap();
        let labels = ["a", "b", "c", "d"].map(str::to_owned);
        let (labels, classes) = read(&spec, &LabelSet::given(&labels).unwrap()).unwrap();
        assert_eq!(labels.names().last().unwrap(), "u");
        classes
    }

    // Promise: each class has a hypothesis in every template, by its description or its name.
    #[test]
    fn names_stand_for_themselves() {
        let all = classes(1).hypotheses;
        assert_eq!(all[..4], ["on apples", "about apples", "on b", "about b"]);
        assert_eq!(all.len(), 10);
    }

    // Promise: a sample meets its own class and as many others as wanted (or there are), each once, none that is
    // not trained on; the same ones by the same key; all of them, in all templates, by some key.
    #[test]
    fn others_are_drawn_by_a_key() {
        let class = |hypothesis: &str| hypothesis.split(' ').next_back().unwrap().to_owned();
        for (wanted, count) in [(2, 2), (9, 3)] {
            let classes = classes(wanted);
            assert_eq!(classes.pairs(), 1 + count);
            let mut met = BTreeSet::new();
            for key in 0..64 {
                let (own, others) = classes.drawn(1, key);
                assert_eq!(class(own), "b");
                let distinct: BTreeSet<String> = others.iter().map(|other| class(other)).collect();
                assert_eq!((others.len(), distinct.len()), (count, count));
                assert!(
                    !distinct.contains("b") && !distinct.contains("u"),
                    "{others:?}"
                );
                assert_eq!((own, others.clone()), classes.drawn(1, key));
                met.extend(others.into_iter().map(str::to_owned));
                met.insert(own.to_owned());
            }
            assert_eq!(met.len(), 8);
        }
    }
}
