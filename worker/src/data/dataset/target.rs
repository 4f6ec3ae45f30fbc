//! The samples of another domain that a task learns from without labels.

use super::{Modality, Shelf, Split, SplitReader};
use crate::data::source::Wanted;
use crate::data::{Error, LabelSet, Labels};
use espalier_spec::job::{HeadKind, TaskSpec};
use std::sync::Arc;

/// Name of the split.
pub(super) const NAME: &str = "target";

/// Reads the target of a task; none if it has none. A column of labels need not be there. Where it is,
/// its labels must be among the task's classes `labels`; they are not kept.
///
/// # Errors
/// As for the task's other files.
pub(super) fn read(
    task: &TaskSpec,
    modality: &Modality,
    (wanted, shelf): (Wanted<'_>, &mut Shelf),
    labels: &LabelSet,
) -> Result<Option<Split>, Error> {
    let Some(adaptation) = &task.adaptation else {
        return Ok(None);
    };
    let paths = adaptation.target.train.paths();
    let mut read = |wanted, labelled| {
        let reader = SplitReader {
            task,
            modality,
            wanted,
            known: Some(labels),
            limit: None,
            name: NAME,
            labelled,
        };
        shelf.read(reader, paths)
    };
    // Reads a column that is there in any case, and forgets it.
    let bare = Wanted {
        label: wanted.input,
        ..wanted
    };
    let found = match task.head {
        HeadKind::SingleLabel | HeadKind::MultiLabel => match read(wanted, true) {
            Err(Error::Column { wanted: column, .. }) if column == wanted.label => {
                read(bare, false)
            }
            found => found,
        },
        _ => read(bare, false),
    };
    let (mut split, _) = found?;
    split.labels = Labels::Unlabelled(split.len());
    split.missing = Arc::default();
    Ok(Some(split))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::MediaReader;
    use serde_json::json;
    use std::path::Path;

    fn load(dir: &Path, target: &str) -> Result<Option<usize>, String> {
        let image =
            |value: f32, label: &str| format!("{{\"image\": [{value}], \"label\": \"{label}\"}}\n");
        let source = [image(0.5, "cat"), image(0.25, "dog")].concat();
        std::fs::write(dir.join("source.jsonl"), source).unwrap();
        std::fs::write(dir.join("target.jsonl"), target).unwrap();
        let task = json!({
            "name": "animal", "head": "single_label", "data": {"train": dir.join("source.jsonl")},
            "adaptation": {"method": "coral", "target": {"train": dir.join("target.jsonl")}},
        });
        let task = serde_json::from_value(task).unwrap();
        let reader = MediaReader::load(dir, [1, 1, 1]).unwrap();
        let data = super::super::load(&task, &Modality::Media(Arc::new(reader)));
        let data = data.map_err(|error| error.to_string())?;
        let target = data.target;
        assert!(
            target
                .iter()
                .all(|split| matches!(split.labels, Labels::Unlabelled(_)))
        );
        Ok(target.map(|split| split.len()))
    }

    // Promise: the target needs no labels and keeps none; labels of other classes are told, with file
    // and row.
    #[test]
    fn the_target_needs_no_labels() {
        let folder = tempfile::tempdir().unwrap();
        let load = |text| load(folder.path(), text);
        let bare = "{\"image\": [1.0]}\n{\"image\": [0.0]}\n{\"image\": [0.0]}\n";
        assert_eq!(load(bare), Ok(Some(3)));
        assert_eq!(
            load("{\"image\": [1.0], \"label\": \"dog\"}\n"),
            Ok(Some(1))
        );
        assert_eq!(load("{\"image\": [1.0], \"label\": null}\n"), Ok(Some(1)));
        let error = load("{\"image\": [1.0], \"label\": \"fish\"}\n").unwrap_err();
        assert!(
            error.contains("task animal, target data") && error.contains("fish"),
            "{error}"
        );
    }
}
