//! Watches: changes after a version, one a line, until they are cut.

use super::store::{Key, Refusal};
use super::{ApiServer, Shared};
use axum::body::Body;
use futures::stream;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;

struct Watch {
    shared: Arc<Shared>,
    news: tokio::sync::watch::Receiver<u64>,
    epoch: u64,
    after: u64,
    /// Whether it has said where it stands since its last change.
    marked: bool,
    over: bool,
}

/// The stream of a watch of all objects that fit.
pub(super) fn body(
    shared: &Arc<Shared>,
    after: u64,
    mark: Value,
    fits: impl Fn(&Key) -> bool + Send + Sync + 'static,
) -> Body {
    let fits = Arc::new(fits);
    let watch = Watch {
        shared: shared.clone(),
        news: shared.news.subscribe(),
        epoch: shared.epoch(),
        after,
        marked: false,
        over: false,
    };
    let lines = stream::unfold(watch, move |mut watch| {
        let (fits, mark) = (fits.clone(), mark.clone());
        async move {
            loop {
                if watch.over || watch.shared.epoch() != watch.epoch {
                    return None;
                }
                watch.news.mark_unchanged();
                if let Some(line) = watch.line(&mark, |key| fits(key)) {
                    let line: Result<String, Infallible> = Ok(format!("{line}\n"));
                    return Some((line, watch));
                }
                if watch.news.changed().await.is_err() {
                    return None;
                }
            }
        }
    });
    Body::from_stream(lines)
}

impl Watch {
    /// What there is to say now.
    fn line(&mut self, mark: &Value, fits: impl Fn(&Key) -> bool) -> Option<Value> {
        let store = self.shared.store();
        if !store.knows(self.after) {
            self.over = true;
            let gone = Refusal::new(410, "too old resource version");
            return Some(json!({ "type": "ERROR", "object": gone.status() }));
        }
        if let Some(change) = store.next(self.after, fits) {
            self.after = change.version;
            self.marked = false;
            return Some(json!({ "type": change.kind, "object": change.object }));
        }
        if self.marked {
            return None;
        }
        self.marked = true;
        self.after = store.version();
        let mut mark = mark.clone();
        mark["metadata"] = json!({ "resourceVersion": self.after.to_string() });
        Some(json!({ "type": "BOOKMARK", "object": mark }))
    }
}

impl ApiServer {
    /// Whether somebody watches.
    pub(crate) fn is_watched(&self) -> bool {
        self.shared.news.receiver_count() > 0
    }
}
