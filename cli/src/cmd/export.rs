//! `espalier export`: the exported model of a job.

use crate::Outcome;
use crate::client::Client;
use crate::error::{Code, Error, Result};
use crate::output::{Context, text};
use crate::view::{Job, state_name};
use espalier_proto::v1::job::State;
use serde::Serialize;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  espalier export packages                 say where the model is
  espalier export packages --to model      copy it: a Hugging Face directory
  espalier predict --model \"$(espalier export packages)\"";

/// Copy a job's exported model, or say where it is
///
/// The model is a directory on the worker of rank 0. It can be copied from here only if this
/// machine sees the same files.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Name of the job
    job: String,
    /// Directory to copy it to; must not exist or be empty
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

#[derive(Serialize)]
struct Answer {
    job: String,
    path: String,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Outcome {
    let mut client = Client::connect(context).await?;
    let job = Job::read(client.job(&args.job).await?)?;
    if job.export_path.is_empty() {
        let hint = match job.state {
            State::Failed | State::Cancelled => "it has ended without one",
            _ => "it is exported when the job has succeeded; `espalier watch` follows it there",
        };
        return Err(Error::new(
            Code::Conflict,
            format!(
                "job {} is {} and has no exported model",
                job.name,
                state_name(job.state)
            ),
        )
        .hint(hint));
    }
    let Some(to) = &args.to else {
        let answer = Answer {
            job: job.name,
            path: job.export_path,
        };
        // A program gets the path as it is; the coordinator's text steers no terminal.
        context.answer(&answer, |screen| match screen.terminal {
            true => text::plain(&answer.path),
            false => answer.path.clone(),
        })?;
        return Ok(Code::Ok);
    };
    let from = Path::new(&job.export_path);
    if !from.is_dir() {
        let seat = job.plan.as_ref().and_then(|plan| plan.seats.first());
        let place = seat.map_or("a worker".to_owned(), |seat| {
            format!("worker {}", seat.worker)
        });
        return Err(Error::new(
            Code::NotFound,
            format!(
                "the model is in {} on {place}, which this machine can't see",
                from.display()
            ),
        )
        .hint("copy it from there, or set `output` in the job file to a shared directory"));
    }
    let files = copy(from, to)?;
    let path = std::path::absolute(to).unwrap_or_else(|_| to.clone());
    let answer = Answer {
        job: job.name,
        path: path.display().to_string(),
    };
    context.answer(&answer, |_| {
        format!("copied {files} files to {}", to.display())
    })?;
    Ok(Code::Ok)
}

/// Copies a directory into a sibling of `to` and renames it, so that `to` is whole or absent.
/// Answers the number of files.
fn copy(from: &Path, to: &Path) -> Result<u64> {
    let failed = |path: &Path, error: std::io::Error| {
        Error::failure(format!("can't copy to {}: {error}", path.display()))
    };
    match std::fs::read_dir(to).map(|mut entries| entries.next().is_none()) {
        Ok(true) => std::fs::remove_dir(to).map_err(|error| failed(to, error))?,
        Ok(false) => {
            return Err(
                Error::new(Code::Conflict, format!("{} is not empty", to.display()))
                    .hint("choose another directory"),
            );
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(to, error)),
    }
    let absolute = std::path::absolute(to).map_err(|error| failed(to, error))?;
    let parent = absolute.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).map_err(|error| failed(to, error))?;
    let name = absolute
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let part = parent.join(format!(".{name}.part-{}", std::process::id()));
    let copied = copy_tree(from, &part).and_then(|files| {
        std::fs::rename(&part, &absolute)?;
        Ok(files)
    });
    copied.map_err(|error| {
        // What is left of a failed copy is of no use.
        let _ = std::fs::remove_dir_all(&part);
        failed(to, error)
    })
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<u64> {
    std::fs::create_dir_all(to)?;
    let mut files = 0;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            files += copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
            files += 1;
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::copy;

    #[test]
    fn a_copy_is_whole_or_absent() {
        // Subdirectories are copied too; a directory with something in it is never written to.
        let folder = tempfile::tempdir().expect("a temporary folder");
        let from = folder.path().join("from");
        std::fs::create_dir_all(from.join("heads")).expect("made");
        std::fs::write(from.join("config.json"), "{}").expect("written");
        std::fs::write(from.join("heads/a.safetensors"), "x").expect("written");
        let to = folder.path().join("a/b/to");
        assert_eq!(copy(&from, &to).expect("copied"), 2);
        assert_eq!(
            std::fs::read_to_string(to.join("heads/a.safetensors")).expect("there"),
            "x"
        );
        let error = copy(&from, &to).expect_err("refused");
        assert!(error.to_string().contains("is not empty"), "{error}");
        let left: Vec<_> = std::fs::read_dir(to.parent().expect("a parent"))
            .expect("read")
            .collect();
        assert_eq!(left.len(), 1);
    }
}
