//! What can go wrong with checkpoints and exports.

use crate::fetch;
use std::io;
use std::path::PathBuf;

/// What can go wrong with checkpoints and exports.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk is full; whatever was durable before still is.
    #[error("the disk is full: cannot write {path}; older checkpoints are intact: free some space")]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// Another failure to read or write.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file is not what its manifest says.
    #[error("damaged checkpoint: {path}: {message}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found and expected.
        message: String,
    },
    /// What was handed over or read is no part of a run, or another one's.
    #[error("{what}: {message}")]
    Image {
        /// What it is taken for.
        what: String,
        /// What was found and expected.
        message: String,
    },
    /// A rank has not written its part of a checkpoint.
    #[error("checkpoint {path} is not whole: rank {rank}: {message}; older checkpoints are intact")]
    Part {
        /// Where it would have been.
        path: PathBuf,
        /// The rank.
        rank: usize,
        /// Why.
        message: String,
    },
    /// The place that checkpoints are copied to did not do as it should.
    #[error(transparent)]
    Copy(#[from] fetch::Error),
    /// A TorchScript module could not be written with what was trained.
    #[error("cannot write the TorchScript module into {path}: {source}")]
    Script {
        /// The directory.
        path: PathBuf,
        /// Why it failed.
        source: tch::TchError,
    },
    /// A tensor could not be made or copied.
    #[error("cannot copy tensor {name}: {source}")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// Why it failed.
        source: tch::TchError,
    },
}

impl Error {
    /// Sorts an IO error: a full disk is an error of its own.
    pub fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::DiskFull { path: path.into() }
            }
            _ => Error::Io {
                action,
                path: path.into(),
                source,
            },
        }
    }
}
