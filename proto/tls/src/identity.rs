//! Who a certificate speaks for.

use std::fmt;
use x509_parser::extensions::GeneralName;

/// The trust domain of identities where nobody names another one.
pub const TRUST_DOMAIN: &str = "espalier";

const SCHEME: &str = "spiffe://";
/// Ends the name of an identity that several workers share; no worker's name holds it.
const SHARED: &str = "-*";

/// What somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Hosts ranks.
    Worker,
    /// A person, or a program that acts for one; what it may do is said elsewhere.
    User,
    /// A person who may do everything that people may.
    Admin,
    /// Keeps jobs and workers.
    Coordinator,
    /// Turns Kubernetes' resources into jobs.
    Operator,
}

impl Kind {
    /// The word for it in a URI.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::User => "user",
            Self::Admin => "admin",
            Self::Coordinator => "coordinator",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Somebody whose certificate was verified. In certificates it is a URI among the alternative names:
/// `spiffe://DOMAIN/KIND/NAME`, or `spiffe://DOMAIN/workers/PREFIX` for all workers whose name starts with
/// `PREFIX-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// What it is.
    pub kind: Kind,
    /// Its name; `PREFIX-*` for workers that share a certificate.
    pub name: String,
}

impl Identity {
    /// An identity; none if the name is none: letters, digits, `-`, `_` and `.` make one.
    #[must_use]
    pub fn new(kind: Kind, name: &str) -> Option<Self> {
        is_name(name).then(|| Self {
            kind,
            name: name.to_owned(),
        })
    }

    /// That of all workers whose name starts with `PREFIX-`; none if the prefix is no name.
    #[must_use]
    pub fn shared(prefix: &str) -> Option<Self> {
        is_name(prefix).then(|| Self {
            kind: Kind::Worker,
            name: format!("{prefix}{SHARED}"),
        })
    }

    /// Whether it may speak as the worker of this name.
    #[must_use]
    pub fn is_worker(&self, name: &str) -> bool {
        if self.kind != Kind::Worker {
            return false;
        }
        match self.name.strip_suffix(SHARED) {
            None => self.name == name,
            Some(prefix) => name
                .strip_prefix(prefix)
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(|rest| !rest.is_empty()),
        }
    }

    /// Its URI.
    #[must_use]
    pub fn uri(&self, domain: &str) -> String {
        match self.name.strip_suffix(SHARED) {
            Some(prefix) => format!("{SCHEME}{domain}/workers/{prefix}"),
            None => format!("{SCHEME}{domain}/{}/{}", self.kind, self.name),
        }
    }

    /// Reads a URI; none if it is another domain's or names nobody.
    #[must_use]
    pub fn parse(uri: &str, domain: &str) -> Option<Self> {
        let rest = uri.strip_prefix(SCHEME)?.strip_prefix(domain)?;
        let (kind, name) = rest.strip_prefix('/')?.split_once('/')?;
        let kind = match kind {
            "workers" => return Self::shared(name),
            "worker" => Kind::Worker,
            "user" => Kind::User,
            "admin" => Kind::Admin,
            "coordinator" => Kind::Coordinator,
            "operator" => Kind::Operator,
            _ => return None,
        };
        Self::new(kind, name)
    }

    /// Whom a certificate in DER names. None if it names nobody, somebody of another domain, or several:
    /// which of them calls could not be told.
    #[must_use]
    pub fn of_certificate(der: &[u8], domain: &str) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        let mut uris = names
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
                _ => None,
            });
        match (uris.next(), uris.next()) {
            (Some(uri), None) => Self::parse(uri, domain),
            _ => None,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// What a segment of such a URI may hold.
pub(crate) fn is_name(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.len() <= 253 && text.chars().all(word) && text != "." && text != ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: an identity is read as it is written, and what is not one names nobody.
    #[test]
    fn uris() {
        let all = [
            Identity::new(Kind::Worker, "w-1.rack"),
            Identity::new(Kind::User, "ada"),
            Identity::new(Kind::Admin, "root"),
            Identity::new(Kind::Coordinator, "a"),
            Identity::new(Kind::Operator, "espalier"),
            Identity::shared("espalier-worker"),
        ];
        for identity in all {
            let identity = identity.unwrap();
            let uri = identity.uri("espalier");
            assert_eq!(Identity::parse(&uri, "espalier"), Some(identity), "{uri}");
            assert_eq!(Identity::parse(&uri, "other"), None, "{uri}");
        }
        for bad in [
            "https://espalier/worker/a",
            "spiffe://espalier",
            "spiffe://espalier/worker",
            "spiffe://espalier/worker/",
            "spiffe://espalier/worker/a/b",
            "spiffe://espalier/worker/..",
            "spiffe://espalier/worker/a*",
            "spiffe://espalier/workers/a-*",
            "spiffe://espalier/Worker/a",
            "spiffe://espalier/admins/a",
            "spiffe://espalier.evil/worker/a",
            "spiffe://espalier@evil/worker/a",
            "spiffe://espalier//worker/a",
        ] {
            assert_eq!(Identity::parse(bad, "espalier"), None, "{bad}");
        }
    }

    // Promise: a worker's certificate speaks for that worker alone, a shared one for those of its
    // prefix, and another's for none.
    #[test]
    fn speaking_as_a_worker() {
        let one = Identity::new(Kind::Worker, "gpu-1").unwrap();
        assert!(one.is_worker("gpu-1"));
        assert!(!one.is_worker("gpu-10") && !one.is_worker("gpu"));
        let shared = Identity::shared("gpu").unwrap();
        assert!(shared.is_worker("gpu-0") && shared.is_worker("gpu-a-1"));
        for other in ["gpu", "gpu-", "gpus-0", "cpu-0", ""] {
            assert!(!shared.is_worker(other), "{other:?}");
        }
        let user = Identity::new(Kind::User, "gpu-1").unwrap();
        assert!(!user.is_worker("gpu-1"));
    }
}
