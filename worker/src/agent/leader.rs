//! Which coordinator is called, and whether it may give orders.

use super::stream::Error;
use super::wire;
use espalier_proto::{ApiError, Route, v1};
use espalier_tls::{ClientTls, explain};
use std::time::Duration;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

/// The coordinators to call. With certificates, an address without a scheme means `https://`.
pub(super) fn route(addresses: &str, tls: &ClientTls) -> Result<Route, Error> {
    let route = match tls.is_given() {
        true => Route::parse_secure(addresses),
        false => Route::parse(addresses),
    };
    let route = route.ok_or_else(|| Error::Address {
        address: addresses.to_owned(),
        message: "it is empty".to_owned(),
    })?;
    for address in route.given() {
        endpoint(address, tls)?;
    }
    Ok(route)
}

/// What went wrong with a connection or a call: with certificates in words that say what to do.
pub(super) fn told(error: &(dyn std::error::Error + 'static)) -> String {
    explain(error).unwrap_or_else(|| wire::chain(error))
}

/// A call's failure, likewise: it names the transport alone where the coordinator refused a certificate.
pub(super) fn told_status(status: Status) -> Status {
    match explain(&status) {
        Some(text) => Status::unavailable(text),
        None => status,
    }
}

/// Whether there is no sense in trying again. A worker that was out of sight for too long comes back as a new one, with
/// all that it holds in memory.
pub(super) fn is_refusal(status: &Status) -> bool {
    let refused = matches!(
        status.code(),
        Code::FailedPrecondition | Code::AlreadyExists | Code::InvalidArgument
    );
    let reason = ApiError::from(status).reason;
    refused && !matches!(reason.as_str(), "WORKER_GONE" | "STREAM_REPLACED")
}

/// How the coordinator at an address is called; its certificates are read anew each time.
pub(super) fn endpoint(address: &str, tls: &ClientTls) -> Result<Endpoint, Error> {
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|e| Error::Address {
        address: address.to_owned(),
        message: e.to_string(),
    })?;
    let endpoint = endpoint
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    Ok(tls.endpoint(endpoint)?)
}

/// The coordinator that was obeyed last.
#[derive(Debug, Default)]
pub(super) struct Obeyed {
    cluster: String,
    /// Its term; 0: none yet.
    term: u64,
}

impl Obeyed {
    /// Whether the coordinator of this Welcome may give orders: not if one that was elected after
    /// it has done so.
    pub(super) fn admit(&mut self, welcome: &v1::Welcome) -> Result<(), Status> {
        if welcome.cluster == self.cluster && welcome.term < self.term {
            return Err(Status::unavailable(format!(
                "this coordinator has been replaced: its term is {}, this worker obeys term {}",
                welcome.term, self.term
            )));
        }
        self.cluster.clone_from(&welcome.cluster);
        self.term = welcome.term;
        Ok(())
    }

    /// The term.
    pub(super) fn term(&self) -> u64 {
        self.term
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_proto::ErrorKind;

    // Promise: a coordinator that was replaced is not obeyed again, whoever says so first; terms of
    // another cluster mean nothing here.
    #[test]
    fn a_replaced_coordinator_is_not_obeyed() {
        let welcome = |cluster: &str, term| v1::Welcome {
            heartbeat_interval: None,
            term,
            cluster: cluster.to_owned(),
            acknowledges: true,
        };
        let mut obeyed = Obeyed::default();
        obeyed.admit(&welcome("a", 7)).unwrap();
        let error = obeyed.admit(&welcome("a", 6)).unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.message().contains("term is 6"), "{error}");
        obeyed.admit(&welcome("a", 7)).unwrap();
        obeyed.admit(&welcome("a", 9)).unwrap();
        assert!(obeyed.admit(&welcome("a", 7)).is_err());
        obeyed.admit(&welcome("b", 1)).unwrap();
    }

    // Promise: a worker that was out of sight for too long, or whose stream another one replaced, comes back;
    // one that is not wanted ends; one that nobody answers tries again.
    #[test]
    fn who_comes_back() {
        use ErrorKind::{AlreadyExists, FailedPrecondition, InvalidArgument, Unavailable};
        for (kind, reason, ends) in [
            (FailedPrecondition, "WORKER_GONE", false),
            (FailedPrecondition, "STREAM_REPLACED", false),
            (FailedPrecondition, "VERSION_MISMATCH", true),
            (AlreadyExists, "WORKER_EXISTS", true),
            (InvalidArgument, "INVALID_FIELDS", true),
            (Unavailable, "COORDINATOR_STOPPING", false),
        ] {
            let status = ApiError::new(kind, reason, "said").into();
            assert_eq!(is_refusal(&status), ends, "{reason}");
        }
    }
}
