//! A worker.

use super::Moment;
use espalier_proto::time;
use espalier_proto::v1::{self, worker::State};
use serde::Serialize;

/// A worker's state as answers name it: that of the protocol.
pub(crate) fn worker_state(state: State) -> &'static str {
    state.as_str_name()
}

/// One worker process.
#[derive(Debug, Serialize)]
pub(crate) struct Worker {
    pub(crate) name: String,
    #[serde(serialize_with = "as_name")]
    pub(crate) state: State,
    pub(crate) state_reason: String,
    pub(crate) version: String,
    pub(crate) host: String,
    pub(crate) create_time: Option<Moment>,
    pub(crate) heartbeat_time: Option<Moment>,
    pub(crate) devices: Vec<Device>,
}

/// One device of a worker.
#[derive(Debug, Serialize)]
pub(crate) struct Device {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// The job that uses it and the rank it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) job: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rank: Option<u32>,
    /// All ranks of that job that share it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ranks: Vec<u32>,
}

fn as_name<S: serde::Serializer>(state: &State, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.as_str_name())
}

impl From<v1::Worker> for Worker {
    fn from(worker: v1::Worker) -> Self {
        Self {
            state: worker.state(),
            name: worker.name,
            state_reason: worker.state_reason,
            version: worker.version,
            host: worker.host,
            create_time: worker.create_time.as_ref().map(time::millis).map(Moment),
            heartbeat_time: worker.heartbeat_time.as_ref().map(time::millis).map(Moment),
            devices: worker.devices.into_iter().map(Device::from).collect(),
        }
    }
}

impl From<v1::worker::Device> for Device {
    fn from(device: v1::worker::Device) -> Self {
        let used = !device.job.is_empty();
        Self {
            index: device.index,
            name: device.name,
            rank: used.then_some(device.rank),
            job: used.then_some(device.job),
            ranks: device.ranks,
        }
    }
}
