//! Compiles the protos in pure Rust: no `protoc` needs to be installed.

use prost::Message;
use std::path::PathBuf;

const PROTOS: [&str; 7] = [
    "espalier/v1/job.proto",
    "espalier/v1/progress.proto",
    "espalier/v1/plan.proto",
    "espalier/v1/spec.proto",
    "espalier/v1/task.proto",
    "espalier/v1/cluster.proto",
    "espalier/v1/worker.proto",
];

/// The part of etcd's API that the coordinator uses; not ours to serve.
const ETCD: &str = "etcd/kv.proto";

/// What TensorBoard reads: ours to write, not to serve.
const TENSORBOARD: &str = "tensorboard/event.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for proto in PROTOS.into_iter().chain([ETCD, TENSORBOARD]) {
        println!("cargo:rerun-if-changed={proto}");
    }
    let descriptors = protox::Compiler::new(["."])?
        .include_imports(true)
        .include_source_info(true)
        .open_files(PROTOS)?
        .file_descriptor_set();
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // Served by gRPC reflection, so that clients in any language need no files of ours.
    std::fs::write(out.join("espalier.v1.bin"), descriptors.encode_to_vec())?;
    // BTreeMap: what is written and shown must not depend on a hash order.
    // No `connect` shortcut in the clients: it would clash with the rpc `WorkerService.Connect`.
    // Callers make the channel themselves, with their own deadlines.
    tonic_prost_build::configure()
        .btree_map(".")
        .build_transport(false)
        // Holds a secret: `src/shown.rs` shows it without.
        .skip_debug([".espalier.v1.Start"])
        .compile_fds(descriptors)?;
    let etcd = protox::Compiler::new(["."])?
        .include_imports(true)
        .open_files([ETCD])?
        .file_descriptor_set();
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .compile_fds(etcd)?;
    let tensorboard = protox::Compiler::new(["."])?
        .open_files([TENSORBOARD])?
        .file_descriptor_set();
    tonic_prost_build::configure()
        .build_server(false)
        .build_client(false)
        .compile_fds(tensorboard)?;
    Ok(())
}
