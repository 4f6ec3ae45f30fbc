//! A place that files are copied to and brought back from: what lies below a prefix of an S3 store, or below a
//! directory. A file is there whole or not at all.

use super::remote::{PATIENCE, Remote, Variables};
use super::{Error, Stop};
use espalier_spec::Location;
use espalier_spec::location::shown;
use object_store::{MultipartUpload, ObjectStoreExt as _};
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_stream::StreamExt as _;

/// How often a wait looks whether it was told to stop.
const LOOK: Duration = Duration::from_millis(200);
/// Bytes that are sent at once.
const PART: u64 = 8 << 20;
/// Parts of a file; S3 takes 10 000.
const MOST_PARTS: u64 = 9_000;
/// How long a store has to forget a file that was sent in part.
const LAST: Duration = Duration::from_secs(5);

/// A place that files are copied to and brought back from, until `stop` says so. Names of files have slashes.
pub struct Depot<'a> {
    place: Place,
    stop: Stop<'a>,
}

enum Place {
    Folder(PathBuf),
    Store(Remote),
}

impl<'a> Depot<'a> {
    /// The place of a URL, `s3://BUCKET/PREFIX` or `file:///DIRECTORY`; settings of S3 are those of the environment.
    ///
    /// # Errors
    /// If the URL or the environment leave something open; nothing is asked for yet.
    pub fn open(url: &str, stop: Stop<'a>) -> Result<Self, Error> {
        let wrong = |message: String| Error::Url {
            url: shown(url),
            message,
        };
        let location = Location::parse(url).map_err(wrong)?;
        let place = match &location {
            Location::Path(path) => Place::Folder(PathBuf::from(path)),
            Location::S3 { .. } => {
                let variables = Variables::from_environment();
                Place::Store(Remote::open(url, &location, &variables)?)
            }
            Location::Http(_) => {
                let message = "can be read only; expected s3://BUCKET/PREFIX or file:///DIRECTORY";
                return Err(wrong(message.to_owned()));
            }
        };
        Ok(Self { place, stop })
    }

    #[cfg(test)]
    pub(crate) fn of(
        store: std::sync::Arc<dyn object_store::ObjectStore>,
        path: &str,
        stop: Stop<'a>,
    ) -> Self {
        Self {
            place: Place::Store(Remote::of(store, path)),
            stop,
        }
    }

    /// Names of all files below `folder`, from there on, in no order.
    ///
    /// # Errors
    /// If nobody answers.
    pub async fn list(&self, folder: &str) -> Result<Vec<String>, Error> {
        let remote = match &self.place {
            Place::Folder(dir) => {
                let mut names = Vec::new();
                walk(&dir.join(folder), "", &mut names)?;
                return Ok(names);
            }
            Place::Store(remote) => remote,
        };
        let key = remote.key(folder)?;
        let prefix = format!("{key}/");
        let mut names = Vec::new();
        let mut listed = remote.store().list(Some(&key));
        loop {
            let next = async { listed.next().await.transpose() };
            let Some(meta) = self.within(remote, PATIENCE, next).await? else {
                return Ok(names);
            };
            let name = meta.location.to_string();
            names.extend(name.strip_prefix(&prefix).map(str::to_owned));
        }
    }

    /// Puts a file there under a name, in place of what is there, from where it is read next.
    ///
    /// # Errors
    /// If it can't be read or the place doesn't take it.
    pub async fn put(&self, name: &str, file: &mut File) -> Result<(), Error> {
        match &self.place {
            Place::Folder(dir) => self.keep(&dir.join(name), file),
            Place::Store(remote) => {
                let sent = self.send(remote, name, file).await;
                sent.map_err(Error::of_writing)
            }
        }
    }

    /// Brings a file back, durable, to a path on this machine.
    ///
    /// # Errors
    /// If it isn't there, nobody answers, or it can't be written here.
    pub async fn get(&self, name: &str, to: &Path) -> Result<(), Error> {
        let write = Error::file("write", to);
        let mut file = File::create(to).map_err(&write)?;
        match &self.place {
            Place::Folder(dir) => {
                let from = dir.join(name);
                let mut source = File::open(&from).map_err(Error::file("read", &from))?;
                self.copy((&mut source, from.as_path()), (&mut file, to))?;
            }
            Place::Store(remote) => {
                let key = remote.key(name)?;
                let got = remote.store().get(&key);
                let got = self.within(remote, PATIENCE, got).await?;
                let (mut found, expected) = (0, got.meta.size);
                let mut stream = got.into_stream();
                loop {
                    let next = async { stream.next().await.transpose() };
                    let Some(chunk) = self.within(remote, PATIENCE, next).await? else {
                        break;
                    };
                    file.write_all(&chunk).map_err(&write)?;
                    found += chunk.len() as u64;
                }
                if found != expected {
                    return Err(Error::Cut {
                        url: format!("{}/{name}", remote.url),
                        found,
                        expected,
                    });
                }
            }
        }
        file.sync_all().map_err(&write)
    }

    /// Removes a file; fine if it isn't there.
    ///
    /// # Errors
    /// If the place doesn't let it go.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        let remote = match &self.place {
            Place::Folder(dir) => {
                let path = dir.join(name);
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Err(Error::file("remove", &path)(error));
                    }
                    _ => {}
                }
                if let Some(folder) = path.parent() {
                    // Succeeds with the last file of a folder.
                    let _ = fs::remove_dir(folder);
                }
                return Ok(());
            }
            Place::Store(remote) => remote,
        };
        let key = remote.key(name)?;
        let removed = remote.store().delete(&key);
        match self.within(remote, PATIENCE, removed).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.of_writing()),
        }
    }

    async fn send(&self, remote: &Remote, name: &str, file: &mut File) -> Result<(), Error> {
        let key = remote.key(name)?;
        let read = Error::file("read", Path::new(name));
        let size = file.metadata().map_err(&read)?.len();
        if size <= PART {
            let bytes = take(file, size).map_err(&read)?;
            let put = remote.store().put(&key, bytes.into());
            self.within(remote, PATIENCE, put).await?;
            return Ok(());
        }
        let begun = remote.store().put_multipart(&key);
        let mut upload = self.within(remote, PATIENCE, begun).await?;
        let sent = self
            .send_parts(remote, &mut *upload, (file, size), &read)
            .await;
        if sent.is_err() {
            // Else the store keeps, and bills, what nobody will ever ask for.
            let _ = tokio::time::timeout(LAST, upload.abort()).await;
        }
        sent
    }

    async fn send_parts(
        &self,
        remote: &Remote,
        upload: &mut dyn MultipartUpload,
        (file, size): (&mut File, u64),
        read: &dyn Fn(std::io::Error) -> Error,
    ) -> Result<(), Error> {
        let part = PART.max(size.div_ceil(MOST_PARTS));
        // Silence is not seen within a part, so a larger one has longer.
        let patience = PATIENCE.saturating_mul(part.div_ceil(PART) as u32);
        let mut left = size;
        while left > 0 {
            let bytes = take(file, left.min(part)).map_err(read)?;
            left -= bytes.len() as u64;
            let put = upload.put_part(bytes.into());
            self.within(remote, patience, put).await?;
        }
        self.within(remote, PATIENCE, upload.complete()).await?;
        Ok(())
    }

    /// Writes a file of a directory under another name first.
    fn keep(&self, to: &Path, file: &mut File) -> Result<(), Error> {
        let folder = to.parent().unwrap_or(to);
        fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        let part = folder.join(format!(".{name}.part"));
        let write = Error::file("write", &part);
        let mut target = File::create(&part).map_err(&write)?;
        self.copy((file, to), (&mut target, part.as_path()))?;
        target.sync_all().map_err(&write)?;
        fs::rename(&part, to).map_err(Error::file("write", to))?;
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(Error::file("sync", folder))
    }

    fn copy(
        &self,
        (from, source): (&mut File, &Path),
        (to, target): (&mut File, &Path),
    ) -> Result<(), Error> {
        loop {
            if (self.stop)() {
                return Err(Error::Stopped);
            }
            let mut bytes = Vec::new();
            let read = std::io::Read::by_ref(from)
                .take(PART)
                .read_to_end(&mut bytes);
            read.map_err(Error::file("read", source))?;
            if bytes.is_empty() {
                return Ok(());
            }
            let written = to.write_all(&bytes);
            written.map_err(Error::file("write", target))?;
        }
    }

    /// The store's answer, unless it takes too long or the wait is ended.
    async fn within<T>(
        &self,
        remote: &Remote,
        patience: Duration,
        answer: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Error> {
        let mut answer = std::pin::pin!(answer);
        let mut waited = Duration::ZERO;
        while waited < patience {
            if (self.stop)() {
                return Err(Error::Stopped);
            }
            match tokio::time::timeout(LOOK, answer.as_mut()).await {
                Ok(answer) => return answer.map_err(|cause| remote.error(cause)),
                Err(_) => waited += LOOK,
            }
        }
        Err(remote.silent())
    }
}

/// The next bytes of a file, exactly so many.
fn take(file: &mut File, length: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Adds the files below a directory, which need not be there.
fn walk(dir: &Path, above: &str, names: &mut Vec<String>) -> Result<(), Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::file("list", dir)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(Error::file("list", dir))?;
        let name = format!("{above}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            walk(&entry.path(), &format!("{name}/"), names)?;
        } else {
            names.push(name);
        }
    }
    Ok(())
}
