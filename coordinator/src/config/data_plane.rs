//! Settings of what ranks send each other.

use super::ConfigError;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// How ranks of different hosts reach each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct DataPlaneFlags {
    /// Whether ranks know each other by a secret of their generation and encrypt what they send;
    /// default: as soon as a rank of the job listens beyond its own host
    #[arg(long, env = "ESPALIER_DATA_PLANE", value_enum, value_name = "HOW")]
    pub data_plane: Option<DataPlane>,
    /// File of at least 32 random bytes that secrets of generations are made from; default: made once
    /// and kept beside the store
    #[arg(long, env = "ESPALIER_DATA_KEY_FILE", value_name = "PATH")]
    pub data_key_file: Option<PathBuf>,
}

/// What ranks do with what they send each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DataPlane {
    /// Encrypt it, and let nobody in who does not know the generation's secret
    Encrypted,
    /// Send it as it is to whoever connects: for a network that is trusted
    Plain,
}

impl DataPlaneFlags {
    /// Checks the rules that connect settings.
    ///
    /// # Errors
    ///
    /// A key that nothing would be made from.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        match (&self.data_key_file, self.data_plane) {
            (Some(path), Some(DataPlane::Plain)) => {
                Err(ConfigError::UselessKey(path.display().to_string()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use clap::Parser;

    // Promise: nothing is chosen by default, and a key for data that is not encrypted is a mistake that is
    // told.
    #[test]
    fn flags() {
        let parse = |flags: &[&str]| {
            let flags = std::iter::once("espalier-coordinator").chain(flags.iter().copied());
            Config::try_parse_from(flags).unwrap()
        };
        assert_eq!(parse(&[]).data_plane, DataPlaneFlags::default());
        let plain = ["--data-plane", "plain"];
        assert_eq!(parse(&plain).validate(), Ok(()));
        let key = ["--data-key-file", "/etc/espalier/data-key"];
        assert_eq!(parse(&key).validate(), Ok(()));
        let both = [plain, key].concat();
        let error = parse(&both).validate().unwrap_err().to_string();
        assert!(error.contains("--data-key-file"), "{error}");
        assert!(error.contains("--data-plane encrypted"), "{error}");
    }
}
