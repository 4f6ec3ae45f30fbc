//! Where the ranks of these tests compute.

use espalier_worker::device::{Wanted, named};
use std::path::PathBuf;
use tch::Device;

/// Whether that is the host.
pub fn computes_on_host() -> bool {
    place() == Device::Cpu
}

/// The host, or the device that `ESPALIER_TEST_DEVICE` names: so the same promises are kept wherever ranks compute.
pub fn place() -> Device {
    let Ok(name) = std::env::var("ESPALIER_TEST_DEVICE") else {
        return Device::Cpu;
    };
    let wanted: Wanted = name.parse().unwrap();
    let folder = std::env::var_os("ESPALIER_CUDA").map(PathBuf::from);
    let names = wanted.devices(folder.as_deref()).unwrap();
    named(&names[0]).unwrap()
}
