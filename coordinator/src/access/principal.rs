//! A caller: who it is, how that is known, what it may do.

use super::{denied, unauthenticated};
use espalier_proto::{ApiError, v1};
use std::fmt;

/// What a caller may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Nothing.
    #[default]
    None,
    /// See jobs of its namespaces, and workers.
    Viewer,
    /// Submit and steer jobs of its namespaces, too.
    Submitter,
    /// Everything but to work.
    Admin,
    /// Join as a worker, under its own name.
    Worker,
}

impl Role {
    /// The role of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Viewer, Self::Submitter, Self::Admin, Self::Worker]
            .into_iter()
            .find(|role| role.as_str() == name)
    }

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Viewer => "viewer",
            Self::Submitter => "submitter",
            Self::Admin => "admin",
            Self::Worker => "worker",
        }
    }

    /// How much of the work of people it may do; workers do none of it.
    pub(super) fn rank(self) -> u8 {
        match self {
            Self::None | Self::Worker => 0,
            Self::Viewer => 1,
            Self::Submitter => 2,
            Self::Admin => 3,
        }
    }

    /// As the message says it.
    #[must_use]
    pub fn to_wire(self) -> v1::who_am_i_response::Role {
        use v1::who_am_i_response::Role as Wired;
        match self {
            Self::None => Wired::Unspecified,
            Self::Viewer => Wired::Viewer,
            Self::Submitter => Wired::Submitter,
            Self::Admin => Wired::Admin,
            Self::Worker => Wired::Worker,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a caller is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Nobody is asked who they are.
    None,
    /// By a token of the file.
    Token,
    /// By a token of an OpenID Connect issuer.
    Oidc,
    /// By a certificate.
    Certificate,
}

impl Method {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Token => "token",
            Self::Oidc => "oidc",
            Self::Certificate => "certificate",
        }
    }
}

/// A caller. It lies in the extensions of every request that was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Its name. Of workers that share one: `PREFIX-*`.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Namespaces whose jobs it may see; empty: all.
    pub namespaces: Vec<String>,
    /// How it is known.
    pub method: Method,
}

impl Principal {
    /// Everybody, where nobody is asked.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            name: "anonymous".to_owned(),
            role: Role::Admin,
            namespaces: Vec::new(),
            method: Method::None,
        }
    }

    /// The caller of a request with these extensions.
    ///
    /// # Errors
    ///
    /// The request did not come through the layer: nobody is let in by an oversight.
    pub fn of(extensions: &http::Extensions) -> Result<Self, ApiError> {
        extensions.get::<Self>().cloned().ok_or_else(|| {
            unauthenticated(
                "CALLER_UNKNOWN",
                "nobody asked who calls; this is a bug, please report it",
            )
        })
    }

    /// Whether it may see jobs of this namespace.
    #[must_use]
    pub fn sees(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|own| own == namespace)
    }

    /// Whether it may create jobs in this namespace.
    ///
    /// # Errors
    ///
    /// `PERMISSION_DENIED`, with the namespaces that it may use.
    pub fn may_submit_to(&self, namespace: &str) -> Result<(), ApiError> {
        if self.sees(namespace) {
            return Ok(());
        }
        let own = self.namespaces.join(", ");
        Err(denied(
            "NAMESPACE_DENIED",
            format!("{self} may not submit to the namespace {namespace}, only to {own}"),
        )
        .with("namespace", namespace))
    }

    /// Whether it may work under this name.
    ///
    /// # Errors
    ///
    /// `PERMISSION_DENIED`, with the name that it has.
    pub fn may_work_as(&self, worker: &str) -> Result<(), ApiError> {
        let own = match self.name.strip_suffix('*') {
            // `PREFIX-*` means PREFIX-, then something.
            Some(prefix) if prefix.ends_with('-') => {
                worker.len() > prefix.len() && worker.starts_with(prefix)
            }
            _ => worker == self.name,
        };
        if self.method == Method::None || own {
            return Ok(());
        }
        Err(denied(
            "WRONG_WORKER",
            format!(
                "{self} may not work under the name {worker}; start it with --name {}, or give it a \
                 certificate or token of that name",
                self.name
            ),
        )
        .with("worker", worker))
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.role)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn worker(name: &str) -> Principal {
        Principal {
            name: name.to_owned(),
            role: Role::Worker,
            namespaces: Vec::new(),
            method: Method::Certificate,
        }
    }

    // Promise: a worker works under its own name; where several share one, under names that begin so.
    #[test]
    fn workers_have_their_own_names() {
        let one = worker("a");
        assert!(one.may_work_as("a").is_ok());
        for other in ["b", "", "A", "a-1", "a "] {
            let error = one.may_work_as(other).unwrap_err();
            assert_eq!(error.reason, "WRONG_WORKER", "{other}");
        }
        let shared = worker("pool-*");
        assert!(shared.may_work_as("pool-0").is_ok());
        assert!(shared.may_work_as("pool-0-a").is_ok());
        for other in ["pool", "pool-", "pools-1", "other-0", "x-pool-0"] {
            assert!(shared.may_work_as(other).is_err(), "{other}");
        }
        // A star without the dash before it is no prefix.
        assert!(worker("*").may_work_as("anything").is_err());
        assert!(worker("pool*").may_work_as("pool-0").is_err());
        assert!(Principal::anonymous().may_work_as("anything").is_ok());
    }

    // Promise: namespaces limit, and none named is all of them.
    #[test]
    fn namespaces_limit() {
        let mut caller = worker("alice");
        assert!(caller.sees("anything"));
        caller.namespaces = vec!["vision".to_owned()];
        assert!(caller.sees("vision") && !caller.sees("vis") && !caller.sees("vision2"));
        let error = caller.may_submit_to("text").unwrap_err();
        assert!(error.message.contains("vision"), "{error}");
    }
}
