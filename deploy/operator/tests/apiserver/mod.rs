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
use std::collections::BTreeSet;
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

/// A request as permissions name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked {
    /// Such as `get`, `list`, `watch`.
    pub(crate) verb: &'static str,
    /// Such as `apps`; nothing for Kubernetes' oldest.
    pub(crate) group: String,
    /// Such as `statefulsets/scale`.
    pub(crate) resource: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
}

/// When whoever calls is to be dead.
#[derive(Clone, Copy, Debug)]
struct Death {
    /// Requests that are answered before.
    left: u32,
    /// Whether the last one is still done, its answer unheard.
    done: bool,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is done and answered.
    Answered,
    /// It is done, and nobody is left to hear of it.
    Unheard,
    /// It never came.
    Unsent,
}

/// What requests share.
pub(crate) struct Shared {
    store: Mutex<Store>,
    /// Grows with every change, and when watches are cut.
    news: tokio::sync::watch::Sender<u64>,
    /// Watches of another epoch end.
    epoch: Mutex<u64>,
    faults: Mutex<Vec<(String, String, Fault)>>,
    requests: Mutex<BTreeSet<Asked>>,
    /// Namespaces that end: nothing can be created there.
    ending: Mutex<BTreeSet<String>>,
    death: Mutex<Option<Death>>,
    dead: tokio::sync::watch::Sender<bool>,
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

    /// What becomes of the next request.
    fn fate(&self) -> Fate {
        let mut death = self.death.lock().unwrap();
        let Some(death) = death.as_mut() else {
            return Fate::Answered;
        };
        if death.left > 0 {
            death.left -= 1;
            return Fate::Answered;
        }
        let last = !self.dead.send_replace(true);
        if last && death.done {
            Fate::Unheard
        } else {
            Fate::Unsent
        }
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
            ending: Mutex::default(),
            death: Mutex::default(),
            dead: tokio::sync::watch::Sender::new(false),
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

    /// Every kind of request so far.
    pub(crate) fn asked(&self) -> BTreeSet<Asked> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// A namespace ends: nothing more can be created there.
    pub(crate) fn end(&self, namespace: &str) {
        let mut ending = self.shared.ending.lock().unwrap();
        ending.insert(namespace.to_owned());
    }

    /// After so many requests more nobody gets an answer any more; the one that follows them is still done if
    /// `done`, all others are not.
    pub(crate) fn die_after(&self, requests: u32, done: bool) {
        self.shared.dead.send_replace(false);
        let left = requests;
        *self.shared.death.lock().unwrap() = Some(Death { left, done });
    }

    /// Waits until that has happened.
    pub(crate) async fn dead(&self) {
        let mut dead = self.shared.dead.subscribe();
        dead.wait_for(|dead| *dead).await.unwrap();
    }

    /// Everybody gets an answer again.
    pub(crate) fn revive(&self) {
        *self.shared.death.lock().unwrap() = None;
        self.shared.dead.send_replace(false);
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
