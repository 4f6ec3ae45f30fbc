//! Checkpoints on disk: the manifest and a file that it names.

use super::checkpoints::Checkpoint;

/// The bytes up to the first 0 are the manifest, the others a file `model.safetensors`. Any of it is opened
/// or refused.
pub fn target(bytes: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else {
        return;
    };
    let end = bytes.iter().position(|byte| *byte == 0);
    let (manifest, file) = bytes.split_at(end.unwrap_or(bytes.len()));
    let written = std::fs::write(folder.path().join("manifest.json"), manifest)
        .and_then(|()| std::fs::write(folder.path().join("model.safetensors"), file));
    if written.is_ok()
        && let Ok(checkpoint) = Checkpoint::open(folder.path())
    {
        // Hashes fit, so the file is what somebody wrote, and it may still be no tensors.
        let _ = checkpoint.tensors("model");
    }
}
