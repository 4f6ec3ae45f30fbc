//! Fetched files. An entry is a directory that is named by what the store says of its files (URL,
//! name, ETag, size, time of change) and holds them all, whole: it was fetched under another name,
//! synced and renamed. So is each file in it, so that whoever goes on after a stop need not begin again.
//! Who fetches holds a lock, which the system lets go of when its holder dies.

use super::remote::{Object, PATIENCE, Remote};
use super::{Error, Stop, What};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_stream::StreamExt as _;

/// How often a wait looks whether the job was told to stop.
const LOOK: Duration = Duration::from_millis(200);

/// Where fetched files are kept.
pub(super) struct Cache<'a> {
    dir: &'a Path,
    stop: Stop<'a>,
}

impl<'a> Cache<'a> {
    pub(super) fn new(dir: &'a Path, stop: Stop<'a>) -> Self {
        Self { dir, stop }
    }

    /// The path of a file or directory, which is fetched if it isn't here, and its version: the same on
    /// all machines that have the same bytes of the same store.
    ///
    /// # Errors
    /// If it can't be fetched or kept.
    pub(super) async fn bring(
        &self,
        remote: &Remote,
        what: What,
    ) -> Result<(PathBuf, String), Error> {
        let objects = remote.objects(what).await?;
        let (entry, version) = self.entry(remote, &objects).await?;
        let path = match (what, objects.first()) {
            (What::File, Some(object)) => entry.join(&object.name),
            _ => entry,
        };
        Ok((path, version))
    }

    async fn entry(&self, remote: &Remote, objects: &[Object]) -> Result<(PathBuf, String), Error> {
        // Of a store that says nothing but a size nobody knows whether the bytes are the same.
        let is_steady = objects.iter().all(Object::is_steady);
        let key = key(&remote.identity, objects);
        // Without the server's address, which need not be the same on all machines.
        let version = self::key("", objects);
        let entry = self.dir.join(&key);
        if is_steady && entry.is_dir() {
            return Ok((entry, version));
        }
        std::fs::create_dir_all(self.dir).map_err(Error::cache(self.dir))?;
        let _lock = self.lock(remote, &key).await?;
        if is_steady && entry.is_dir() {
            return Ok((entry, version));
        }
        let part = self.dir.join(format!("{key}.part"));
        let new = self.dir.join(format!("{key}.new"));
        // What somebody left who stopped or died over it: whole files have the bytes that are meant, if the
        // key says which.
        if part.exists() {
            let cleared = match is_steady {
                true => keep_whole(&part, "", objects),
                false => std::fs::remove_dir_all(&part),
            };
            cleared.map_err(Error::cache(&part))?;
        }
        std::fs::create_dir_all(&part).map_err(Error::cache(&part))?;
        let bytes: u64 = objects.iter().map(|object| object.meta.size).sum();
        tracing::info!(url = remote.url, bytes, "fetching");
        let mut content = blake3::Hasher::new();
        for object in objects {
            let file = part.join(&object.name);
            if file.exists() {
                continue;
            }
            let fetched = self.fetch(remote, object, &new, &mut content).await;
            if let Err(error) = fetched.and_then(|()| settle(&new, &file)) {
                // Bytes that nobody will read; if they can't be removed, the next one removes them.
                let _ = std::fs::remove_file(&new);
                let useless = matches!(error, Error::Cache { .. } | Error::Changed { .. });
                let _ = match is_steady && !useless {
                    // Fails while there are whole files in it: they are for the next one.
                    true => std::fs::remove_dir(&part),
                    false => std::fs::remove_dir_all(&part),
                };
                return Err(error);
            }
        }
        let (entry, version) = match is_steady {
            true => (entry, version),
            false => {
                let content = short(&content);
                (self.dir.join(format!("{key}-{content}")), content)
            }
        };
        if entry.is_dir() {
            std::fs::remove_dir_all(&part).map_err(Error::cache(&part))?;
            return Ok((entry, version));
        }
        sync(&part)?;
        std::fs::rename(&part, &entry).map_err(Error::cache(&entry))?;
        sync(self.dir)?;
        tracing::info!(url = remote.url, path = %entry.display(), "fetched");
        Ok((entry, version))
    }

    /// Waits until nobody else fetches this entry.
    async fn lock(&self, remote: &Remote, key: &str) -> Result<File, Error> {
        let path = self.dir.join(format!("{key}.lock"));
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true);
        let file = options.open(&path).map_err(Error::cache(&path))?;
        let mut waits = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(cause)) => return Err(Error::cache(&path)(cause)),
            }
            if (self.stop)() {
                return Err(Error::Stopped);
            }
            if !waits {
                waits = true;
                tracing::info!(url = remote.url, "waiting: another worker is fetching it");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn fetch(
        &self,
        remote: &Remote,
        object: &Object,
        to: &Path,
        content: &mut blake3::Hasher,
    ) -> Result<(), Error> {
        let mut stream = remote.get(&object.meta).await?.into_stream();
        let mut file = File::create(to).map_err(Error::cache(to))?;
        let (mut found, mut silence) = (0, Duration::ZERO);
        loop {
            if (self.stop)() {
                return Err(Error::Stopped);
            }
            match tokio::time::timeout(LOOK, stream.next()).await {
                Err(_) => {
                    silence += LOOK;
                    if silence >= PATIENCE {
                        return Err(remote.silent());
                    }
                }
                Ok(None) => break,
                Ok(Some(chunk)) => {
                    let chunk = chunk.map_err(|cause| remote.error(cause))?;
                    file.write_all(&chunk).map_err(Error::cache(to))?;
                    content.update(&chunk);
                    found += chunk.len() as u64;
                    silence = Duration::ZERO;
                }
            }
        }
        if found != object.meta.size {
            return Err(Error::Cut {
                url: remote.url.clone(),
                found,
                expected: object.meta.size,
            });
        }
        file.sync_all().map_err(Error::cache(to))
    }
}

/// Gives a file that is whole and synced its name.
fn settle(new: &Path, file: &Path) -> Result<(), Error> {
    let folder = file.parent().unwrap_or(file);
    std::fs::create_dir_all(folder).map_err(Error::cache(folder))?;
    std::fs::rename(new, file).map_err(Error::cache(file))?;
    sync(folder)
}

/// Removes all files below a directory but those that are whole; `above` is what names in it begin with.
fn keep_whole(dir: &Path, above: &str, objects: &[Object]) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let found = entry.metadata()?;
        let name = format!("{above}{}", entry.file_name().to_string_lossy());
        let is_whole = |object: &Object| object.name == name && object.meta.size == found.len();
        if found.is_dir() {
            keep_whole(&entry.path(), &format!("{name}/"), objects)?;
        } else if !objects.iter().any(is_whole) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes names in a directory durable.
fn sync(dir: &Path) -> Result<(), Error> {
    let opened = File::open(dir).and_then(|dir| dir.sync_all());
    opened.map_err(Error::cache(dir))
}

/// One digest of the versions of several files, in order; empty if there are none.
pub(super) fn digest(versions: &[String]) -> String {
    if versions.is_empty() {
        return String::new();
    }
    let mut hasher = blake3::Hasher::new();
    for version in versions {
        // All are of one length: no two lists are the same bytes.
        hasher.update(version.as_bytes());
    }
    short(&hasher)
}

/// Name of an entry: everything that says which bytes are meant.
fn key(identity: &str, objects: &[Object]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |part: &str| {
        // The length in front: no two lists of parts are the same bytes.
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    };
    add(identity);
    for Object { name, meta } in objects {
        add(name);
        add(meta.e_tag.as_deref().unwrap_or_default());
        add(&meta.size.to_string());
        add(&meta.last_modified.timestamp_millis().to_string());
    }
    short(&hasher)
}

fn short(hasher: &blake3::Hasher) -> String {
    hasher.finalize().to_hex().chars().take(32).collect()
}
