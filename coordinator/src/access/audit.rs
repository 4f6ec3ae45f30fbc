//! The audit log: who did what, when, from where, and what came of it; a line of JSON per call.
//!
//! Tokens, cookies and messages are not at hand here, so none can get into it.

use super::{AccessError, Principal, now};
use espalier_proto::time;
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The log.
#[derive(Debug)]
pub(super) struct Audit {
    file: Mutex<File>,
    path: String,
    /// Whether calls that only read are written down.
    pub(super) reads: bool,
}

/// Bytes of a name that are written: callers choose them, and they must not fill the disk.
const NAME: usize = 256;

/// One call.
#[derive(Debug, Serialize)]
struct Line<'a> {
    time: String,
    principal: &'a str,
    method: &'a str,
    role: &'a str,
    address: &'a str,
    call: &'a str,
    object: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
}

/// What is known of a call when it has been answered.
pub(super) struct Entry<'a> {
    /// None: it was not found out who called.
    pub(super) principal: Option<&'a Principal>,
    pub(super) address: &'a str,
    pub(super) call: &'a str,
    pub(super) object: &'a str,
    pub(super) code: &'a str,
    pub(super) reason: &'a str,
}

impl Audit {
    /// Opens the file, to add to it.
    ///
    /// # Errors
    ///
    /// It can't be opened.
    pub(super) fn open(path: &Path, reads: bool) -> Result<Self, AccessError> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = File::options()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(path)
            .map_err(|error| AccessError::file("audit-log", path, error))?;
        Ok(Self {
            file: Mutex::new(file),
            path: path.display().to_string(),
            reads,
        })
    }

    /// Adds a line, whole, before the answer goes out.
    pub(super) fn write(&self, entry: &Entry<'_>) {
        let line = Line {
            time: time::timestamp(now()).to_string(),
            principal: entry.principal.map_or("", |known| short(&known.name)),
            method: entry.principal.map_or("", |known| known.method.as_str()),
            role: entry.principal.map_or("", |known| known.role.as_str()),
            address: entry.address,
            call: short(entry.call),
            object: short(entry.object),
            code: entry.code,
            reason: entry.reason,
        };
        let written = serde_json::to_string(&line)
            .map_err(std::io::Error::from)
            .and_then(|mut text| {
                text.push('\n');
                let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
                file.write_all(text.as_bytes())
            });
        if let Err(error) = written {
            // What was done is done; that it is not written down must not stay unknown.
            tracing::error!("--audit-log {}: {error}", self.path);
        }
    }
}

/// The beginning of a name.
fn short(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME)]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    // Promise: no name that a caller has chosen makes a line long.
    #[test]
    fn long_names() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let long = "é".repeat(1 << 20);
        let entry = Entry {
            principal: None,
            address: "[::1]:1",
            call: &long,
            object: &long,
            code: "NOT_FOUND",
            reason: "",
        };
        Audit::open(&path, false).unwrap().write(&entry);
        assert!(std::fs::metadata(&path).unwrap().len() < 1000);
    }

    // Promise: each call is one line of JSON, whatever its names hold; a file is added to.
    #[test]
    fn lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let entry = Entry {
            principal: None,
            address: "[::1]:1",
            call: "/espalier.v1.JobService/CancelJob",
            object: "a\n\"b",
            code: "UNAUTHENTICATED",
            reason: "TOKEN_UNKNOWN",
        };
        Audit::open(&path, false).unwrap().write(&entry);
        Audit::open(&path, false).unwrap().write(&entry);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(line["object"], "a\n\"b");
        assert_eq!(line["code"], "UNAUTHENTICATED");
        assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    }
}
