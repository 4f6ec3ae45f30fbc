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
//! - [`Route`]: which of a cluster's coordinators to call, and where to go on when it does not lead;
//! - [`etcd`]: the part of etcd's API that the coordinator's store uses;
//! - [`FILE_DESCRIPTOR_SET`]: what gRPC reflection serves.

pub mod convert;
pub mod error;
pub mod route;
pub mod time;

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

/// The protos of `espalier.v1` and all they import, encoded as `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/espalier.v1.bin"));
