//! Job files: YAML text into a checked [`JobSpec`], with every error at its line and column.
//!
//! `serde-saphyr` reads YAML 1.2 with locations, refuses duplicate keys and a second document and
//! bounds aliases; `serde_path_to_error` adds the path of the field. The rules that connect fields
//! are `espalier_spec::check`; `place` finds the line of a field they complain about.

#[cfg(test)]
mod fuzz;
mod overrides;
mod paths;
mod place;
mod problem;

pub(crate) use paths::missing_files;
pub(crate) use problem::Problem;

use crate::error::{Code, Error, Result};
use espalier_spec::JobSpec;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A job file's text and where it is.
pub(crate) struct JobFile {
    /// How the file is called in messages.
    shown: String,
    /// Directory that relative paths in it start from; absolute.
    folder: PathBuf,
    text: String,
}

impl JobFile {
    /// Reads `file`, or standard input if it is `-`.
    ///
    /// # Errors
    /// The file is missing, is a directory, can't be read or is not UTF-8 text.
    pub(crate) fn read(file: &str) -> Result<Self> {
        if file == "-" {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).map_err(|error| {
                Error::failure(format!(
                    "can't read the job file from standard input: {error}"
                ))
            })?;
            let folder = std::env::current_dir().map_err(|error| {
                Error::failure(format!("can't find out the current directory: {error}"))
            })?;
            return Self::new("<stdin>".to_owned(), folder, bytes);
        }
        let bytes = std::fs::read(file).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::new(Code::NotFound, format!("no job file at {file}"))
                    .hint("give the path of a YAML file, or `-` for standard input")
            }
            std::io::ErrorKind::IsADirectory => Error::failure(format!("{file} is a directory"))
                .hint("give the path of the YAML file in it"),
            _ => Error::failure(format!("can't read {file}: {error}")),
        })?;
        let absolute = std::path::absolute(file)
            .map_err(|error| Error::failure(format!("can't make {file} absolute: {error}")))?;
        let folder = absolute.parent().unwrap_or(Path::new("/")).to_path_buf();
        Self::new(file.to_owned(), folder, bytes)
    }

    fn new(shown: String, folder: PathBuf, bytes: Vec<u8>) -> Result<Self> {
        let text = String::from_utf8(bytes).map_err(|error| {
            let good = error.utf8_error().valid_up_to();
            let line = 1 + error.as_bytes()[..good]
                .iter()
                .filter(|&&byte| byte == b'\n')
                .count();
            Error::failure(format!("{shown}:{line}: is not UTF-8 text (byte {good})"))
                .hint("save the file as UTF-8")
        })?;
        Ok(Self {
            shown,
            folder,
            text,
        })
    }

    /// The job in the file with `sets` (`field=value`) applied, paths made absolute and all rules
    /// checked.
    ///
    /// # Errors
    /// Everything that is wrong with it, each at its line; exit code 1.
    pub(crate) fn spec(&self, sets: &[String]) -> Result<JobSpec> {
        // The layout first: what is no YAML at all is not the fault of some field.
        let places = place::Node::parse(&self.text)
            .map_err(|error| self.error(&[Problem::of_yaml("", &error, &self.text)]))?;
        if places.is_empty() {
            return Err(self.error(&[Problem::of_empty_file()]));
        }
        let mut spec = self.parse()?;
        for set in sets {
            spec = overrides::apply(&spec, set)?;
        }
        paths::resolve(&mut spec, &self.folder);
        espalier_spec::check(&spec).map_err(|violations| {
            let problems: Vec<Problem> = violations
                .into_iter()
                .map(|violation| Problem::of_violation(violation, &places))
                .collect();
            self.error(&problems)
        })?;
        Ok(spec)
    }

    /// Reads the YAML and its types; no rules yet.
    fn parse(&self) -> Result<JobSpec> {
        let mut path = String::new();
        let parsed = serde_saphyr::with_deserializer_from_str(&self.text, |deserializer| {
            serde_path_to_error::deserialize::<_, JobSpec>(deserializer).map_err(|error| {
                path = error.path().to_string();
                error.into_inner()
            })
        });
        parsed.map_err(|error| self.error(&[Problem::of_yaml(&path, &error, &self.text)]))
    }

    fn error(&self, problems: &[Problem]) -> Error {
        let mut message = String::new();
        for (index, problem) in problems.iter().enumerate() {
            if index > 0 {
                message.push_str("\n\n");
            }
            message.push_str(&problem.render(&self.shown, &self.text));
        }
        if problems.len() > 1 {
            message = format!("{} problems in {}\n\n{message}", problems.len(), self.shown);
        }
        let hint = match problems {
            [only] => only.hint().map(str::to_owned),
            _ => None,
        };
        Error::failure(message).maybe_hint(hint)
    }
}
