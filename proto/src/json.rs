//! proto3 JSON of the services: for those who call them without gRPC.
//!
//! [`Services`] knows the methods by name; a [`Method`] turns JSON into the bytes of its request and
//! the bytes of its answers into JSON. [`Raw`] carries such bytes through gRPC as they are.

use crate::{ApiError, ErrorKind, FILE_DESCRIPTOR_SET};
use prost::Message;
use prost::bytes::{Buf, BufMut, Bytes};
use prost_reflect::{
    DescriptorError, DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor,
    SerializeOptions,
};
use std::collections::BTreeMap;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Unknown fields are slips, and refused.
const READ: DeserializeOptions = DeserializeOptions::new();
/// Zeros and empty lists are written too, so that readers need no defaults of their own.
const WRITE: SerializeOptions = SerializeOptions::new().skip_default_fields(false);

/// Why there are no methods.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The protos of this binary are broken.
    #[error("the protos of this program can't be read: {0}")]
    Descriptors(#[from] DescriptorError),
    /// A service is not among them.
    #[error("the protos of this program have no service espalier.v1.{0}")]
    Service(String),
}

/// Services of `espalier.v1` and their methods.
#[derive(Clone, Debug)]
pub struct Services {
    methods: BTreeMap<(String, String), Method>,
}

impl Services {
    /// The services of these names, such as `JobService`.
    ///
    /// # Errors
    ///
    /// There is none of a name.
    pub fn new(names: &[&str]) -> Result<Self, JsonError> {
        let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET)?;
        let mut methods = BTreeMap::new();
        for name in names {
            let full = format!("espalier.v1.{name}");
            let service = pool
                .get_service_by_name(&full)
                .ok_or_else(|| JsonError::Service((*name).to_owned()))?;
            for method in service.methods() {
                let key = ((*name).to_owned(), method.name().to_owned());
                let method = Method {
                    path: format!("/{full}/{}", method.name()),
                    streams: method.is_server_streaming(),
                    input: method.input(),
                    output: method.output(),
                };
                methods.insert(key, method);
            }
        }
        Ok(Self { methods })
    }

    /// The method of a service, both by name.
    #[must_use]
    pub fn method(&self, service: &str, method: &str) -> Option<&Method> {
        self.methods.get(&(service.to_owned(), method.to_owned()))
    }
}

/// A method of a service.
#[derive(Clone, Debug)]
pub struct Method {
    path: String,
    streams: bool,
    input: MessageDescriptor,
    output: MessageDescriptor,
}

impl Method {
    /// Its path in gRPC, such as `/espalier.v1.JobService/GetJob`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether it answers with a stream.
    #[must_use]
    pub fn streams(&self) -> bool {
        self.streams
    }

    /// The bytes of a request; nothing at all is the empty request.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT`: it is no JSON, or not that of the request.
    pub fn request(&self, json: &[u8]) -> Result<Vec<u8>, ApiError> {
        let blank = json.iter().all(u8::is_ascii_whitespace);
        let json: &[u8] = if blank { b"{}" } else { json };
        let mut reader = serde_json::Deserializer::from_slice(json);
        let message =
            DynamicMessage::deserialize_with_options(self.input.clone(), &mut reader, &READ)
                .and_then(|message| reader.end().map(|()| message));
        let message = message.map_err(|error| {
            ApiError::new(
                ErrorKind::InvalidArgument,
                "MALFORMED_JSON",
                format!(
                    "the body is no proto3 JSON of {}: {error}",
                    self.input.full_name()
                ),
            )
        })?;
        Ok(message.encode_to_vec())
    }

    /// The JSON of an answer.
    ///
    /// # Errors
    ///
    /// `INTERNAL`: the bytes are none of the answer's.
    pub fn answer(&self, bytes: &[u8]) -> Result<Vec<u8>, ApiError> {
        let odd = |error: &dyn std::fmt::Display| {
            let name = self.output.full_name();
            ApiError::new(
                ErrorKind::Internal,
                "ODD_ANSWER",
                format!("a {name} can't be written as JSON: {error}; this is a bug, report it"),
            )
        };
        let message =
            DynamicMessage::decode(self.output.clone(), bytes).map_err(|error| odd(&error))?;
        let mut json = Vec::with_capacity(bytes.len() * 2);
        let mut writer = serde_json::Serializer::new(&mut json);
        message
            .serialize_with_options(&mut writer, &WRITE)
            .map_err(|error| odd(&error))?;
        Ok(json)
    }
}

/// Messages as their bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::v1;
    use serde_json::{Value, json};

    fn services() -> Services {
        Services::new(&["JobService", "ClusterService"]).unwrap()
    }

    // Promise: a request in JSON is the one that gRPC clients send, by either way of writing names.
    #[test]
    fn requests() {
        let services = services();
        let method = services.method("JobService", "WatchJob").unwrap();
        assert!(method.streams());
        assert_eq!(method.path(), "/espalier.v1.JobService/WatchJob");
        let expected = v1::WatchJobRequest {
            name: "a".into(),
            after_sequence: 7,
        };
        for json in [
            r#"{"name": "a", "afterSequence": "7"}"#,
            r#"{"name": "a", "after_sequence": 7}"#,
        ] {
            assert_eq!(
                method.request(json.as_bytes()).unwrap(),
                expected.encode_to_vec()
            );
        }
        assert_eq!(method.request(b" \n").unwrap(), Vec::<u8>::new());
    }

    // Promise: what is no request is refused with the place, and deep nesting ends nothing but the call.
    #[test]
    fn malformed_requests() {
        let services = services();
        let method = services.method("JobService", "CreateJob").unwrap();
        let deep = "[".repeat(100_000);
        for (json, said) in [
            ("{", "line 1"),
            ("[]", "CreateJobRequest"),
            (r#"{"spec": {"nmae": "a"}}"#, "nmae"),
            (r#"{"validateOnly": "yes"}"#, "line 1"),
            (r#"{} {}"#, "line 1"),
            (deep.as_str(), "CreateJobRequest"),
        ] {
            let error = method.request(json.as_bytes()).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidArgument, "{json:.20}");
            assert!(error.message.contains(said), "{error}");
        }
    }

    // Promise: answers have every field that has a value, zeros and empty ones too; absent ones stay absent.
    #[test]
    fn answers() {
        let services = services();
        let method = services.method("JobService", "GetJob").unwrap();
        let job = v1::Job {
            name: "a".into(),
            generation: u64::MAX,
            state: v1::job::State::Running.into(),
            ..v1::Job::default()
        };
        let json = method.answer(&job.encode_to_vec()).unwrap();
        let value: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(value["state"], json!("RUNNING"));
        assert_eq!(value["generation"], json!("18446744073709551615"));
        assert_eq!(value["exportPath"], json!(""));
        assert_eq!(value["recoveries"], json!([]));
        assert_eq!(value.get("goodput"), None);
        assert_eq!(value.get("plan"), None);
        assert!(method.answer(&[0xff; 3]).is_err());
    }

    // Promise: only what was asked for is there.
    #[test]
    fn only_these_services() {
        let services = services();
        assert!(services.method("ClusterService", "ListWorkers").is_some());
        assert!(services.method("WorkerService", "Connect").is_none());
        assert!(services.method("JobService", "getJob").is_none());
        assert!(Services::new(&["NoService"]).is_err());
    }
}
