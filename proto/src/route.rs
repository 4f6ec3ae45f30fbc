//! Which of a cluster's coordinators to call.
//!
//! One coordinator leads; the others answer `UNAVAILABLE` with the reason [`NOT_LEADER`] and, if they
//! know it, the leader's address. The rule for clients in any language: call the addresses in turn;
//! where an answer names a leader, call that one next; pause after a round without success. From an
//! address of `https://` nobody is sent to one of plain text.

use crate::{ApiError, ErrorKind};

/// Reason of the error that a coordinator which does not lead answers with.
pub const NOT_LEADER: &str = "NOT_LEADER";
/// Entry of that error's metadata: the leader's address.
pub const LEADER: &str = "leader";

/// Addresses to call, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    given: Vec<String>,
    /// What an address without a scheme means.
    scheme: &'static str,
    /// Place of the next one among those given.
    at: usize,
    /// Where a coordinator sent us.
    hint: Option<String>,
    /// Calls that failed since the last success.
    failed: usize,
}

impl Route {
    /// Reads addresses `http://HOST:PORT` or `https://HOST:PORT` that are separated by commas; `http://`
    /// may be left out. None if there are none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::read(text, "http")
    }

    /// Likewise for a client that was given certificates: here `https://` may be left out.
    #[must_use]
    pub fn parse_secure(text: &str) -> Option<Self> {
        Self::read(text, "https")
    }

    fn read(text: &str, scheme: &'static str) -> Option<Self> {
        let given: Vec<String> = text
            .split(',')
            .map(str::trim)
            .filter(|address| !address.is_empty())
            .map(|address| url(address, scheme))
            .collect();
        (!given.is_empty()).then_some(Self {
            given,
            scheme,
            at: 0,
            hint: None,
            failed: 0,
        })
    }

    /// The address to call now.
    #[must_use]
    pub fn address(&self) -> &str {
        match &self.hint {
            Some(hint) => hint,
            None => &self.given[self.at],
        }
    }

    /// Every address that was given.
    #[must_use]
    pub fn given(&self) -> &[String] {
        &self.given
    }

    /// The call went well: this one leads.
    pub fn reached(&mut self) {
        self.failed = 0;
    }

    /// The call failed: turns to the next address, or to the one that the answer names. True if all
    /// have been called in vain, so that it is time to pause.
    pub fn failed(&mut self, error: &ApiError) -> bool {
        self.failed += 1;
        let hint = leader(error)
            .map(|address| url(address, self.scheme))
            .filter(|hint| is_secure(hint) || !is_secure(self.address()));
        let known = self.hint.take();
        match hint {
            // A hint that leads nowhere is not followed twice.
            Some(hint) if known.as_ref() != Some(&hint) && hint != self.given[self.at] => {
                self.hint = Some(hint);
            }
            _ => self.at = (self.at + 1) % self.given.len(),
        }
        // Each of those given may name one more.
        let round = self.failed >= 2 * self.given.len()
            || (self.hint.is_none() && self.failed >= self.given.len());
        if round {
            self.failed = 0;
        }
        round
    }
}

/// Whether a coordinator answered that it does not lead.
#[must_use]
pub fn is_not_leader(error: &ApiError) -> bool {
    error.kind == ErrorKind::Unavailable && error.reason == NOT_LEADER
}

/// The leader that an answer names.
fn leader(error: &ApiError) -> Option<&str> {
    is_not_leader(error)
        .then(|| error.metadata.get(LEADER))?
        .map(String::as_str)
        .filter(|address| !address.is_empty())
}

fn url(address: &str, scheme: &str) -> String {
    if address.contains("://") {
        address.to_owned()
    } else {
        format!("{scheme}://{address}")
    }
}

fn is_secure(address: &str) -> bool {
    address.starts_with("https://")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> ApiError {
        ApiError::new(ErrorKind::Unavailable, "", "connection refused")
    }

    fn not_leader(leader: &str) -> ApiError {
        ApiError::new(ErrorKind::Unavailable, NOT_LEADER, "another one leads").with(LEADER, leader)
    }

    // Promise: addresses are read with and without scheme; nothing is no route.
    #[test]
    fn addresses() {
        let route = Route::parse(" a:1 ,http://b:2,").unwrap();
        assert_eq!(route.given(), ["http://a:1", "http://b:2"]);
        assert_eq!(Route::parse(" , "), None);
        let route = Route::parse_secure("a:1,http://b:2,https://c:3").unwrap();
        assert_eq!(route.given(), ["https://a:1", "http://b:2", "https://c:3"]);
    }

    // Promise: who speaks TLS is not talked into plain text by an answer.
    #[test]
    fn hints_do_not_downgrade() {
        let mut route = Route::parse("https://a:1").unwrap();
        route.failed(&not_leader("http://b:2"));
        assert_eq!(route.address(), "https://a:1");
        route.failed(&not_leader("https://b:2"));
        assert_eq!(route.address(), "https://b:2");
    }

    // Promise: addresses are called in turn, and a pause is due after a round in vain.
    #[test]
    fn in_turn() {
        let mut route = Route::parse("a:1,b:2").unwrap();
        assert!(!route.failed(&away()));
        assert_eq!(route.address(), "http://b:2");
        assert!(route.failed(&away()));
        assert_eq!(route.address(), "http://a:1");
        let mut alone = Route::parse("a:1").unwrap();
        assert!(alone.failed(&away()));
        assert_eq!(alone.address(), "http://a:1");
    }

    // Promise: a leader that is named is called next, and a name that leads nowhere ends in a pause.
    #[test]
    fn hints() {
        let mut route = Route::parse("a:1").unwrap();
        assert!(!route.failed(&not_leader("b:2")));
        assert_eq!(route.address(), "http://b:2");
        assert!(route.failed(&not_leader("b:2")));
        assert_eq!(route.address(), "http://a:1");
        let mut unknown = Route::parse("a:1").unwrap();
        assert!(unknown.failed(&not_leader("")));
    }
}
