//! Which ranks can share memory.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// Names the place where this process can share memory with others: processes with equal ids
/// run on the same booted kernel and see the same `/dev/shm`.
///
/// It is made of the kernel's boot id and the device number of `/dev/shm`. Containers of one
/// machine with a `/dev/shm` each get different ids and use TCP; containers that share it get
/// equal ones. Machines cloned from one memory image can have equal ids without sharing
/// anything: [`connect`](crate::connect) finds out and uses TCP.
///
/// Where the facts can't be read, the id is unique to this call, so nothing is shared.
pub fn host_id() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let shm = fs::metadata("/dev/shm");
    match (boot, shm) {
        (Ok(boot), Ok(shm)) => format!("{}-{:x}.{:x}", boot.trim(), shm.dev(), shm.ino()),
        _ => {
            let mut random = [0u8; 16];
            match rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()) {
                Ok(_) => random
                    .iter()
                    .fold(String::from("alone-"), |s, b| format!("{s}{b:02x}")),
                // Even then two processes must not be taken for neighbours.
                Err(_) => format!("alone-{}", std::process::id()),
            }
        }
    }
}
