//! Checkpoints (durable recovery points) and exports (Hugging Face directories).
//!
//! A checkpoint is a directory `step-00000500` of safetensors files, `manifest.json`, which names every file with its
//! length and BLAKE3 hash, and `manifest.blake3`, the hash of that. Every rank writes a part of it: `part-00000.safetensors`,
//! its slices of what all ranks need, and `own-00000.safetensors`, what the owner of these slices needs beside them. It is
//! written under a temporary name and renamed, so a directory with the final name is whole or damaged by something else,
//! and the hashes tell. Slices have their places in their names, so that any number of ranks can load them. The layout
//! before this one, whole tensors of rank 0 and no hash of the manifest, is read too.
//!
//! Where the job wants it, rank 0 copies whole checkpoints elsewhere (`uploading`, in a thread of its own; `copies` knows
//! what a copy is), and what is gone here is brought back from there.

mod adapter;
mod copies;
mod durable;
mod error;
mod export;
mod files;
mod image;
mod images;
mod parts;
mod saving;
mod sentences;
mod uploading;

pub use adapter::{Adapter, LowRank};
pub use copies::{bring_back, bring_best};
pub use durable::{Checkpoint, Manifest, RunState, Store, Writer};
pub use error::Error;
pub use export::{
    ADAPTER_DIR, Export, ExportedClasses, ExportedTask, HEADS_FILE, META_FILE, write_export,
};
pub use files::{FileEntry, read_tensors, write_tensors};
pub use image::{Draft, Image, Values, fill};
pub use images::Images;
pub use saving::{Saved, Saving};
pub use uploading::Uploading;
