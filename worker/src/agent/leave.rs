//! How a worker is told to leave.

use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::interval;

/// Pause between looks for the notice file.
const LOOK: Duration = Duration::from_secs(1);

/// Why a worker leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// It was told to stop.
    Told,
    /// Its machine is about to be taken away.
    Preempted,
}

impl Leave {
    /// What the coordinator is told with the good-bye.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Leave::Told => "told to stop",
            Leave::Preempted => "its machine is about to be taken away",
        }
    }
}

/// Completes on SIGTERM, on ctrl-c, or when `notice` exists: a file that something outside writes when
/// the machine is about to be taken away. Looks for it once a second.
pub async fn told_to_leave(notice: Option<PathBuf>) -> Leave {
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut stream) => drop(stream.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    let noticed = async {
        match &notice {
            Some(file) => appears(file).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminate => Leave::Told,
        () = noticed => Leave::Preempted,
        _ = tokio::signal::ctrl_c() => Leave::Told,
    }
}

/// Completes once the file is there. One that was there before the worker counts, too: the machine may have
/// been told while the worker came up, and a worker that stays on a lost machine costs its jobs more than one
/// that has to be started again.
async fn appears(file: &Path) {
    let mut look = interval(LOOK);
    // This one comes at once.
    look.tick().await;
    if file.exists() {
        tracing::warn!(
            file = %file.display(),
            "the notice file was there before this worker: leaving; if the notice is an old one, remove the \
             file, or every start ends like this"
        );
        return;
    }
    loop {
        look.tick().await;
        if file.exists() {
            tracing::info!(file = %file.display(), "the notice file is there: leaving");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: a notice that came before the worker is as good as a signal, and says more: it may be of this very machine.
    #[tokio::test]
    async fn an_early_notice_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("notice");
        std::fs::write(&file, "").unwrap();
        let told = told_to_leave(Some(file));
        let why = tokio::time::timeout(Duration::from_secs(10), told).await;
        assert_eq!(why, Ok(Leave::Preempted));
    }

    // Promise: so is one that comes while the worker works, and before it comes nobody leaves.
    #[tokio::test]
    async fn a_later_notice_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("notice");
        let mut told = std::pin::pin!(told_to_leave(Some(file.clone())));
        // Enough for the first look, and not for the second.
        let early = tokio::time::timeout(LOOK / 4, told.as_mut()).await;
        assert!(early.is_err());
        std::fs::write(&file, "").unwrap();
        let why = tokio::time::timeout(Duration::from_secs(10), told).await;
        assert_eq!(why, Ok(Leave::Preempted));
    }
}
