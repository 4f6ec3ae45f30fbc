//! Checkpoints (durable recovery points) and exports (Hugging Face directories).
//!
//! A checkpoint is a directory `step-00000500` of safetensors files and one `manifest.json`, which
//! is written last and names every file with its length and BLAKE3 hash. It is written under a
//! temporary name and renamed, so a directory with the final name is whole or damaged by something
//! else, and the hashes tell. Optimizer state is stored by block and slice, so that any number of
//! ranks can load it.

mod adapter;
mod durable;
mod error;
mod export;
mod files;

pub use adapter::{Adapter, LowRank};
pub use durable::{Checkpoint, Manifest, RunState, Store, Writer};
pub use error::Error;
pub use export::{
    ADAPTER_DIR, Export, ExportedClasses, ExportedTask, HEADS_FILE, META_FILE, write_export,
};
pub use files::{FileEntry, read_tensors, write_tensors};
