//! What callers with a certificate may do: workers, operators and admins by its kind, users by a file. A
//! user whom it does not name, or any where there is none, may do nothing: that somebody is known does not
//! say what they may do.
//!
//! ```yaml
//! - name: alice
//!   role: admin
//! - name: bob
//!   role: submitter
//!   namespaces: [vision]
//! ```

use super::reload::{Reloaded, says_nothing};
use super::{AccessError, Method, Principal, Role};
use espalier_tls::{Identity, Kind};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Roles of users.
#[derive(Debug)]
pub(super) struct Certificates(Reloaded<BTreeMap<String, (Role, Vec<String>)>>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    role: String,
    #[serde(default)]
    namespaces: Vec<String>,
}

impl Certificates {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// It can't be read, or makes no sense.
    pub(super) fn open(path: &Path) -> Result<Self, AccessError> {
        let file = Reloaded::open(path, read);
        file.map(Self)
            .map_err(|message| AccessError::file("certificate-roles", path, message))
    }
}

/// The caller that a certificate names. Users that the file does not name may do nothing.
pub(super) fn principal(identity: &Identity, users: Option<&Certificates>) -> Principal {
    let (role, namespaces) = match identity.kind {
        Kind::Worker => (Role::Worker, Vec::new()),
        // An operator submits for everybody who may create a TrainingJob, and drains workers. Of an admin
        // whoever keeps the CA's key has said so.
        Kind::Operator | Kind::Admin => (Role::Admin, Vec::new()),
        // Coordinators speak to each other through the store alone.
        Kind::Coordinator => (Role::None, Vec::new()),
        Kind::User => match users {
            Some(users) => users
                .0
                .get()
                .get(&identity.name)
                .cloned()
                .unwrap_or_default(),
            None => (Role::None, Vec::new()),
        },
    };
    Principal {
        name: identity.name.clone(),
        role,
        namespaces,
        method: Method::Certificate,
    }
}

fn read(text: &str) -> Result<BTreeMap<String, (Role, Vec<String>)>, String> {
    if says_nothing(text) {
        return Ok(BTreeMap::new());
    }
    let entries: Vec<Entry> = serde_saphyr::from_str(text)
        .map_err(|error| format!("{error}; expected a list of entries with name and role"))?;
    let mut users = BTreeMap::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let role = match Role::parse(&entry.role) {
            // Workers have certificates of their own kind.
            None | Some(Role::Worker) => {
                return Err(format!(
                    "[{index}].role is {:?}; expected admin, submitter or viewer",
                    entry.role
                ));
            }
            Some(role) => role,
        };
        let name = entry.name.clone();
        if users.insert(entry.name, (role, entry.namespaces)).is_some() {
            return Err(format!(
                "[{index}].name {name:?} is the name of another entry, too"
            ));
        }
    }
    Ok(users)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn identity(kind: Kind, name: &str) -> Identity {
        Identity {
            kind,
            name: name.to_owned(),
        }
    }

    // Promise: who empties the file takes everybody's role away, and what makes no sense changes nothing.
    #[test]
    fn an_emptied_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roles.yaml");
        let bob = "- {name: bob, role: admin}\n";
        std::fs::write(&path, bob).unwrap();
        let users = Certificates::open(&path).unwrap();
        let role = || principal(&identity(Kind::User, "bob"), Some(&users)).role;
        for nothing in ["", "\n", "# nobody yet\n", "[]"] {
            std::fs::write(&path, bob).unwrap();
            assert_eq!(role(), Role::Admin);
            std::fs::write(&path, "nonsense").unwrap();
            assert_eq!(role(), Role::Admin);
            std::fs::write(&path, nothing).unwrap();
            assert_eq!(role(), Role::None, "{nothing:?}");
        }
        // So a coordinator may begin with one, too.
        std::fs::write(&path, "").unwrap();
        assert!(Certificates::open(&path).is_ok());
    }

    // Promise: a certificate alone makes nobody more than its kind says.
    #[test]
    fn kinds_and_roles() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roles.yaml");
        std::fs::write(&path, "- {name: bob, role: viewer, namespaces: [a]}\n").unwrap();
        let users = Certificates::open(&path).unwrap();
        let role = |kind, name: &str| principal(&identity(kind, name), Some(&users)).role;
        assert_eq!(role(Kind::User, "bob"), Role::Viewer);
        assert_eq!(role(Kind::User, "eve"), Role::None);
        assert_eq!(role(Kind::Worker, "bob"), Role::Worker);
        assert_eq!(role(Kind::Coordinator, "bob"), Role::None);
        assert_eq!(role(Kind::Operator, "bob"), Role::Admin);
        assert_eq!(role(Kind::Admin, "eve"), Role::Admin);
        let alone = |kind| principal(&identity(kind, "bob"), None).role;
        assert_eq!(alone(Kind::User), Role::None, "nobody gave bob a role");
        assert_eq!(alone(Kind::Admin), Role::Admin);
        for bad in ["- {name: a, role: worker}", "- {name: a, role: root}", "a"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
