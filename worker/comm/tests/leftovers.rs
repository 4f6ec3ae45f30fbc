//! Nothing stays behind on the host. Alone in its process, since it counts the process's files.

mod common;

use std::time::Duration;

use common::{ALL, world};
use espalier_comm::CommunicatorExt;

#[test]
fn no_name_stays_in_shared_memory() {
    // Promise: once ranks are joined, nothing of theirs has a name in /dev/shm, so that no kill
    // after that leaves anything behind.
    let prefix = format!("espalier-{}-", std::process::id());
    let named = || -> Vec<String> {
        std::fs::read_dir("/dev/shm")
            .expect("/dev/shm")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(&prefix))
            .collect()
    };
    for via in ALL {
        world(3, via, Duration::from_secs(30), |comm| {
            comm.barrier().expect("barrier");
            assert_eq!(named(), Vec::<String>::new(), "{via:?}");
        });
    }
}
