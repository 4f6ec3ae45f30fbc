//! Ranks that do not end although their worker has given them up: their threads can't be stopped, only the process
//! can.

use super::super::control::Control;
use espalier_spec::report::Failure;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Pause between looks at whether the job was given up.
const LOOK: Duration = Duration::from_millis(100);
/// How long ranks that were given up have to end.
const GRACE: Duration = Duration::from_secs(30);
/// How long the process lives on, so that the coordinator is told why its ranks stopped.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long it may take to end in order.
const FAREWELL: Duration = Duration::from_secs(5);

/// Waits until all threads have ended that hold the other side of `over`; once the job was given up, no longer than a
/// grace time. If some still run then, says why it was given up.
pub(super) fn wait(over: &Receiver<()>, control: &Control) -> Option<Failure> {
    let grace = control.limits().stall_after.min(GRACE);
    let mut since: Option<Instant> = None;
    // Nobody sends anything: with the last thread the other side is gone.
    while over.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        let Some(failure) = control.given_up() else {
            continue;
        };
        if since.get_or_insert_with(Instant::now).elapsed() >= grace {
            return Some(failure.clone());
        }
    }
    None
}

/// Ends the process in a moment, because of threads that nothing else stops. Says so where the job's log and the
/// worker's are read.
pub(super) fn end_process(ranks: &str) {
    tracing::error!(
        ranks,
        "ranks hang and do not end: this worker's process ends now, so that whoever supervises it starts it anew; \
         ranks of other jobs on this worker are lost with it, and these jobs go on elsewhere or here"
    );
    if thread::Builder::new().spawn(end).is_err() {
        std::process::abort();
    }
}

fn end() {
    thread::sleep(LAST_WORDS);
    // What libraries do at a process's end may wait for the very threads that hang.
    if thread::Builder::new().spawn(end_at_once).is_err() {
        std::process::abort();
    }
    std::process::exit(1);
}

fn end_at_once() {
    thread::sleep(FAREWELL);
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use super::super::super::limits::Limits;
    use super::*;
    use std::sync::mpsc::channel;

    // Promise: threads are waited for however long they take, as long as nobody has given them up; then only for a
    // grace time, and what is told is why they were given up.
    #[test]
    fn who_was_given_up_is_not_waited_for() {
        let control = Control::with(Limits {
            stall_after: Duration::from_millis(50),
            ..Limits::default()
        });
        let (alive, over) = channel::<()>();
        let slow = thread::spawn(move || {
            thread::sleep(4 * LOOK);
            drop(alive);
        });
        assert_eq!(wait(&over, &control), None);
        slow.join().unwrap();

        let (alive, over) = channel::<()>();
        let failure = Failure {
            code: "stalled".to_owned(),
            message: "rank 1: no progress".to_owned(),
            retryable: true,
            lost: None,
        };
        control.give_up(failure.clone());
        assert_eq!(wait(&over, &control), Some(failure));
        drop(alive);
        assert_eq!(wait(&over, &control), None, "it ended after all");
    }
}
