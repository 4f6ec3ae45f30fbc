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

async fn appears(file: &Path) {
    let mut look = interval(LOOK);
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

    // Promise: a notice file is as good as a signal, and says more.
    #[tokio::test]
    async fn a_notice_file_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("notice");
        std::fs::write(&file, "").unwrap();
        let told = told_to_leave(Some(file));
        let why = tokio::time::timeout(Duration::from_secs(10), told).await;
        assert_eq!(why, Ok(Leave::Preempted));
    }
}
