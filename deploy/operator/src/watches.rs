//! News of jobs: a stream per job under way, whose every word brings its resource up again.
//!
//! What a stream says is not used, only that it says something: a stream that breaks costs time, and nothing
//! else. It is opened again the next time that the resource is looked at.

use crate::coordinator::Coordinator;
use crate::resource::TrainingJob;
use espalier_proto::v1;
use espalier_proto::v1::watch_job_response::Update;
use kube::runtime::reflector::ObjectRef;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Least time between two times that progress alone brings a resource up.
const PACE: Duration = Duration::from_secs(5);

/// A resource's namespace and name.
type Key = (String, String);

/// The streams that are open.
pub struct Watches {
    coordinator: Coordinator,
    news: mpsc::UnboundedSender<ObjectRef<TrainingJob>>,
    open: Mutex<BTreeMap<Key, Watch>>,
}

struct Watch {
    uid: String,
    task: JoinHandle<()>,
}

impl Watches {
    /// None yet; news go to the other end of `news`.
    #[must_use]
    pub fn new(
        coordinator: Coordinator,
        news: mpsc::UnboundedSender<ObjectRef<TrainingJob>>,
    ) -> Self {
        Self {
            coordinator,
            news,
            open: Mutex::default(),
        }
    }

    /// Follows a resource's job, if it is not followed yet.
    pub fn follow(&self, key: &Key, job: &v1::Job) {
        let Ok(mut open) = self.open.lock() else {
            return;
        };
        if let Some(watch) = open.get(key) {
            if watch.uid == job.uid && !watch.task.is_finished() {
                return;
            }
            watch.task.abort();
        }
        let resource = ObjectRef::new(&key.1).within(&key.0);
        let task = listen(
            self.coordinator.clone(),
            (job.name.clone(), job.last_sequence),
            self.news.clone(),
            resource,
        );
        let watch = Watch {
            uid: job.uid.clone(),
            task: tokio::spawn(task),
        };
        open.insert(key.clone(), watch);
    }

    /// Follows a resource's job no more.
    pub fn forget(&self, key: &Key) {
        let gone = self.open.lock().ok().and_then(|mut open| open.remove(key));
        if let Some(watch) = gone {
            watch.task.abort();
        }
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        if let Ok(open) = self.open.get_mut() {
            open.values().for_each(|watch| watch.task.abort());
        }
    }
}

async fn listen(
    coordinator: Coordinator,
    (job, after): (String, u64),
    news: mpsc::UnboundedSender<ObjectRef<TrainingJob>>,
    resource: ObjectRef<TrainingJob>,
) {
    let mut stream = match coordinator.watch(&job, after).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(job, "is not followed: {error}");
            return;
        }
    };
    let mut shown: Option<Instant> = None;
    loop {
        let update = match stream.message().await {
            Ok(Some(message)) => message.update,
            // The job has ended: looked at once more.
            Ok(None) => {
                let _ = news.send(resource);
                return;
            }
            // Not at once again: whoever broke it may break it again.
            Err(status) => {
                tracing::debug!(job, "is not followed any more: {status}");
                return;
            }
        };
        let worth = match update {
            Some(Update::Event(_)) => true,
            Some(Update::Progress(_)) => shown.is_none_or(|at| at.elapsed() >= PACE),
            None => false,
        };
        if worth {
            shown = Some(Instant::now());
            if news.send(resource.clone()).is_err() {
                return;
            }
        }
    }
}
