//! Forgets ended jobs when there are too many of them.

use super::Shared;
use super::jobs::forget;
use crate::access::Principal;
use espalier_core::Machine;
use std::time::Duration;

/// How often it is looked whether there are too many.
const EVERY: Duration = Duration::from_secs(1);

/// Keeps the newest `most` of the jobs that have ended, until the coordinator stops or its lead is over.
pub(crate) async fn keep_newest(shared: Shared, most: usize) {
    let mut stop = shared.stop.clone();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let read = move |machine: &Machine| machine.ended_beyond(most);
        // An error: the driver has ended.
        let Ok(old) = shared.driver.read(read).await else {
            return;
        };
        for job in old {
            tracing::info!(%job, "forgets the job that ended first: --max-ended-jobs is {most}");
            if let Err(error) = forget(&shared, Principal::anonymous(), job).await {
                // Somebody else may have deleted it, or it was created anew.
                tracing::debug!("an ended job stays: {error}");
            }
        }
    }
}
