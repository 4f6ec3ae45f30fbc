//! The cluster's key, and the secrets of generations that are made from it.
//!
//! A secret is a function of the key, the job's uid and the generation: nothing of it is stored, and
//! whoever leads next gives workers that ask again the same one. The key itself is in a file beside the
//! embedded store, in etcd, or in a file that the operator names; it never leaves the coordinators.

use crate::config::{Config, DataPlane, StoreAt};
use crate::etcd::{Etcd, EtcdError, Keys, put, written_at};
use crate::whole;
use espalier_core::PeerAddress;
use espalier_spec::Generation;
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use zeroize::Zeroizing;

/// Name of the file beside the store.
const FILE: &str = "data-key";
/// Bytes of a key that is made, and the fewest of one that is given.
const BYTES: usize = 32;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum DataKeyError {
    /// The key's file can't be used.
    #[error("the cluster's data key, {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// What is there is no key.
    #[error(
        "the cluster's data key, {place}, has {found} bytes, expected at least {BYTES} random ones; such as \
         `head -c 32 /dev/urandom` makes"
    )]
    Short {
        /// The file, or the key of etcd.
        place: String,
        /// Its bytes.
        found: usize,
    },
    /// The system has no randomness.
    #[error("no data key can be made for the cluster: the system gives no random bytes")]
    Random,
    /// etcd can't be asked.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
}

/// Makes the secrets of generations. Says nothing of them when shown.
pub(crate) struct Secrets {
    /// None: ranks speak in plain text.
    key: Option<Prk>,
    /// Also where all ranks listen on their own host alone.
    always: bool,
}

impl Secrets {
    /// With the key of the embedded store's directory, or of the file that the settings name.
    ///
    /// # Errors
    ///
    /// The key can't be read or made.
    pub(crate) fn of_host(config: &Config) -> Result<Self, DataKeyError> {
        let directory = match &config.store {
            StoreAt::Redb(Some(directory)) => directory,
            StoreAt::Redb(None) | StoreAt::Etcd(_) => &config.data_dir,
        };
        match given(config)? {
            Given::Plain => Ok(Self::none()),
            Given::Key(key) => Ok(Self::new(config, &key)),
            Given::Nothing => Ok(Self::new(config, &kept(&directory.join(FILE))?)),
        }
    }

    /// With the key of a cluster of coordinators: the first one makes it, all others find it in etcd.
    ///
    /// # Errors
    ///
    /// The key can't be read or made.
    pub(crate) async fn of_cluster(
        config: &Config,
        etcd: &Etcd,
        keys: &Keys,
    ) -> Result<Self, DataKeyError> {
        match given(config)? {
            Given::Plain => return Ok(Self::none()),
            Given::Key(key) => return Ok(Self::new(config, &key)),
            Given::Nothing => {}
        }
        let key = keys.data_key();
        let fresh = put(&key, random()?.to_vec());
        etcd.txn(vec![written_at(&key, 0)], vec![fresh]).await?;
        let found = etcd.get(&key).await?.map(|found| found.value);
        let found = Zeroizing::new(found.unwrap_or_default());
        let place = format!("{key} of etcd at {}", etcd.endpoints());
        Ok(Self::new(config, &long_enough(found, place)?))
    }

    fn none() -> Self {
        Self {
            key: None,
            always: false,
        }
    }

    fn new(config: &Config, key: &[u8]) -> Self {
        let salt = Salt::new(HKDF_SHA256, b"espalier: data key of a cluster");
        Self {
            key: Some(salt.extract(key)),
            always: config.data_plane.data_plane == Some(DataPlane::Encrypted),
        }
    }

    /// The secret of a generation whose ranks listen at `addresses`; empty: none.
    pub(crate) fn of(
        &self,
        uid: &str,
        generation: Generation,
        addresses: &[PeerAddress],
    ) -> Vec<u8> {
        let Some(key) = &self.key else {
            return Vec::new();
        };
        if !self.always && addresses.iter().all(|peer| stays_here(&peer.address)) {
            return Vec::new();
        }
        let generation = generation.0.to_le_bytes();
        let info: [&[u8]; 3] = [b"generation", &generation, uid.as_bytes()];
        let mut secret = vec![0; BYTES];
        // Both fail for lengths other than the digest's alone.
        key.expand(&info, HKDF_SHA256)
            .and_then(|made| made.fill(&mut secret))
            .expect("a secret is as long as a digest");
        secret
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(..)")
    }
}

/// Whether only its own host reaches an address.
fn stays_here(address: &str) -> bool {
    let address = address.parse::<SocketAddr>();
    address.is_ok_and(|address| address.ip().is_loopback())
}

/// What the settings say of the key.
enum Given {
    Plain,
    Key(Zeroizing<Vec<u8>>),
    Nothing,
}

fn given(config: &Config) -> Result<Given, DataKeyError> {
    let flags = &config.data_plane;
    Ok(match &flags.data_key_file {
        _ if flags.data_plane == Some(DataPlane::Plain) => Given::Plain,
        Some(path) => Given::Key(read(path)?),
        None => Given::Nothing,
    })
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, DataKeyError> {
    let error = |source| DataKeyError::File {
        path: path.display().to_string(),
        source,
    };
    let found = Zeroizing::new(fs::read(path).map_err(error)?);
    let mode = fs::metadata(path).map_err(error)?.mode() & 0o777;
    if mode & 0o007 != 0 {
        tracing::warn!(
            "{} holds the cluster's data key and has the mode {mode:04o}: others on this host can read it; make it 0600",
            path.display()
        );
    }
    long_enough(found, path.display().to_string())
}

fn long_enough(key: Zeroizing<Vec<u8>>, place: String) -> Result<Zeroizing<Vec<u8>>, DataKeyError> {
    match key.len() {
        found if found < BYTES => Err(DataKeyError::Short { place, found }),
        _ => Ok(key),
    }
}

/// The key of a file, which is made if it is not there.
fn kept(path: &Path) -> Result<Zeroizing<Vec<u8>>, DataKeyError> {
    match read(path) {
        Err(DataKeyError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {}
        found => return found,
    }
    let key = random()?;
    // For this user alone.
    whole::write(path, &key[..], 0o600).map_err(|source| DataKeyError::File {
        path: path.display().to_string(),
        source,
    })?;
    Ok(Zeroizing::new(key.to_vec()))
}

fn random() -> Result<Zeroizing<[u8; BYTES]>, DataKeyError> {
    let mut key = Zeroizing::new([0; BYTES]);
    SystemRandom::new()
        .fill(&mut key[..])
        .map_err(|_| DataKeyError::Random)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use espalier_spec::Rank;

    fn config(directory: &Path, more: &[&str]) -> Config {
        let directory = directory.to_str().unwrap();
        let flags = ["espalier-coordinator", "--data-dir", directory];
        Config::try_parse_from(flags.into_iter().chain(more.iter().copied())).unwrap()
    }

    fn peers(addresses: &[&str]) -> Vec<PeerAddress> {
        let peer = |(rank, address): (usize, &&str)| PeerAddress {
            rank: Rank(rank as u32),
            address: (*address).to_owned(),
            host_id: String::new(),
        };
        addresses.iter().enumerate().map(peer).collect()
    }

    // Promise: the same key, job and generation give the same secret, also after a restart; another key,
    // job or generation gives another one. The key is for this user alone.
    #[test]
    fn secrets_are_of_one_generation() {
        let directory = tempfile::tempdir().unwrap();
        let of_host = || Secrets::of_host(&config(directory.path(), &[])).unwrap();
        let away = peers(&["10.0.0.1:7000", "127.0.0.1:7000"]);
        let secret = of_host().of("uid", Generation(3), &away);
        assert_eq!(secret.len(), 32);
        assert_eq!(of_host().of("uid", Generation(3), &away), secret);
        assert_ne!(of_host().of("uid", Generation(4), &away), secret);
        assert_ne!(of_host().of("other", Generation(3), &away), secret);
        let mode = fs::metadata(directory.path().join(FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        let another = tempfile::tempdir().unwrap();
        let another = Secrets::of_host(&config(another.path(), &[])).unwrap();
        assert_ne!(another.of("uid", Generation(3), &away), secret);
        assert_eq!(format!("{another:?}"), "Secrets(..)");
    }

    // Promise: what leaves a host has a secret unless plain text was asked for, what stays there has one
    // only if that was asked for.
    #[test]
    fn who_gets_a_secret() {
        let directory = tempfile::tempdir().unwrap();
        let here = peers(&["127.0.0.1:7000", "[::1]:7000"]);
        let away = peers(&["127.0.0.1:7000", "10.0.0.1:7000"]);
        let odd = peers(&["worker-0.espalier-workers:7000"]);
        for (flags, wanted) in [
            (&[][..], [false, true, true]),
            (&["--data-plane", "encrypted"][..], [true, true, true]),
            (&["--data-plane", "plain"][..], [false, false, false]),
        ] {
            let secrets = Secrets::of_host(&config(directory.path(), flags)).unwrap();
            let found = [&here, &away, &odd]
                .map(|peers| !secrets.of("uid", Generation(1), peers).is_empty());
            assert_eq!(found, wanted, "{flags:?}");
        }
    }

    // Promise: a key that was given is used and not replaced, and one that is none says what is wrong.
    #[test]
    fn keys_that_are_given() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("given");
        let flags = ["--data-key-file", file.to_str().unwrap()];
        let config = config(directory.path(), &flags);
        let missing = Secrets::of_host(&config).unwrap_err().to_string();
        assert!(missing.contains("given"), "{missing}");
        fs::write(&file, [1u8; 31]).unwrap();
        let short = Secrets::of_host(&config).unwrap_err().to_string();
        assert!(short.contains("31 bytes"), "{short}");
        fs::write(&file, [1u8; 32]).unwrap();
        let away = peers(&["10.0.0.1:7000"]);
        let secret = |config: &Config| {
            let secrets = Secrets::of_host(config).unwrap();
            secrets.of("uid", Generation(1), &away)
        };
        let first = secret(&config);
        fs::write(&file, [2u8; 32]).unwrap();
        assert_ne!(secret(&config), first);
        assert!(!directory.path().join(FILE).exists());
    }
}
