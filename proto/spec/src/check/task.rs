//! Rules of one task: data, labels, loss, metric.

use super::{Findings, ctc, language};
use crate::job::{
    ClassWeights, ContrastiveKind, ContrastiveSpec, DataSpec, HeadKind, Metric, Pooling, TaskSpec,
};
use crate::location::{Location, shown};
use std::collections::{BTreeMap, BTreeSet};

/// File extensions that a reader exists for.
const EXTENSIONS: [&str; 3] = ["parquet", "jsonl", "csv"];

pub(super) fn task(task: &TaskSpec, path: &str, found: &mut Findings) {
    data(&task.data, &format!("{path}.data"), found);
    if task.head == HeadKind::Tags && task.data.columns.pair.is_some() {
        found.add(
            format!("{path}.data.columns.pair"),
            "names a second text, but the head `tags` reads the words of one; remove it",
        );
    }
    if let Some(most) = task.data.samples_per_class {
        let field = format!("{path}.data.samples_per_class");
        found.require(most > 0, &field, || {
            "is 0; expected at least 1, or leave it out to use all".to_owned()
        });
        found.require(task.head == HeadKind::SingleLabel, &field, || {
            let head = task.head.as_str();
            format!("is for `single_label` only, and this head is `{head}`; remove it")
        });
        found.require(task.input_group.is_none(), &field, || {
            "picks samples by their label, and tasks of an input group share theirs; remove one of both"
                .to_owned()
        });
    }
    language::rules(task, path, found);
    ctc::rules(task, path, found);
    labels(task, &format!("{path}.data.labels"), found);
    super::zero_shot::rules(task, path, found);
    super::segmentation::rules(task, path, found);
    super::span::rules(task, path, found);
    super::ranking::rules(task, path, found);
    found.require(
        task.weight.is_finite() && task.weight > 0.0,
        &format!("{path}.weight"),
        || {
            format!(
                "is {}; expected a finite number above 0: to leave a task out, remove it",
                task.weight
            )
        },
    );
    loss(task, &format!("{path}.loss"), found);
    metric(task, &format!("{path}.metric"), found);
    adapter(task, &format!("{path}.adapter"), found);
}

/// A head that reads tokens, frames or places of an image needs a backbone that ends with their vectors.
pub(super) fn pooling(task: &TaskSpec, pooling: Pooling, index: usize, found: &mut Findings) {
    let of = match task.head {
        head if head.reads_tokens() => "words",
        head if head.reads_map() => "places",
        HeadKind::Ctc => "frames",
        _ => return,
    };
    if pooling == Pooling::Pooler {
        found.add(
            "backbone.pooling",
            format!(
                "is `pooler`, which leaves no vectors of {of} for tasks[{index}] ({}); expected \
                 mean, cls, max or last",
                task.name
            ),
        );
    }
}

fn adapter(task: &TaskSpec, path: &str, found: &mut Findings) {
    let Some(adapter) = task.adapter else {
        return;
    };
    let size = adapter.size;
    found.require((1..=4096).contains(&size), &format!("{path}.size"), || {
        format!("is {size}; expected 1 to 4096, such as 16")
    });
    let why = match task.head {
        HeadKind::LabelEmbedding => "compares texts and descriptions as the backbone sees them",
        HeadKind::Ranking => "compares texts as the backbone sees them",
        HeadKind::CausalLm => "is exported as a plain language model, which has none",
        _ => return,
    };
    let head = task.head.as_str();
    found.add(
        path,
        format!("stands before a head, but `{head}` {why}; remove it"),
    );
}

fn data(data: &DataSpec, path: &str, found: &mut Findings) {
    let train = data.train.paths();
    found.require(!train.is_empty(), &format!("{path}.train"), || {
        "is empty; expected at least one file".to_owned()
    });
    files(train, &format!("{path}.train"), found);
    if let Some(validation) = &data.validation {
        files(validation.paths(), &format!("{path}.validation"), found);
    }
    if let Some(test) = &data.test {
        files(test.paths(), &format!("{path}.test"), found);
        let train: BTreeSet<&str> = train.iter().map(String::as_str).collect();
        for file in test
            .paths()
            .iter()
            .filter(|file| train.contains(file.as_str()))
        {
            found.add(
                format!("{path}.test"),
                format!(
                    "{:?} is also a training file; figures on samples that were trained on \
                     say nothing: give files of their own, or leave `test` out",
                    shown(file)
                ),
            );
        }
    }
    let (input, label) = (&data.columns.input, &data.columns.label);
    let (pair, negative) = (&data.columns.pair, &data.columns.negative);
    let columns = [
        ("input", input),
        ("pair", pair),
        ("negative", negative),
        ("label", label),
    ];
    for (name, column) in columns {
        if column
            .as_deref()
            .is_some_and(|column| column.trim().is_empty())
        {
            found.add(
                format!("{path}.columns.{name}"),
                "is empty; expected the name of a column, or leave it out",
            );
        }
    }
    if input.is_some() && input == label {
        found.add(
            format!("{path}.columns"),
            format!(
                "input and label are the same column {:?}; name two",
                input.as_deref().unwrap_or_default()
            ),
        );
    }
    if pair.is_some() && (pair == input || pair == label) {
        found.add(
            format!("{path}.columns.pair"),
            format!(
                "is {:?}, which is also another column; name the column of the second text",
                pair.as_deref().unwrap_or_default()
            ),
        );
    }
    if data.max_train_samples == Some(0) {
        found.add(
            format!("{path}.max_train_samples"),
            "is 0; expected at least 1, or leave it out to use all",
        );
    }
    let both = data.augment.of_images() && data.augment.of_sounds();
    found.require(!both, &format!("{path}.augment"), || {
        "crop and flip are for images, time_mask and frequency_mask for sounds; name those of one kind"
            .to_owned()
    });
}

pub(super) fn files(paths: &[String], field: &str, found: &mut Findings) {
    for path in paths {
        if path.trim().is_empty() {
            found.add(field, "holds an empty path; remove it");
            continue;
        }
        let location = match Location::parse(path) {
            Ok(location) => location,
            Err(message) => {
                found.add(field, format!("{:?} {message}", shown(path)));
                continue;
            }
        };
        let path = shown(path);
        let extension = location
            .name()
            .rsplit_once('.')
            .map(|(_, extension)| extension.to_ascii_lowercase());
        match extension {
            Some(extension) if EXTENSIONS.contains(&extension.as_str()) => {}
            Some(extension) => found.add(
                field,
                format!(
                    "{path:?} ends with .{extension}, which no reader knows; expected .parquet, \
                     .jsonl or .csv"
                ),
            ),
            None => found.add(
                field,
                format!("{path:?} has no file extension; expected .parquet, .jsonl or .csv"),
            ),
        }
    }
}

fn labels(task: &TaskSpec, field: &str, found: &mut Findings) {
    let Some(labels) = &task.data.labels else {
        return;
    };
    let least = match task.head {
        HeadKind::SingleLabel
        | HeadKind::Tags
        | HeadKind::Ordinal
        | HeadKind::LabelEmbedding
        | HeadKind::Ctc
        | HeadKind::Entailment
        | HeadKind::Segmentation => 2,
        HeadKind::MultiLabel => 1,
        // `language`, `span` and `ranking` say so.
        HeadKind::CausalLm | HeadKind::Span | HeadKind::Ranking => return,
        HeadKind::Regression => {
            found.add(
                field,
                "a regression task has no classes; remove `labels`, or change `head`",
            );
            return;
        }
    };
    found.require(labels.len() >= least, field, || {
        format!(
            "lists {} of at least {least} classes; add the others, or leave `labels` out to take \
             them from the training files",
            labels.len()
        )
    });
    let mut first_use = BTreeMap::new();
    for (index, label) in labels.iter().enumerate() {
        if label.is_empty() {
            found.add(field, format!("entry {index} is empty; remove or name it"));
        }
        if let Some(first) = first_use.insert(label.as_str(), index) {
            found.add(
                field,
                format!("{label:?} is there twice (entries {first} and {index})"),
            );
        }
    }
}

fn loss(task: &TaskSpec, path: &str, found: &mut Findings) {
    let smoothing = task.loss.label_smoothing;
    let field = format!("{path}.label_smoothing");
    found.require((0.0..1.0).contains(&smoothing), &field, || {
        format!("is {smoothing}; expected at least 0 and below 1")
    });
    if smoothing > 0.0 && task.head != HeadKind::SingleLabel {
        found.add(
            field,
            format!(
                "is for `single_label` only, and this head is `{}`; remove it",
                task.head.as_str()
            ),
        );
    }
    contrastive(task, &format!("{path}.contrastive"), found);
    let field = format!("{path}.class_weights");
    if task.head == HeadKind::Regression && task.loss.class_weights != ClassWeights::None {
        found.add(
            field,
            "a regression task has no classes to weigh; remove it",
        );
        return;
    }
    if matches!(
        task.head,
        HeadKind::CausalLm | HeadKind::Span | HeadKind::Ranking
    ) {
        return;
    }
    if matches!(
        task.head,
        HeadKind::Tags
            | HeadKind::Ordinal
            | HeadKind::LabelEmbedding
            | HeadKind::Ctc
            | HeadKind::Entailment
    ) && task.loss.class_weights != ClassWeights::None
    {
        let head = task.head.as_str();
        found.add(
            field,
            format!("a task of the head `{head}` does not weigh its classes; remove it"),
        );
        return;
    }
    let ClassWeights::Given(weights) = &task.loss.class_weights else {
        return;
    };
    found.require(!weights.is_empty(), &format!("{field}.given"), || {
        "is empty; expected a weight per class, or leave `class_weights` out".to_owned()
    });
    for (class, weight) in weights {
        let field = format!("{field}.given.{class}");
        found.require(weight.is_finite() && *weight >= 0.0, &field, || {
            format!("is {weight}; expected a finite number of at least 0")
        });
        if let Some(labels) = &task.data.labels
            && !labels.contains(class)
        {
            found.add(
                field,
                format!("{class:?} is not among the task's labels: {}", list(labels)),
            );
        }
    }
    if let Some(labels) = &task.data.labels {
        let all_zero = !labels.is_empty()
            && labels
                .iter()
                .all(|label| weights.get(label).is_some_and(|weight| *weight == 0.0));
        if all_zero {
            found.add(
                field,
                "every class weighs 0: nothing would be learned; raise some",
            );
        }
    }
}

fn contrastive(task: &TaskSpec, path: &str, found: &mut Findings) {
    let Some(contrastive) = &task.loss.contrastive else {
        return;
    };
    found.require(task.head == HeadKind::SingleLabel, path, || {
        format!(
            "is for `single_label` only, and this head is `{}`; remove it",
            task.head.as_str()
        )
    });
    let share = contrastive.share;
    found.require(
        share > 0.0 && share <= 1.0,
        &format!("{path}.share"),
        || format!("is {share}; expected above 0, at most 1: to do without, remove `contrastive`"),
    );
    let temperature = contrastive.temperature;
    let field = format!("{path}.temperature");
    found.require(temperature.is_finite() && temperature > 0.0, &field, || {
        format!("is {temperature}; expected a finite number above 0, such as 0.1")
    });
    // One that is as where none is given changes nothing.
    let given = temperature != ContrastiveSpec::TEMPERATURE;
    found.require(
        contrastive.kind == ContrastiveKind::SupCon || !given,
        &format!("{path}.temperature"),
        || "is for `kind: sup_con` only; remove it, or the kind".to_owned(),
    );
}

fn metric(task: &TaskSpec, field: &str, found: &mut Findings) {
    let Some(metric) = task.metric else { return };
    let fitting: &[Metric] = match task.head {
        HeadKind::SingleLabel | HeadKind::MultiLabel => &[Metric::Accuracy, Metric::MacroF1],
        HeadKind::Regression => &[Metric::Mse, Metric::Pearson, Metric::Spearman],
        HeadKind::Tags => &[Metric::SpanF1, Metric::Exact, Metric::Accuracy],
        HeadKind::Ordinal => &[Metric::QuadraticKappa, Metric::Mae, Metric::Accuracy],
        HeadKind::LabelEmbedding => &[
            Metric::Accuracy,
            Metric::MacroF1,
            Metric::SeenAccuracy,
            Metric::UnseenAccuracy,
            Metric::HarmonicMean,
            Metric::ZeroShotAccuracy,
        ],
        HeadKind::CausalLm => &[Metric::Perplexity],
        HeadKind::Ctc => &[Metric::Cer, Metric::Wer],
        HeadKind::Entailment => &[
            Metric::Accuracy,
            Metric::MacroF1,
            Metric::SeenAccuracy,
            Metric::UnseenAccuracy,
            Metric::HarmonicMean,
            Metric::ZeroShotAccuracy,
        ],
        HeadKind::Segmentation => &[Metric::MeanIou, Metric::Accuracy],
        HeadKind::Span => &[Metric::F1, Metric::Exact],
        HeadKind::Ranking => &[Metric::Mrr, Metric::RecallAt1],
    };
    found.require(fitting.contains(&metric), field, || {
        let names: Vec<&str> = fitting.iter().map(|metric| metric.as_str()).collect();
        format!(
            "`{}` does not fit the head `{}`; expected {}",
            metric.as_str(),
            task.head.as_str(),
            names.join(" or ")
        )
    });
}

/// The first entries of a list, for a message.
fn list(labels: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut text = labels
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if labels.len() > SHOWN {
        text.push_str(&format!(" and {} more", labels.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use crate::JobSpec;
    use crate::check::check;
    use crate::check::tests::valid;
    use serde_json::json;

    #[test]
    fn tags_need_the_vectors_of_words() {
        // What has no vectors of words, or weighs pooled features only, is refused beside the head `tags`.
        let mut value = valid();
        value["tasks"][2]["head"] = json!("tags");
        value["tasks"][2]["loss"] = json!({"class_weights": "balanced"});
        value["backbone"]["pooling"] = json!("pooler");
        value["balancer"] = json!("mgda_ub");
        let spec: JobSpec = serde_json::from_value(value).expect("right types");
        let found = check(&spec).expect_err("a head for words");
        let said = |field: &str, part: &str| {
            let fits = |v: &&crate::check::Violation| v.field == field && v.message.contains(part);
            assert_eq!(found.iter().filter(fits).count(), 1, "{field}: {found:?}");
        };
        said("backbone.pooling", "expected mean, cls, max or last");
        said("tasks[2].head", "weighs gradients of pooled features");
        said("tasks[2].loss.class_weights", "does not weigh its classes");
    }
}
