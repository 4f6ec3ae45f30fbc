//! A client of etcd's key-value service: a transaction, a range, a compaction; the next endpoint
//! where one does not answer. What keys mean is in [`Keys`], what is written there in
//! `store/etcd.rs` and `election.rs`.

mod keys;

pub use keys::Keys;

use espalier_proto::etcd::compare::{CompareResult, CompareTarget, TargetUnion};
use espalier_proto::etcd::kv_client::KvClient;
use espalier_proto::etcd::request_op::Request as Op;
use espalier_proto::etcd::{
    CompactionRequest, Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RequestOp,
    TxnRequest, TxnResponse,
};
use espalier_tls::{ClientTls, TlsError, explain};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// Keys that one answer may hold; values are at most some 1 MiB.
const PAGE: i64 = 32;
/// Largest answer.
const ANSWER_BYTES: usize = 64 << 20;
/// Silence after which an endpoint is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// Why etcd did not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EtcdError {
    /// An address is none.
    #[error("{address:?} is no address of an etcd: {detail}; expected such as http://HOST:2379")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        detail: String,
    },
    /// No endpoint answered, or none could do it now. What was asked for may have been done.
    #[error("etcd at {endpoints} can't be reached: {detail}")]
    Away {
        /// The endpoints.
        endpoints: String,
        /// What the last one said.
        detail: String,
    },
    /// etcd will not do it, however often it is asked.
    #[error("etcd at {endpoints} refused: {detail}")]
    Refused {
        /// The endpoints.
        endpoints: String,
        /// What it said.
        detail: String,
    },
}

/// The endpoints of one etcd.
#[derive(Clone, Debug)]
pub struct Etcd {
    clients: Vec<KvClient<Channel>>,
    /// The endpoint that answered last; shared by clones.
    at: Arc<AtomicUsize>,
    endpoints: String,
    timeout: Duration,
}

impl Etcd {
    /// Endpoints such as `http://127.0.0.1:2379`; each call waits for each of them at most
    /// `timeout`. Connects on first use. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// An endpoint is no address.
    pub fn new(endpoints: &[String], timeout: Duration) -> Result<Self, EtcdError> {
        Self::over(endpoints, timeout, &ClientTls::default())
    }

    /// Likewise; at addresses of `https://` with these certificates.
    ///
    /// # Errors
    ///
    /// An endpoint is no address.
    pub fn over(
        endpoints: &[String],
        timeout: Duration,
        tls: &ClientTls,
    ) -> Result<Self, EtcdError> {
        let client = |address: &String| -> Result<KvClient<Channel>, EtcdError> {
            let channel = tls.lazy(address, |endpoint| {
                endpoint
                    .connect_timeout(timeout)
                    .tcp_nodelay(true)
                    .http2_keep_alive_interval(KEEPALIVE)
                    .keep_alive_timeout(KEEPALIVE)
            });
            let channel = channel.map_err(|error| EtcdError::Address {
                address: address.clone(),
                detail: match error {
                    TlsError::Address { detail, .. } => detail,
                    other => other.to_string(),
                },
            })?;
            Ok(KvClient::new(channel).max_decoding_message_size(ANSWER_BYTES))
        };
        let clients: Vec<_> = endpoints.iter().map(client).collect::<Result<_, _>>()?;
        if clients.is_empty() {
            return Err(EtcdError::Address {
                address: String::new(),
                detail: "it is empty".into(),
            });
        }
        Ok(Self {
            clients,
            at: Arc::default(),
            endpoints: endpoints.join(","),
            timeout,
        })
    }

    /// The endpoints, for people.
    #[must_use]
    pub fn endpoints(&self) -> &str {
        &self.endpoints
    }

    /// The same endpoints with another patience.
    #[must_use]
    pub fn waiting(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Writes `ops` as one if all of `compare` hold.
    ///
    /// # Errors
    ///
    /// [`EtcdError::Away`]: it may have been done.
    pub async fn txn(
        &self,
        compare: Vec<Compare>,
        ops: Vec<RequestOp>,
    ) -> Result<TxnResponse, EtcdError> {
        let request = TxnRequest {
            compare,
            success: ops,
            failure: Vec::new(),
        };
        self.call(|mut client| {
            let request = request.clone();
            async move { client.txn(request).await }
        })
        .await
    }

    /// All keys from `from` to before `end`, in order.
    ///
    /// # Errors
    ///
    /// etcd did not answer.
    pub async fn range(&self, from: &str, end: &str) -> Result<Vec<KeyValue>, EtcdError> {
        let mut all: Vec<KeyValue> = Vec::new();
        let mut key = from.as_bytes().to_vec();
        loop {
            let request = RangeRequest {
                key: key.clone(),
                range_end: end.as_bytes().to_vec(),
                limit: PAGE,
            };
            let page = self
                .call(|mut client| {
                    let request = request.clone();
                    async move { client.range(request).await }
                })
                .await?;
            all.extend(page.kvs);
            match all.last() {
                Some(last) if page.more => {
                    // The least key after it.
                    key = last.key.clone();
                    key.push(0);
                }
                _ => return Ok(all),
            }
        }
    }

    /// One key.
    ///
    /// # Errors
    ///
    /// etcd did not answer.
    pub async fn get(&self, key: &str) -> Result<Option<KeyValue>, EtcdError> {
        let request = RangeRequest {
            key: key.as_bytes().to_vec(),
            range_end: Vec::new(),
            limit: 0,
        };
        let mut answer = self
            .call(|mut client| {
                let request = request.clone();
                async move { client.range(request).await }
            })
            .await?;
        Ok(answer.kvs.pop())
    }

    /// Forgets what all keys were before a revision.
    ///
    /// # Errors
    ///
    /// etcd did not answer, or has forgotten it already.
    pub async fn compact(&self, revision: i64) -> Result<(), EtcdError> {
        let request = CompactionRequest {
            revision,
            physical: false,
        };
        self.call(|mut client| async move { client.compact(request).await })
            .await
            .map(drop)
    }

    /// Asks one endpoint after the other, that which answered last first.
    async fn call<T, F>(&self, ask: impl Fn(KvClient<Channel>) -> F) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut detail = String::new();
        let count = self.clients.len();
        let first = self.at.load(Ordering::Relaxed);
        for at in (first..first + count).map(|at| at % count) {
            let client = self.clients[at].clone();
            match tokio::time::timeout(self.timeout, ask(client)).await {
                Ok(Ok(answer)) => {
                    self.at.store(at, Ordering::Relaxed);
                    return Ok(answer.into_inner());
                }
                Ok(Err(status)) if refused(status.code()) => {
                    return Err(EtcdError::Refused {
                        endpoints: self.endpoints.clone(),
                        detail: status.message().to_owned(),
                    });
                }
                Ok(Err(status)) => detail = said(&status),
                Err(_) => detail = format!("no answer within {:?}", self.timeout),
            }
        }
        Err(EtcdError::Away {
            endpoints: self.endpoints.clone(),
            detail,
        })
    }
}

fn refused(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::Unimplemented
    )
}

/// A status with its innermost cause: the outer ones only say "transport error".
fn said(status: &Status) -> String {
    if let Some(text) = explain(status) {
        return text;
    }
    let mut innermost: &(dyn std::error::Error + 'static) = status;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    match innermost.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => innermost.to_string(),
    }
}

/// Holds if the last write of `key` was at this revision; 0: if there is no such key.
#[must_use]
pub fn written_at(key: &str, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.as_bytes().to_vec(),
        target_union: Some(TargetUnion::ModRevision(revision)),
    }
}

/// Holds if `key` is there and holds `value`.
#[must_use]
pub fn holds(key: &str, value: &str) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Value.into(),
        key: key.as_bytes().to_vec(),
        target_union: Some(TargetUnion::Value(value.as_bytes().to_vec())),
    }
}

/// Writes a key.
#[must_use]
pub fn put(key: &str, value: Vec<u8>) -> RequestOp {
    RequestOp {
        request: Some(Op::RequestPut(PutRequest {
            key: key.as_bytes().to_vec(),
            value,
        })),
    }
}

/// Deletes the keys from `from` to before `end`; only `from` if `end` is empty.
#[must_use]
pub fn delete(from: &str, end: &str) -> RequestOp {
    RequestOp {
        request: Some(Op::RequestDeleteRange(DeleteRangeRequest {
            key: from.as_bytes().to_vec(),
            range_end: end.as_bytes().to_vec(),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: what is no address of an etcd is refused before anything is tried.
    #[tokio::test]
    async fn addresses() {
        let new = |address: &str| Etcd::new(&[address.to_owned()], Duration::from_secs(1));
        assert!(new("http://127.0.0.1:2379").is_ok());
        assert!(new("https://etcd:2379").is_ok());
        for bad in ["", "not an address", "/path"] {
            let error = new(bad).unwrap_err().to_string();
            assert!(error.contains("http://HOST:2379"), "{bad}: {error}");
        }
    }

    // Promise: an etcd that is not there is named, with what the system said.
    #[tokio::test]
    async fn nobody_there() {
        let endpoints = ["http://127.0.0.1:1".to_owned()];
        let etcd = Etcd::new(&endpoints, Duration::from_secs(5)).unwrap();
        let error = etcd.get("key").await.unwrap_err();
        assert!(matches!(error, EtcdError::Away { .. }), "{error}");
        assert!(error.to_string().contains("http://127.0.0.1:1"), "{error}");
    }
}
