//! Rules of tasks that tell apart which text belongs to another.

use super::Findings;
use crate::JobSpec;
use crate::augment::OnMissingLabel;
use crate::job::{ClassWeights, HeadKind, TaskSpec, Tuning};

/// What such a task cannot have, and what only such a task can have.
pub(super) fn rules(task: &TaskSpec, path: &str, found: &mut Findings) {
    let columns = &task.data.columns;
    if task.head != HeadKind::Ranking {
        let field = format!("{path}.data.columns.negative");
        found.require(columns.negative.is_none(), &field, || {
            let head = task.head.as_str();
            format!("is for `ranking` only, and this head is `{head}`; remove it")
        });
        return;
    }
    let labels = [
        ("data.labels", task.data.labels.is_some()),
        ("data.columns.label", columns.label.is_some()),
        (
            "loss.class_weights",
            task.loss.class_weights != ClassWeights::None,
        ),
    ];
    for (name, given) in labels {
        found.require(!given, &format!("{path}.{name}"), || {
            "is nothing to `ranking`, which has no classes: what is right for a text stands in \
             data.columns.pair; remove it"
                .to_owned()
        });
    }
    let skips = task.data.on_missing_label == OnMissingLabel::Skip;
    found.require(!skips, &format!("{path}.data.on_missing_label"), || {
        "is `skip`, but `ranking` has no labels, and a row without its texts is an error; remove it"
            .to_owned()
    });
    found.require(
        task.input_group.is_none(),
        &format!("{path}.input_group"),
        || {
            "shares inputs with other tasks, but the head `ranking` reads more than one text of a row; \
             remove it"
                .to_owned()
        },
    );
    distinct(task, path, found);
}

/// With their defaults, too, columns are two or three.
fn distinct(task: &TaskSpec, path: &str, found: &mut Findings) {
    let columns = &task.data.columns;
    let input = columns.input.as_deref().unwrap_or("text");
    let pair = columns.pair.as_deref().unwrap_or("positive");
    // Two that are both given are told apart with all heads.
    let both = columns.input.is_some() && columns.pair.is_some();
    found.require(
        input != pair || both,
        &format!("{path}.data.columns"),
        || {
            format!(
                "input and pair are the same column {input:?}, one of them by default; name both"
            )
        },
    );
    let negative = columns.negative.as_deref();
    let field = format!("{path}.data.columns.negative");
    found.require(
        negative != Some(input) && negative != Some(pair),
        &field,
        || {
            format!(
                "is {:?}, which is also another column; name the column of texts that do not belong to \
                 the input",
                negative.unwrap_or_default()
            )
        },
    );
}

/// What such a task demands of the rest of the job: something that it trains, and texts to tell apart.
pub(super) fn beside(spec: &JobSpec, found: &mut Findings) {
    let ranking = |(_, task): &(usize, &TaskSpec)| task.head == HeadKind::Ranking;
    for (index, task) in spec.tasks.iter().enumerate().filter(ranking) {
        let field = format!("tasks[{index}].head");
        found.require(spec.tuning != Tuning::Heads, &field, || {
            "is `ranking`, which has no weights of its own, but `tuning: heads` trains nothing else; tune \
             more of the backbone"
                .to_owned()
        });
        let parts = parts(spec);
        let enough = u64::from(spec.training.batch_size) >= parts.saturating_mul(2);
        found.require(enough || task.data.columns.negative.is_some(), &field, || {
            format!(
                "is `ranking`, which tells apart the texts of samples that are computed together, but \
                 training.batch_size is {} and a step is computed in {parts} parts (ranks or shards times \
                 training.accumulation); expected two samples a part or more, or data.columns.negative",
                spec.training.batch_size
            )
        });
    }
}

/// Parts that a step's batch is computed in, as far as the job says it.
fn parts(spec: &JobSpec) -> u64 {
    let resources = &spec.resources;
    let ranks = resources
        .ranks
        .unwrap_or(1)
        .max(resources.shards.unwrap_or(1));
    u64::from(ranks.max(1)) * u64::from(spec.training.accumulation.max(1))
}

#[cfg(test)]
mod tests {
    use crate::JobSpec;
    use crate::check::{check, tests::valid};
    use serde_json::{Value, json};

    fn said(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut value = valid();
        value["tasks"][1] =
            json!({"name": "search", "head": "ranking", "data": {"train": "a.jsonl"}});
        change(&mut value);
        let spec: JobSpec = serde_json::from_value(value).expect("right types");
        let found = check(&spec).err().unwrap_or_default();
        found.into_iter().map(|v| v.field).collect()
    }

    // Promise: a task that ranks texts needs nothing but files; what it has no use for is refused at its field.
    #[test]
    fn texts_are_no_classes() {
        assert_eq!(said(|_| {}), Vec::<String>::new());
        let found = said(|job| {
            let task = &mut job["tasks"][1];
            task["data"]["labels"] = json!(["a", "b"]);
            task["data"]["columns"] = json!({"label": "l", "negative": "positive"});
            task["data"]["on_missing_label"] = json!("skip");
            task["loss"] = json!({"class_weights": "balanced"});
            task["metric"] = json!("accuracy");
            task["adapter"] = json!({"size": 4});
            job["tasks"][0]["data"]["columns"] = json!({"negative": "n"});
        });
        let expected = [
            "tasks[0].data.columns.negative",
            "tasks[1].data.labels",
            "tasks[1].data.columns.label",
            "tasks[1].loss.class_weights",
            "tasks[1].data.on_missing_label",
            "tasks[1].data.columns.negative",
            "tasks[1].metric",
            "tasks[1].adapter",
        ];
        assert_eq!(found, expected);
        let columns = |columns: Value| said(|job| job["tasks"][1]["data"]["columns"] = columns);
        assert_eq!(
            columns(json!({"input": "positive"})),
            ["tasks[1].data.columns"]
        );
        let named = json!({"input": "positive", "pair": "text", "negative": "no"});
        assert_eq!(columns(named), Vec::<String>::new());
    }

    // Promise: a job in which such a task could learn nothing is refused.
    #[test]
    fn there_is_something_to_learn() {
        let place = ["tasks[1].head"];
        assert_eq!(said(|job| job["tuning"] = json!("heads")), place);
        let small = |job: &mut Value| {
            job["training"] = json!({"batch_size": 12, "accumulation": 2});
            job["resources"] = json!({"ranks": 4});
        };
        assert_eq!(said(small), place);
        let with_negatives = said(|job| {
            small(job);
            job["tasks"][1]["data"]["columns"] = json!({"negative": "negative"});
        });
        assert_eq!(with_negatives, Vec::<String>::new());
    }
}
