//! An API server of Kubernetes over HTTP, as small as the operator needs it: what kube's own client speaks to.
//!
//! It keeps objects of any kind with the rules that controllers rely on: versions and conflicts, generations,
//! status and scale as subresources, finalizers, deletion with preconditions, merge patches, watches with
//! bookmarks that can be cut and forgotten (410 Gone). It does not check schemas, run CEL, or fill in defaults.
#![allow(clippy::unwrap_used, dead_code)] // tests of other parts use other parts of it

mod http;
mod store;
mod watch;

pub(crate) use store::{Key, Store};

use serde_json::Value;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The key of an object's path, such as `apis/apps/v1/namespaces/espalier/statefulsets/espalier-worker`.
pub(crate) fn key(path: &str) -> Key {
    http::key(path).unwrap_or_else(|| panic!("{path} names no object"))
}

/// What goes wrong with the next request that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is refused with this code.
    Refuse(u16),
    /// Somebody else writes to the object just before.
    Meddle,
    /// It is done, and the answer is lost.
    Lose,
}

/// What requests share.
pub(crate) struct Shared {
    store: Mutex<Store>,
    /// Grows with every change, and when watches are cut.
    news: tokio::sync::watch::Sender<u64>,
    /// Watches of another epoch end.
    epoch: Mutex<u64>,
    faults: Mutex<Vec<(String, String, Fault)>>,
    requests: Mutex<Vec<String>>,
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    fn tell(&self) {
        self.news.send_modify(|news| *news += 1);
    }

    fn epoch(&self) -> u64 {
        *self.epoch.lock().unwrap()
    }

    /// Takes the fault of a request, if there is one for it.
    fn fault(&self, method: &str, path: &str) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let fits = |(of, part, _): &(String, String, Fault)| of == method && path.contains(part);
        let at = faults.iter().position(fits)?;
        Some(faults.remove(at).2)
    }
}

/// A server on a port of this host; ends when it is dropped.
pub(crate) struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl ApiServer {
    pub(crate) async fn start() -> Self {
        let shared = Arc::new(Shared {
            store: Mutex::new(Store::default()),
            news: tokio::sync::watch::Sender::new(0),
            epoch: Mutex::new(0),
            faults: Mutex::default(),
            requests: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = http::router(shared.clone());
        let task = tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap();
        });
        Self {
            shared,
            address,
            task,
        }
    }

    /// kube's own client of it.
    pub(crate) fn client(&self) -> kube::Client {
        // An error means that another test has said so.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = format!("http://{}", self.address).parse().unwrap();
        let mut config = kube::Config::new(url);
        // Nothing here is encrypted: the CAs of this host are not asked for.
        config.root_cert = Some(Vec::new());
        config.default_retry = false;
        kube::Client::try_from(config).unwrap()
    }

    /// Looks at or changes what is kept, as somebody who is no controller; watchers are told.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let result = change(&mut self.shared.store());
        self.shared.tell();
        result
    }

    /// An object by its path.
    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.shared.store().get(&key(path)).ok()
    }

    /// The next request of a method whose path contains `part` goes wrong.
    pub(crate) fn fail(&self, method: &str, part: &str, fault: Fault) {
        let mut faults = self.shared.faults.lock().unwrap();
        faults.push((method.to_owned(), part.to_owned(), fault));
    }

    /// No more faults.
    pub(crate) fn spare(&self) {
        self.shared.faults.lock().unwrap().clear();
    }

    /// Whether every fault has come to pass.
    pub(crate) fn all_failed(&self) -> bool {
        self.shared.faults.lock().unwrap().is_empty()
    }

    /// Requests so far: method and path.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Ends all watches; `lost` happens unseen by them. With `forget`, they can't go on from where they were.
    pub(crate) fn cut(&self, forget: bool, lost: impl FnOnce(&mut Store)) {
        let mut store = self.shared.store();
        *self.shared.epoch.lock().unwrap() += 1;
        lost(&mut store);
        if forget {
            store.forget();
        }
        drop(store);
        self.shared.tell();
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
