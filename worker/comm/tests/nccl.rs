//! The NCCL communicator where there is nothing to run it on. What it does on a GPU is compared by
//! `examples/nccl_conformance.rs` (see `tests/gpu` of the workspace).
#![cfg(feature = "nccl")]

mod common;

use std::time::Duration;

use common::{Via, world};
use espalier_comm::{DeviceBuffer, Error, NcclCommunicator, NcclOptions, nccl_report};

/// What is missing on this machine, or None if NCCL can be used here.
fn missing() -> Option<(String, Error)> {
    match nccl_report(0) {
        // This machine has all of it: nothing to see here.
        Ok(_) => None,
        Err(error @ Error::Unavailable { .. }) => {
            let Error::Unavailable { library, .. } = &error else {
                return None;
            };
            Some((library.clone(), error))
        }
        Err(other) => panic!("expected what is missing, got {other}"),
    }
}

#[test]
fn what_is_missing_is_named_with_what_to_do() {
    // Promise: without a driver or NCCL, the error names the library, where it was looked for, and
    // what to install or set.
    let Some((library, error)) = missing() else {
        return;
    };
    let text = error.to_string();
    assert!(!error.retryable());
    match library.as_str() {
        "libcuda.so.1" => assert!(text.contains("NVIDIA's driver"), "{text}"),
        "libnccl.so.2" => {
            for part in ["nvidia-nccl-cu13", "LD_LIBRARY_PATH", "ESPALIER_NCCL"] {
                assert!(text.contains(part), "{part} is not in {text}");
            }
        }
        other => panic!("{other} is not a library of this crate"),
    }
    assert!(
        text.contains(&format!("{library} cannot be used")),
        "{text}"
    );
}

#[test]
fn asking_for_nccl_fails_on_every_rank_and_nobody_waits() {
    // Promise: where NCCL cannot be used, every rank hears so at once, long before any deadline.
    if missing().is_none() {
        return;
    }
    let began = std::time::Instant::now();
    let errors = world(3, Via::Mixed, Duration::from_secs(120), |comm| {
        NcclCommunicator::new(comm, NcclOptions::new(1, 0)).expect_err("nothing to run on")
    });
    for error in errors {
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    }
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn memory_on_a_device_needs_a_device() {
    // Promise: without a driver, memory on a device is an error, not a crash.
    if missing().is_none() {
        return;
    }
    let error = DeviceBuffer::new(0, &[1f32]).expect_err("no device");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}
