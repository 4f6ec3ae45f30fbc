//! Rules of domain adaptation, and of choosing a checkpoint without labels.

use super::{Findings, nearest, task};
use crate::JobSpec;
use crate::adaptation::{Adapt, AdaptationSpec, Sees};
use crate::job::{HeadKind, SelectBy, Sources, TaskSpec, Tuning};
use crate::location::shown;

pub(super) fn rules(spec: &JobSpec, found: &mut Findings) {
    for (index, task) in spec.tasks.iter().enumerate() {
        let Some(adaptation) = &task.adaptation else {
            continue;
        };
        let path = format!("tasks[{index}].adaptation");
        fields(adaptation, &path, found);
        params(adaptation, &format!("{path}.params"), found);
        target(task, adaptation, &format!("{path}.target.train"), found);
        sources(task, adaptation, &format!("{path}.sources"), found);
        fits(spec, task, adaptation, (index, &path), found);
    }
    selection(spec, found);
}

fn fields(adaptation: &AdaptationSpec, path: &str, found: &mut Findings) {
    if let Some(weight) = adaptation.weight {
        let field = format!("{path}.weight");
        found.require(weight.is_finite() && weight > 0.0, &field, || {
            format!(
                "is {weight}; expected a finite number above 0: to do without, remove `adaptation`"
            )
        });
    }
}

fn params(adaptation: &AdaptationSpec, path: &str, found: &mut Findings) {
    let info = adaptation.method.info();
    for (name, &value) in &adaptation.params {
        let field = format!("{path}.{name}");
        let Some(known) = info.param(name) else {
            let names: Vec<&str> = info.params.iter().map(|param| param.name).collect();
            let list = names.join(", ");
            let advice = match (nearest(name, names.iter().copied()), names.is_empty()) {
                (Some(near), _) => format!("; did you mean `{near}`? It has {list}"),
                (None, false) => format!("; it has {list}"),
                (None, true) => "; it has none: remove it".to_owned(),
            };
            let message = format!("`{}` has no such parameter{advice}", info.name);
            found.add(field, message);
            continue;
        };
        found.require(known.range.holds(value), &field, || {
            let (range, default, meaning) = (known.range, known.default, known.meaning);
            format!("is {value}; expected {range}, such as {default} ({meaning})")
        });
    }
    let is_on = |name: &str| adaptation.param(name).is_some_and(|value| value != 0.0);
    let field = format!("{path}.reversed_entropy");
    found.require(!is_on("reversed_entropy") || is_on("entropy"), &field, || {
        "says how `entropy` weighs samples, which is off; set params.entropy to true, or remove it"
            .to_owned()
    });
    let grows = adaptation.method == Adapt::Afn && adaptation.params.contains_key("step");
    let field = format!("{path}.step");
    found.require(!grows || !is_on("radius"), &field, || {
        "says how norms grow, but with params.radius they do not; remove one of the two".to_owned()
    });
}

fn target(task: &TaskSpec, adaptation: &AdaptationSpec, path: &str, found: &mut Findings) {
    let files = adaptation.target.train.paths();
    found.require(!files.is_empty(), path, || {
        "is empty; expected at least one file of the target domain".to_owned()
    });
    task::files(files, path, found);
    for file in files {
        let train = task.data.train.paths();
        found.require(!train.contains(file), path, || {
            let file = shown(file);
            format!("{file:?} is also in data.train; the target is another domain than the source")
        });
        let mut test = task.data.test.iter().flat_map(|test| test.paths());
        found.require(!test.any(|other| other == file), path, || {
            let file = shown(file);
            format!(
                "{file:?} is also in data.test; figures on samples that were trained on say less: \
                 give files of their own"
            )
        });
    }
}

/// Several sources can be told apart where there are several, and by methods that compare domains.
fn sources(task: &TaskSpec, adaptation: &AdaptationSpec, path: &str, found: &mut Findings) {
    if adaptation.sources != Sources::Apart {
        return;
    }
    let files = task.data.train.paths().len();
    found.require(files > 1, path, || {
        format!(
            "is apart, but data.train has {files} file; give each source a file of its own, or remove it"
        )
    });
    let method = adaptation.method;
    found.require(method.compares(), path, || {
        format!(
            "is apart, but `{method}` does not compare one domain with another; use dann, cdan, mmd, jan \
             or coral, or remove it"
        )
    });
}

fn fits(
    spec: &JobSpec,
    task: &TaskSpec,
    adaptation: &AdaptationSpec,
    (index, path): (usize, &str),
    found: &mut Findings,
) {
    let (method, info) = (adaptation.method, adaptation.method.info());
    let classes = info.sees == Sees::Classes;
    found.require(
        !classes || task.head == HeadKind::SingleLabel,
        &format!("{path}.method"),
        || {
            format!(
                "`{method}` needs probabilities of classes (`single_label`), and this head is `{}`; \
                 use a method of features, such as dann, mmd or coral",
                task.head.as_str()
            )
        },
    );
    let fits = !matches!(
        task.head,
        HeadKind::LabelEmbedding
            | HeadKind::CausalLm
            | HeadKind::Ctc
            | HeadKind::Entailment
            | HeadKind::Segmentation
            | HeadKind::Span
            | HeadKind::Ranking
    );
    found.require(fits, path, || {
        let head = task.head.as_str();
        format!("is not for the head `{head}`; remove it, or use single_label")
    });
    found.require(task.input_group.is_none(), path, || {
        format!(
            "tasks[{index}].input_group shares inputs between tasks, which have one domain only; \
             remove one of both"
        )
    });
    if method == Adapt::Adabn {
        found.require(spec.tasks.len() == 1, path, || {
            "`adabn` gives the backbone the statistics of one task's target; the others would be read with \
             these: give it a job of its own, or use another method"
                .to_owned()
        });
        let caches = spec.backbone.cache_features
            && matches!(spec.tuning, Tuning::Heads | Tuning::LastBlocks(_));
        found.require(!caches, path, || {
            "`adabn` changes what frozen blocks make of a sample, which is computed once: set \
             backbone.cache_features to false"
                .to_owned()
        });
    }
    // An adapter of the task's own makes other features; batch statistics are taken, not learned.
    let moves = spec.tuning != Tuning::Heads || task.adapter.is_some();
    found.require(moves || classes || method == Adapt::Adabn, path, || {
        format!(
            "`{method}` changes features, but `tuning: heads` keeps the backbone as it is; tune more, give \
             the task an `adapter`, or use a method of predictions, such as mcc"
        )
    });
}

fn selection(spec: &JobSpec, found: &mut Findings) {
    const FIELD: &str = "evaluation.select_by";
    let by = spec.evaluation.select_by;
    if by == SelectBy::Metric {
        return;
    }
    let mut judged = 0;
    for (index, task) in spec.tasks.iter().enumerate() {
        if task.adaptation.is_none() && task.data.validation.is_none() {
            continue;
        }
        judged += 1;
        found.require(task.head == HeadKind::SingleLabel, FIELD, || {
            format!(
                "`{}` looks at probabilities of classes, but tasks[{index}] ({}) has the head `{}`; \
                 expected metric",
                by.as_str(),
                task.name,
                task.head.as_str()
            )
        });
    }
    found.require(judged > 0, FIELD, || {
        format!(
            "`{}` needs samples to look at; give a task `adaptation` or data.validation",
            by.as_str()
        )
    });
}
