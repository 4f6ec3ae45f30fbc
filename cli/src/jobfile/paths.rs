//! Paths in a job: relative ones start from the job file's folder.

use espalier_spec::job::{DataSpec, Descriptions, Files};
use espalier_spec::{JobSpec, Location};
use std::path::{Path, PathBuf};

/// Makes every path of the job absolute. URLs and empty paths stay as they are.
pub(super) fn resolve(spec: &mut JobSpec, folder: &Path) {
    absolute(&mut spec.backbone.path, folder);
    for task in &mut spec.tasks {
        let DataSpec {
            train,
            validation,
            test,
            ..
        } = &mut task.data;
        let target = task.adaptation.as_mut();
        let target = target.map(|adaptation| &mut adaptation.target.train);
        for files in [Some(train), validation.as_mut(), test.as_mut(), target]
            .into_iter()
            .flatten()
        {
            match files {
                Files::One(path) => absolute(path, folder),
                Files::Many(paths) => paths.iter_mut().for_each(|path| absolute(path, folder)),
            }
        }
    }
    for task in &mut spec.tasks {
        if let Some(zero_shot) = &mut task.zero_shot
            && let Descriptions::File(path) = &mut zero_shot.descriptions
        {
            absolute(path, folder);
        }
        if let Some(path) = task.zero_shot.as_mut().and_then(|s| s.vectors.as_mut()) {
            absolute(path, folder);
        }
    }
    if let Some(output) = &mut spec.output {
        absolute(output, folder);
    }
}

fn absolute(path: &mut String, folder: &Path) {
    if path.trim().is_empty() || Location::is_url(path) {
        return;
    }
    let joined = match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => folder.join(&*path),
    };
    // Fails only for an empty path.
    if let Ok(absolute) = std::path::absolute(joined)
        && let Some(text) = absolute.to_str()
    {
        *path = text.to_owned();
    }
}

/// The paths of files and directories that the job reads and that are not on this machine, with
/// the field that names each. Call it after the job's paths were made absolute.
pub(crate) fn missing_files(spec: &JobSpec) -> Vec<(String, String)> {
    let mut missing = Vec::new();
    let mut look = |field: String, path: &str| {
        if !Location::is_url(path) && !Path::new(path).exists() {
            missing.push((field, path.to_owned()));
        }
    };
    look("backbone.path".to_owned(), &spec.backbone.path);
    for (index, task) in spec.tasks.iter().enumerate() {
        let data = &task.data;
        let target = task.adaptation.as_ref();
        let splits = [
            ("data.train", Some(&data.train)),
            ("data.validation", data.validation.as_ref()),
            ("data.test", data.test.as_ref()),
            ("adaptation.target.train", target.map(|a| &a.target.train)),
        ];
        for (split, files) in splits {
            for path in files.into_iter().flat_map(Files::paths) {
                look(format!("tasks[{index}].{split}"), path);
            }
        }
        if let Some(zero_shot) = &task.zero_shot
            && let Descriptions::File(path) = &zero_shot.descriptions
        {
            look(format!("tasks[{index}].zero_shot.descriptions"), path);
        }
        if let Some(path) = task.zero_shot.as_ref().and_then(|s| s.vectors.as_ref()) {
            look(format!("tasks[{index}].zero_shot.vectors"), path);
        }
    }
    missing
}
