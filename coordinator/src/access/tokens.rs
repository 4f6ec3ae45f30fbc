//! Tokens of a file: only their SHA-256 is kept, so that who reads the file can't use them.
//!
//! ```yaml
//! - name: alice
//!   sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
//!   role: submitter
//!   namespaces: [vision]            # default: all
//!   expires: 2027-01-31T00:00:00Z   # default: never
//! ```

use super::reload::{Reloaded, says_nothing};
use super::{AccessError, Method, Principal, Role, unauthenticated};
use espalier_proto::{ApiError, time};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::Path;

/// The tokens of a file.
#[derive(Debug)]
pub(super) struct Tokens(Reloaded<Vec<Token>>);

/// One token.
#[derive(Debug)]
struct Token {
    hash: [u8; SHA256_OUTPUT_LEN],
    /// Milliseconds since 1970 from which on it is void.
    expires: Option<u64>,
    principal: Principal,
}

/// One entry, as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    sha256: String,
    role: String,
    #[serde(default)]
    namespaces: Vec<String>,
    expires: Option<String>,
}

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// It can't be read, or makes no sense.
    pub(super) fn open(path: &Path) -> Result<Self, AccessError> {
        let file = Reloaded::open(path, read);
        file.map(Self)
            .map_err(|message| AccessError::file("token-file", path, message))
    }

    /// Whose token this is; none: it is not in the file.
    pub(super) fn find(&self, token: &str, now: u64) -> Option<Result<Principal, ApiError>> {
        let hash = digest(&SHA256, token.as_bytes());
        let tokens = self.0.get();
        // All are compared, each in constant time: how long it takes tells nothing.
        let mut found = None;
        for candidate in tokens.iter() {
            if same(&candidate.hash, hash.as_ref()) {
                found = Some(candidate);
            }
        }
        let found = found?;
        if found.expires.is_some_and(|end| now >= end) {
            return Some(Err(unauthenticated(
                "TOKEN_EXPIRED",
                format!(
                    "the token of {} has expired; ask whoever runs this cluster for a new one",
                    found.principal.name
                ),
            )));
        }
        Some(Ok(found.principal.clone()))
    }
}

/// Whether two hashes are equal, in a time that does not depend on where they differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0u8, |sum, (a, b)| sum | (a ^ b)) == 0
}

fn read(text: &str) -> Result<Vec<Token>, String> {
    if says_nothing(text) {
        return Ok(Vec::new());
    }
    let entries: Vec<Entry> = serde_saphyr::from_str(text).map_err(|error| {
        format!("{error}; expected a list of entries with name, sha256 and role")
    })?;
    let mut names = BTreeSet::new();
    let mut tokens = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let bad = |field: &str, what: String| format!("[{index}].{field} {what}");
        if entry.name.is_empty() {
            return Err(bad("name", "is empty".into()));
        }
        if !names.insert(entry.name.clone()) {
            let what = format!("{:?} is the name of another entry, too", entry.name);
            return Err(bad("name", what));
        }
        let hash = unhex(&entry.sha256).ok_or_else(|| {
            let what = "is no SHA-256; expected 64 hexadecimal digits, see `espalier token create`";
            bad("sha256", what.into())
        })?;
        let role = Role::parse(&entry.role).ok_or_else(|| {
            let what = format!(
                "is {:?}; expected admin, submitter, viewer or worker",
                entry.role
            );
            bad("role", what)
        })?;
        let expires = match &entry.expires {
            None => None,
            Some(text) => {
                let moment: time::Timestamp = text.parse().map_err(|_| {
                    let what = format!("is {text:?}; expected such as 2027-01-31T00:00:00Z");
                    bad("expires", what)
                })?;
                Some(time::millis(&moment))
            }
        };
        let principal = Principal {
            name: entry.name,
            role,
            namespaces: entry.namespaces,
            method: Method::Token,
        };
        tokens.push(Token {
            hash,
            expires,
            principal,
        });
    }
    Ok(tokens)
}

fn unhex(text: &str) -> Option<[u8; SHA256_OUTPUT_LEN]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * SHA256_OUTPUT_LEN {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut hash = [0; SHA256_OUTPUT_LEN];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn open(text: &str) -> Result<(Tokens, tempfile::TempDir), AccessError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.yaml");
        std::fs::write(&path, text).unwrap();
        // With its directory: the file is looked at with every question.
        Tokens::open(&path).map(|tokens| (tokens, directory))
    }

    // Promise: a token is known by its hash alone, until it expires.
    #[test]
    fn tokens_are_known_until_they_expire() {
        let text = format!(
            "- name: alice\n  sha256: {HASH}\n  role: submitter\n  namespaces: [vision]\n  \
             expires: 1970-01-01T00:00:02Z\n"
        );
        let (tokens, _directory) = open(&text).unwrap();
        let alice = tokens.find("test", 1999).unwrap().unwrap();
        assert_eq!(
            (alice.name.as_str(), alice.role),
            ("alice", Role::Submitter)
        );
        assert_eq!(alice.namespaces, ["vision"]);
        let late = tokens.find("test", 2000).unwrap().unwrap_err();
        assert_eq!(late.reason, "TOKEN_EXPIRED");
        for other in ["", "Test", "test ", HASH] {
            assert!(tokens.find(other, 0).is_none(), "{other}");
        }
    }

    // Promise: a slip in the file is told by entry and field, and nothing of a secret with it.
    #[test]
    fn slips_are_told() {
        let entry = |more: &str| format!("- name: a\n  sha256: {HASH}\n  role: viewer\n{more}");
        assert!(open("").is_ok());
        assert!(open("# none yet\n").is_ok());
        assert!(open(&entry("")).is_ok());
        for (text, word) in [
            (entry("  rol: x\n"), "rol"),
            (entry("").replace("viewer", "root"), "[0].role"),
            (entry("").replace("9f", "zz"), "[0].sha256"),
            (entry("").replace("9f", ""), "[0].sha256"),
            (entry("  expires: tomorrow\n"), "[0].expires"),
            (format!("{0}{0}", entry("")), "[1].name"),
            ("tokens: 1\n".to_owned(), "list"),
        ] {
            let error = open(&text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
            assert!(error.contains("--token-file"), "{error}");
        }
    }
}
