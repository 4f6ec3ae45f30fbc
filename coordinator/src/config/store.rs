//! Where jobs and workers are kept, and who could read along on the way there.

use super::access::is_loopback;
use std::path::PathBuf;
use std::str::FromStr;

/// Where jobs and workers are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAt {
    /// In a file of this directory; none: of the data directory.
    Redb(Option<PathBuf>),
    /// In an etcd with these endpoints.
    Etcd(Vec<String>),
}

impl FromStr for StoreAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, place) = text.split_once(':').unwrap_or((text, ""));
        match kind {
            "redb" if place.is_empty() => Ok(Self::Redb(None)),
            "redb" => Ok(Self::Redb(Some(place.into()))),
            "etcd" => {
                let endpoints: Vec<String> = place
                    .split(',')
                    .map(|endpoint| endpoint.trim().trim_end_matches('/').to_owned())
                    .collect();
                let is_url = |at: &str| at.starts_with("http://") || at.starts_with("https://");
                match endpoints.iter().find(|at| !is_url(at)) {
                    None => Ok(Self::Etcd(endpoints)),
                    Some(odd) => Err(format!(
                        "`{odd}` is no endpoint of etcd, expected such as \
                         etcd:https://HOST1:2379,https://HOST2:2379, or http:// for plain text"
                    )),
                }
            }
            other => Err(format!(
                "`{other}` is no kind of store, expected redb, redb:DIRECTORY or etcd:https://HOST:2379"
            )),
        }
    }
}

impl StoreAt {
    /// The first endpoint that would be called in plain text beyond this host; none: there is none such.
    pub(super) fn exposed(&self) -> Option<&str> {
        let Self::Etcd(endpoints) = self else {
            return None;
        };
        let mut endpoints = endpoints.iter().map(String::as_str);
        endpoints.find(|at| at.starts_with("http://") && !is_loopback(at))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;
    use clap::Parser;

    fn parse(flags: &[&str]) -> Config {
        let flags = std::iter::once("espalier-coordinator").chain(flags.iter().copied());
        Config::try_parse_from(flags).unwrap()
    }

    // Promise: what is kept does not travel in plain text by accident: who reads it knows all jobs, who writes it
    // is the cluster.
    #[test]
    fn plain_text_to_etcd_must_be_asked_for() {
        let check = |store: &str, more: &[&str]| {
            let config = parse(&[&["--store", store][..], more].concat());
            config.validate().map_err(|error| error.to_string())
        };
        for store in [
            "etcd:https://a:2379",
            "etcd:http://127.0.0.1:2379,http://[::1]:2379",
            "etcd:http://localhost:2379",
            "redb:/var/lib/espalier",
        ] {
            assert_eq!(check(store, &[]), Ok(()), "{store}");
        }
        for store in ["etcd:http://a:2379", "etcd:https://b:2379,http://a:2379"] {
            let error = check(store, &[]).unwrap_err();
            let told = error.contains("http://a:2379") && error.contains("--etcd-ca");
            assert!(told && error.contains("--insecure"), "{error}");
            assert_eq!(check(store, &["--insecure"]), Ok(()), "{store}");
        }
    }

    // Promise: stores are read as documented, and a slip says what was expected.
    #[test]
    fn stores() {
        assert_eq!(parse(&[]).store, StoreAt::Redb(None));
        let other = parse(&["--store", "redb:/var/lib/espalier"]).store;
        assert_eq!(other, StoreAt::Redb(Some("/var/lib/espalier".into())));
        let etcd = parse(&["--store", "etcd:http://a:2379, http://b:2379/"]).store;
        let endpoints = ["http://a:2379", "http://b:2379"].map(str::to_owned);
        assert_eq!(etcd, StoreAt::Etcd(endpoints.to_vec()));
        let secure = parse(&["--store", "etcd:https://a:2379"]).store;
        assert_eq!(secure, StoreAt::Etcd(vec!["https://a:2379".into()]));
        for bad in ["etcd", "etcd:", "etcd:a:2379", "etcd:ftp://a:2379"] {
            let error = bad.parse::<StoreAt>().unwrap_err();
            assert!(error.contains("etcd:https://HOST1:2379"), "{bad}: {error}");
        }
        assert!("sqlite:x".parse::<StoreAt>().unwrap_err().contains("redb"));
    }
}
