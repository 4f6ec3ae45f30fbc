//! Espalier's wire protocol: protobufs, generated code, conversion to the vocabulary.
//!
//! This is the only crate that names prost types. Others use:
//!
//! - [`v1`]: the messages of `espalier.v1`, its clients (`v1::job_service_client::JobServiceClient`
//!   and so on) and its server traits;
//! - [`Wire`]: conversion between messages and the types of `espalier-spec`, with every bad field
//!   named at once;
//! - [`ApiError`]: what an RPC answers instead of a result, as a type, both ways;
//! - [`time`]: timestamps and durations;
//! - [`Bearer`]: what a client proves with who it is;
//! - [`Route`]: which of a cluster's coordinators to call, and where to go on when it does not lead;
//! - [`tensorboard`]: event files that TensorBoard reads;
//! - [`json`]: requests and answers as proto3 JSON;
//! - [`etcd`]: the part of etcd's API that the coordinator's store uses;
//! - [`FILE_DESCRIPTOR_SET`], [`ERROR_DESCRIPTOR_SET`]: what gRPC reflection serves.

pub mod bearer;
pub mod convert;
pub mod error;
pub mod json;
pub mod route;
mod shown;
pub mod tensorboard;
pub mod time;

pub use bearer::{Bearer, Credentials};
pub use convert::{Violations, Wire};
pub use error::{ApiError, ErrorKind};
pub use route::Route;

/// The messages, clients and servers of `espalier.v1`. The comments of the proto files are their
/// documentation.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("espalier.v1");
}

/// The messages and the client of `proto/etcd/kv.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod etcd {
    tonic::include_proto!("etcdserverpb");
}

/// Bytes of a message on the wire.
#[must_use]
pub fn encoded_len(message: &impl prost::Message) -> usize {
    message.encoded_len()
}

/// Every method of `espalier.v1` with its service: `("espalier.v1.JobService", "CreateJob")`.
#[must_use]
pub fn methods() -> Vec<(String, String)> {
    use prost::Message as _;
    // What was compiled in can be read; without it there is none.
    let files = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap_or_default();
    let mut methods = Vec::new();
    for file in &files.file {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            let own = service.method.iter();
            methods.extend(own.map(|method| (name.clone(), method.name().to_owned())));
        }
    }
    methods
}

/// The protos of `espalier.v1` and all they import, encoded as `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/espalier.v1.bin"));

/// The protos of `google.rpc` that details of errors are made of, encoded likewise.
pub const ERROR_DESCRIPTOR_SET: &[u8] = tonic_types::pb::FILE_DESCRIPTOR_SET;
