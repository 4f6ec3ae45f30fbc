//! Files of a job that lie elsewhere: brought to this machine once, before the job is prepared.
//!
//! [`bring`] gives back the job with paths in place of URLs, so that nothing else knows there were
//! any, and a digest that tells whether workers which fetched each for itself have the same. `remote`
//! talks to the store of a URL, `cache` keeps what was fetched, and `error` says what went wrong. `depot` is a place
//! that files are put into, too.

mod cache;
mod depot;
mod error;
mod remote;

pub use depot::Depot;
pub use error::Error;

use cache::Cache;
use espalier_spec::job::{DataSpec, Descriptions, Files};
use espalier_spec::location::shown;
use espalier_spec::{JobSpec, Location};
use remote::{Remote, Variables};
use std::collections::BTreeMap;
use std::path::Path;

/// Says whether the job was told to stop.
pub type Stop<'a> = &'a dyn Fn() -> bool;

/// What a URL stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    File,
    /// The model: everything right below a prefix, and its learned prompt and prefix.
    Directory,
}

/// A job whose files are on this machine.
#[derive(Debug)]
pub struct Brought {
    /// The job with a path in place of every URL.
    pub spec: JobSpec,
    /// Digest of the versions of the files that were fetched, in the job's order; empty if there are none.
    pub fetched: String,
}

/// Brings the files of a job's URLs to this machine. What is not there yet is fetched into `cache`; workers
/// that share it fetch nothing twice. Settings of S3 are those of the environment.
///
/// # Errors
/// Names the URL, what is wrong, and what to do; [`Error::Stopped`] once `stop` says so.
pub fn bring(spec: &JobSpec, cache: &Path, stop: Stop<'_>) -> Result<Brought, Error> {
    let variables = Variables::from_environment();
    bring_with(spec, &Cache::new(cache, stop), &variables)
}

fn bring_with(spec: &JobSpec, cache: &Cache<'_>, variables: &Variables) -> Result<Brought, Error> {
    let mut local = spec.clone();
    let mut versions = Vec::new();
    // All tasks that name a URL read the same bytes, even if they change while this runs.
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for (place, what) in places(&mut local) {
        let found = match known.get(place.as_str()) {
            Some(found) => found.clone(),
            None => {
                let (found, version) = find(place, what, cache, variables)?;
                versions.extend(version);
                found
            }
        };
        known.insert(place.clone(), found.clone());
        *place = found;
    }
    Ok(Brought {
        spec: local,
        fetched: cache::digest(&versions),
    })
}

/// Every path or URL of a file that workers read.
fn places(spec: &mut JobSpec) -> Vec<(&mut String, What)> {
    let mut places = vec![(&mut spec.backbone.path, What::Directory)];
    for task in &mut spec.tasks {
        let DataSpec {
            train,
            validation,
            test,
            ..
        } = &mut task.data;
        let target = task.adaptation.as_mut();
        let target = target.map(|adaptation| &mut adaptation.target.train);
        let splits = [Some(train), validation.as_mut(), test.as_mut(), target];
        for files in splits.into_iter().flatten() {
            match files {
                Files::One(path) => places.push((path, What::File)),
                Files::Many(paths) => {
                    places.extend(paths.iter_mut().map(|path| (path, What::File)));
                }
            }
        }
        if let Some(zero_shot) = &mut task.zero_shot {
            if let Descriptions::File(path) = &mut zero_shot.descriptions {
                places.push((path, What::File));
            }
            if let Some(path) = &mut zero_shot.vectors {
                places.push((path, What::File));
            }
        }
    }
    places
}

/// The path of a file, and its version if it was fetched.
fn find(
    text: &str,
    what: What,
    cache: &Cache<'_>,
    variables: &Variables,
) -> Result<(String, Option<String>), Error> {
    let wrong = |message: String| Error::Url {
        url: shown(text),
        message,
    };
    let location = Location::parse(text).map_err(wrong)?;
    if let Location::Path(path) = location {
        return Ok((path, None));
    }
    let remote = Remote::open(text, &location, variables)?;
    // Few URLs, once per job: a runtime for each costs nothing that anybody would see.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| wrong(format!("cannot be fetched: no threads for it: {cause}")))?;
    let (path, version) = runtime.block_on(cache.bring(&remote, what))?;
    match path.to_str() {
        Some(path) => Ok((path.to_owned(), Some(version))),
        None => Err(wrong(format!(
            "cannot be kept in {}, whose name is no UTF-8; give another --data-dir",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests;
