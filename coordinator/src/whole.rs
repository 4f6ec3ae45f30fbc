//! Files that nobody ever sees half written.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Writes a file in place of whatever has its name, with its folder if that is missing. Whoever looks finds the old
/// content or the new one, also after the host has crashed. `mode` is narrowed by the process's umask.
///
/// # Errors
/// What the system says; then the old file is as it was.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(directory)?;
    // Named at random: what a killed process left is in nobody's way.
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(directory)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: a file is replaced as a whole, for those whom it is for, and nothing else is left; what can't be
    // written changes nothing.
    #[test]
    fn whole_or_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/folder/file");
        write(&path, b"first, and longer", 0o600).unwrap();
        write(&path, b"second", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // A folder stands where the file is to be.
        let taken = path.parent().unwrap();
        write(taken, b"third", 0o600).unwrap_err();
        assert_eq!(fs::read_dir(taken).unwrap().count(), 1);
        assert_eq!(fs::read_dir(taken.parent().unwrap()).unwrap().count(), 1);
    }
}
