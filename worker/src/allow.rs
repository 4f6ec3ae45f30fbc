//! What files of this machine and which stores a job may name: where `--allow-path` and `--allow-url` say
//! so, nothing else.
//!
//! A path is looked at as the system would follow it: links and `..` are resolved first, and what is opened
//! is what was looked at. A job that names anything else is refused before it reads anything; a sample
//! that does is refused when it is read.

use espalier_spec::job::{Descriptions, Files};
use espalier_spec::location::shown;
use espalier_spec::report::Failure;
use espalier_spec::{JobSpec, Location};
use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{Error as IoError, ErrorKind};
use std::path::{Path, PathBuf};

/// Levels of a directory whose entries are looked at.
const LEVELS: usize = 3;
/// Entries of a model's directory that are looked at.
const ENTRIES: usize = 10_000;

/// What jobs may name, as told on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Allowed {
    /// Directory that jobs may name files and directories in; may be repeated. Default: any.
    #[arg(
        long = "allow-path",
        value_name = "DIR",
        env = "ESPALIER_ALLOW_PATHS",
        value_delimiter = ',',
        value_parser = root
    )]
    paths: Vec<PathBuf>,
    /// URL such as s3://BUCKET/PREFIX that jobs may name what is below of; may be repeated. Default: any.
    #[arg(
        long = "allow-url",
        value_name = "PREFIX",
        env = "ESPALIER_ALLOW_URLS",
        value_delimiter = ',',
        value_parser = prefix
    )]
    urls: Vec<String>,
    /// Let jobs bring TorchScript modules: programs that can read and write whatever this worker can, where
    /// else they could name only some paths or URLs.
    #[arg(long = "allow-modules", env = "ESPALIER_ALLOW_MODULES")]
    modules: bool,
}

/// Directories that files may lie in; none: anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots(Vec<PathBuf>);

/// A job names what this worker lets no job use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Forbidden {
    /// The field of the job file.
    pub field: String,
    /// What it names, why that is not allowed and what is.
    pub message: String,
}

impl Forbidden {
    /// As the coordinator and people are told.
    #[must_use]
    pub fn failure(&self) -> Failure {
        Failure {
            code: "not_allowed".to_owned(),
            message: self.to_string(),
            retryable: false,
            lost: None,
        }
    }
}

impl Allowed {
    /// Looks at every path and URL that a job names.
    ///
    /// # Errors
    /// The first that is not allowed.
    pub fn check(&self, spec: &JobSpec) -> Result<(), Forbidden> {
        let roots = Roots(self.paths.clone());
        for (field, text) in named(spec) {
            let checked = match Location::parse(text) {
                _ if field == "output" => roots.find(Path::new(text)).map(drop),
                Ok(Location::Path(path)) => roots.whole(Path::new(&path)),
                Ok(Location::S3 { .. } | Location::Http(_)) => self.url(text),
                // Whoever opens it says what is wrong with it.
                Err(_) => Ok(()),
            };
            checked.map_err(|message| Forbidden { field, message })?;
        }
        Ok(())
    }

    /// Whether jobs may bring TorchScript modules. They are programs, which no path holds back: by default only
    /// where jobs may name everything.
    #[must_use]
    pub fn modules(&self) -> bool {
        self.modules || (self.paths.is_empty() && self.urls.is_empty())
    }

    /// Where samples may name files: what is fetched lies in `cache`.
    #[must_use]
    pub fn of_samples(&self, cache: &Path) -> Roots {
        let mut roots = self.paths.clone();
        if !roots.is_empty() {
            roots.extend(cache.canonicalize());
        }
        Roots(roots)
    }

    fn url(&self, url: &str) -> Result<(), String> {
        if self.urls.is_empty() || self.urls.iter().any(|prefix| below(url, prefix)) {
            return Ok(());
        }
        Err(format!(
            "{} is not below what this worker lets jobs use (--allow-url: {})",
            shown(url),
            self.urls.join(", ")
        ))
    }
}

impl Roots {
    /// The file that a path stands for, without links and `..`.
    ///
    /// # Errors
    /// It lies elsewhere, or nobody can say where; in words that name it.
    pub fn find<'a>(&self, path: &'a Path) -> Result<Cow<'a, Path>, String> {
        if self.0.is_empty() {
            return Ok(Cow::Borrowed(path));
        }
        let found = resolved(path).map_err(|cause| {
            format!(
                "{} cannot be followed to where it lies: {cause}; with --allow-path, only what can be is read",
                path.display()
            )
        })?;
        if self.0.iter().any(|root| found.starts_with(root)) {
            return Ok(Cow::Owned(found));
        }
        let at = match found == path {
            true => String::new(),
            false => format!(" (which is {})", found.display()),
        };
        let roots: Vec<String> = self.0.iter().map(|r| r.display().to_string()).collect();
        Err(format!(
            "{}{at} is not in what this worker lets jobs read (--allow-path: {})",
            path.display(),
            roots.join(", ")
        ))
    }

    /// The same of a path and, where it is a directory, of what links in it lead to.
    fn whole(&self, path: &Path) -> Result<(), String> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut left = ENTRIES;
        self.below(&self.find(path)?, LEVELS, &mut left)
    }

    fn below(&self, place: &Path, levels: usize, left: &mut usize) -> Result<(), String> {
        // No directory, or none that anybody reads: that is said by whoever opens it.
        let Ok(entries) = std::fs::read_dir(place) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            *left = left.checked_sub(1).ok_or_else(|| {
                format!(
                    "{} has more than {ENTRIES} entries, too many to look at; name a directory that holds the model \
                     alone",
                    place.display()
                )
            })?;
            let entry = entry.path();
            let found = self.find(&entry)?;
            if levels > 1 {
                self.below(&found, levels - 1, left)?;
            }
        }
        Ok(())
    }
}

/// Every path or URL that a job names, with its field.
fn named(spec: &JobSpec) -> Vec<(String, &str)> {
    let mut named = vec![("backbone.path".to_owned(), spec.backbone.path.as_str())];
    for (number, task) in spec.tasks.iter().enumerate() {
        let data = &task.data;
        let target = task.adaptation.as_ref();
        let splits = [
            ("data.train", Some(&data.train)),
            ("data.validation", data.validation.as_ref()),
            ("data.test", data.test.as_ref()),
            (
                "adaptation.target.train",
                target.map(|adaptation| &adaptation.target.train),
            ),
        ];
        let field = |name: &str| format!("tasks[{number}].{name}");
        for (name, files) in splits {
            match files {
                None => {}
                Some(Files::One(path)) => named.push((field(name), path.as_str())),
                Some(Files::Many(paths)) => {
                    let each = paths.iter().enumerate();
                    let each =
                        each.map(|(n, path)| (format!("{}[{n}]", field(name)), path.as_str()));
                    named.extend(each);
                }
            }
        }
        if let Some(zero_shot) = &task.zero_shot {
            if let Descriptions::File(path) = &zero_shot.descriptions {
                named.push((field("zero_shot.descriptions"), path.as_str()));
            }
            if let Some(path) = &zero_shot.vectors {
                named.push((field("zero_shot.vectors"), path.as_str()));
            }
        }
    }
    if let Some(path) = &spec.output {
        named.push(("output".to_owned(), path.as_str()));
    }
    if let Some(url) = &spec.checkpoint.upload {
        named.push(("checkpoint.upload".to_owned(), url.as_str()));
    }
    named
}

/// A path without links and `..`; its end need not be there yet.
fn resolved(path: &Path) -> Result<PathBuf, IoError> {
    let absolute = std::path::absolute(path)?;
    let mut at = absolute.as_path();
    let mut rest: Vec<OsString> = Vec::new();
    loop {
        match at.canonicalize() {
            Ok(mut found) => {
                found.extend(rest.iter().rev());
                return Ok(found);
            }
            Err(cause) if cause.kind() == ErrorKind::NotFound => {
                if at.is_symlink() {
                    return Err(IoError::new(ErrorKind::NotFound, "a link to nothing"));
                }
                // None: `..` behind what is not there, which may be anywhere once it is.
                let (Some(name), Some(parent)) = (at.file_name(), at.parent()) else {
                    return Err(cause);
                };
                rest.push(name.to_owned());
                at = parent;
            }
            Err(cause) => return Err(cause),
        }
    }
}

/// Reads a directory of `--allow-path`.
fn root(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text.trim());
    let found = path
        .canonicalize()
        .map_err(|cause| format!("{cause}; expected a directory of this machine"))?;
    match found.is_dir() {
        true => Ok(found),
        false => Err("is no directory".to_owned()),
    }
}

/// Reads a prefix of `--allow-url`.
fn prefix(text: &str) -> Result<String, String> {
    let text = text.trim();
    let parts = parts(text).filter(|(scheme, host, path)| {
        matches!(scheme.as_str(), "s3" | "http" | "https") && !host.is_empty() && !climbs(path)
    });
    match parts {
        Some(_) if !text.contains(['?', '#', '@']) => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err("expected a URL such as s3://BUCKET/PREFIX or https://HOST/PREFIX".to_owned()),
    }
}

/// Scheme, host and path of a URL, the path without a query.
fn parts(url: &str) -> Option<(String, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let path = path.split(['?', '#']).next().unwrap_or(path);
    Some((scheme.to_ascii_lowercase(), host, path))
}

/// Whether a URL is `prefix` or below it. Letters count as they are: a host that is written otherwise, or
/// with a user, is another one.
fn below(url: &str, prefix: &str) -> bool {
    let (Some((scheme, host, path)), Some((of, from, above))) = (parts(url), parts(prefix)) else {
        return false;
    };
    let above = above.trim_end_matches('/');
    let rest = path.strip_prefix(above);
    let inside = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    scheme == of && host == from && inside && !climbs(path)
}

/// Whether a path has `.` or `..` in it, also where a server would only find it there.
fn climbs(path: &str) -> bool {
    let mut plain = path.to_ascii_lowercase();
    for (code, letter) in [("%2e", "."), ("%2f", "/"), ("%5c", "/"), ("\\", "/")] {
        plain = plain.replace(code, letter);
    }
    plain.split('/').any(|name| name == "." || name == "..")
}

#[cfg(test)]
mod tests;
