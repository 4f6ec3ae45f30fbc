//! Processes of a cluster whose `espalier up` was killed.

use super::folder::Folder;
use crate::output::Context;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// How often a process that was asked to end is looked for, 100 ms apart, before it is killed.
const LOOKS: u32 = 100;

/// Ends them: they would hold the folder's files and the port.
pub(super) async fn end(folder: &Folder, context: &Context) {
    for process in folder.state().unwrap_or_default().processes {
        if !is_of(folder, process.pid) {
            continue;
        }
        let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else {
            continue;
        };
        context.warn(&format!(
            "{} of an earlier cluster still runs as process {}; ending it",
            process.name, process.pid
        ));
        // It may end by itself at any moment: then all the better.
        let _ = kill_process(pid, Signal::TERM);
        for _ in 0..LOOKS {
            if !is_of(folder, process.pid) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if is_of(folder, process.pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Whether a process runs one of our binaries on this folder's data. Process ids are used again, after a
/// reboot by the processes of another folder's cluster as likely as by any.
fn is_of(folder: &Folder, pid: u32) -> bool {
    let place = Path::new("/proc").join(pid.to_string());
    let program = std::fs::read_link(place.join("exe")).unwrap_or_default();
    let name = program.file_name().unwrap_or_default().as_bytes();
    if !name.starts_with(b"espalier-") {
        return false;
    }
    let (Ok(line), Ok(at)) = (
        std::fs::read(place.join("cmdline")),
        std::fs::read_link(place.join("cwd")),
    ) else {
        // It has just ended, or belongs to another user.
        return false;
    };
    works_on(folder, &line, &at)
}

/// Whether a command line, its words each followed by a zero, names data of this folder, seen from the
/// working directory `at`.
fn works_on(folder: &Folder, line: &[u8], at: &Path) -> bool {
    let mut words = line.split(|byte| *byte == 0);
    let flag = words.find(|word| *word == b"--data-dir");
    let Some(data) = flag.and_then(|_| words.next()) else {
        return false;
    };
    // Both kinds of data are directly in the folder.
    let data = at.join(OsStr::from_bytes(data));
    let of = data.parent().and_then(|of| of.canonicalize().ok());
    let own = folder.join("").canonicalize().ok();
    of.is_some() && of == own
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: only processes of this folder's own cluster are ended, whether their folder was named from
    // the root or from where they were started.
    #[test]
    fn a_process_of_another_folder_is_left_alone() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let [one, other] = ["one", "other"].map(|name| place.path().join(name).join("cluster"));
        for dir in [&one, &other] {
            std::fs::create_dir_all(dir).expect("made");
        }
        let folder = Folder::new(Some(&one));
        let line = |data: &Path| {
            let mut line = b"espalier-worker\0run\0--data-dir\0".to_vec();
            line.extend(data.as_os_str().as_bytes());
            line.extend(b"\0--quiet\0");
            line
        };
        let root = Path::new("/");
        assert!(works_on(&folder, &line(&one.join("data")), root));
        assert!(!works_on(&folder, &line(&other.join("data")), root));
        let relative = Path::new("cluster/coordinator");
        assert!(works_on(
            &folder,
            &line(relative),
            &place.path().join("one")
        ));
        assert!(!works_on(
            &folder,
            &line(relative),
            &place.path().join("other")
        ));
        let nowhere = Path::new("gone/coordinator");
        assert!(!works_on(&folder, &line(nowhere), place.path()));
        assert!(!works_on(&folder, b"espalier-worker\0--data-dir", root));
        assert!(!works_on(&folder, b"", root));
        // This process itself is no part of a cluster.
        assert!(!is_of(&folder, std::process::id()));
    }
}
