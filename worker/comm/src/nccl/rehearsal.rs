//! Tests of the state machine through a driver that follows a script. They test the logic of this
//! crate (order, deadlines, aborts, who hears what), not NCCL: whether NCCL and the driver behave as
//! the script says is for a machine with a GPU to show.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;

use super::driver::{Reached, Word};
use super::script::{Issued, LIMITS, SECOND, Stage, op};
use super::state::State;
use super::watch::{self, Job};
use crate::error::Error;
use crate::pending::pair;

#[test]
fn set_up_ends_when_the_library_says_so() {
    // Promise: a set-up in progress is polled until it succeeds; nothing is launched before.
    let mut stage = Stage::new();
    let pending = stage.issue(0, true);
    for _ in 0..50 {
        stage.later(SECOND);
    }
    assert!(matches!(stage.machine.state(), State::Initialising { .. }));
    assert_eq!(stage.log(), ["init"]);
    stage.set(|s| {
        s.word = Word::Done;
        s.reached.insert(0, Reached::Passed);
    });
    stage.run();
    assert_eq!(stage.machine.state(), State::Ready);
    assert_eq!(stage.log(), ["launch 0", "mark 0"]);
    pending.wait().expect("done");
}

#[test]
fn a_set_up_that_never_ends_fails_at_its_deadline() {
    // Promise: the error names the generation and the limit; the communicator is aborted once.
    let mut stage = Stage::new();
    stage.later(59 * SECOND);
    assert!(stage.machine.broken().is_none());
    stage.later(SECOND);
    let error = stage.machine.broken().expect("failed").clone();
    assert!(
        matches!(error, Error::Stalled { generation: 7, .. }),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("generation 7") && text.contains("limit 60.0s"),
        "{text}"
    );
    assert!(error.retryable());
    assert_eq!(stage.log(), ["init", "farewell", "abort"]);
    assert_eq!(stage.machine.state(), State::Dead);
}

#[test]
fn a_peer_that_dies_during_the_set_up_is_named() {
    // Promise: the set-up does not wait for a rank that is known to be gone.
    let mut stage = Stage::new();
    stage.set(|s| s.lost = Some((2, "its process ended".into())));
    stage.later(SECOND);
    let error = stage.machine.broken().expect("failed");
    assert_eq!(error.peer(), Some(2), "{error}");
    assert!(error.to_string().contains("its process ended"), "{error}");
}

#[test]
fn operations_are_launched_one_by_one_in_issue_order() {
    // Promise: launch order is issue order, whichever peers answer first; the next one is launched
    // when the library has put the last on the stream, not when the device is done with it.
    let mut stage = Stage::ready();
    let pending = [0, 1, 2].map(|seq| stage.issue(seq, seq > 0));
    stage.run();
    assert!(stage.log().is_empty(), "the first has not been agreed on");
    stage.set(|s| {
        s.word = Word::Busy;
        s.agreed.insert(0, Ok(()));
    });
    stage.run();
    assert_eq!(stage.log(), ["launch 0"]);
    stage.set(|s| s.word = Word::Done);
    stage.run();
    let all = ["mark 0", "launch 1", "mark 1", "launch 2", "mark 2"];
    assert_eq!(stage.log(), all);
    assert!(pending.iter().all(|p| !p.is_done()));
    stage.set(|s| {
        s.reached.insert(1, Reached::Passed);
    });
    stage.run();
    assert!(!pending[1].is_done(), "results come in order");
    stage.set(|s| {
        s.reached.insert(0, Reached::Passed);
    });
    stage.run();
    let done = pending.each_ref().map(Issued::is_done);
    assert_eq!(done, [true, true, false]);
}

#[test]
fn peers_that_disagree_are_noticed_before_the_launch() {
    // Promise: arguments that don't match those of a peer never reach the library; the error is the
    // one that names both sides, and everything after it fails with it too.
    let mut stage = Stage::ready();
    let mismatch = Error::Mismatch {
        rank: 0,
        peer: 1,
        ours: "all_to_all #0".into(),
        theirs: "broadcast #0".into(),
    };
    stage.set(|s| {
        s.agreed.insert(0, Err(mismatch));
    });
    let pending = [stage.issue(0, false), stage.issue(1, true)];
    stage.run();
    assert_eq!(stage.log(), ["farewell", "abort"]);
    let late = stage.issue(2, true);
    for pending in pending.into_iter().chain([late]) {
        let error = pending.wait().expect_err("refused");
        assert!(matches!(error, Error::Mismatch { peer: 1, .. }), "{error}");
    }
}

#[test]
fn an_error_of_the_library_reaches_everything_in_flight() {
    // Promise: an asynchronous error ends all operations with its words; the abort comes once, and
    // what was aborted is not destroyed as well. What ran hears of it only after the device let go.
    let mut stage = Stage::ready();
    let running = stage.issue(0, true);
    let waiting = stage.issue(1, false);
    stage.run();
    stage.log();
    stage.set(|s| {
        s.word = Word::Failed("remote process exited".into());
        s.released = false;
    });
    stage.run();
    assert!(!waiting.is_done(), "a moment for the mesh to name somebody");
    stage.later(LIMITS.grace);
    assert!(waiting.is_done() && !running.is_done());
    stage.set(|s| s.released = true);
    stage.run();
    for pending in [running, waiting] {
        let error = pending.wait().expect_err("failed");
        assert!(matches!(error, Error::Nccl { peer: None, .. }), "{error}");
        assert!(
            error.to_string().contains("remote process exited"),
            "{error}"
        );
    }
    stage.machine.close();
    stage.later(SECOND);
    assert_eq!(stage.log(), ["farewell", "abort"]);
    assert_eq!(stage.machine.state(), State::Dead);
}

#[test]
fn the_mesh_names_who_the_library_cannot() {
    // Promise: when NCCL only says that something is wrong, and the links say who died, the error
    // names that rank at once and keeps NCCL's words.
    let mut stage = Stage::ready();
    let pending = stage.issue(0, true);
    stage.run();
    stage.set(|s| s.word = Word::Failed("remote error".into()));
    stage.run();
    stage.set(|s| s.lost = Some((1, "its process ended".into())));
    stage.run();
    let error = pending.wait().expect_err("lost");
    assert!(matches!(error, Error::PeerLost { peer: 1, .. }), "{error}");
    assert!(error.to_string().contains("remote error"), "{error}");
}

#[test]
fn a_dead_peer_ends_an_operation_within_the_grace() {
    // Promise: who died without NCCL noticing is blamed after the grace; an operation that the peer
    // had finished before it left still succeeds.
    let mut stage = Stage::ready();
    let pending = stage.issue(0, true);
    stage.run();
    stage.set(|s| s.lost = Some((1, "it closed its communicator".into())));
    stage.run();
    stage.set(|s| {
        s.reached.insert(0, Reached::Passed);
    });
    stage.later(LIMITS.grace / 2);
    pending.wait().expect("the peer was done with us");
    stage.later(LIMITS.grace);
    assert_eq!(stage.machine.state(), State::Ready);
    let pending = stage.issue(1, true);
    stage.later(LIMITS.grace / 2);
    assert!(!pending.is_done());
    stage.later(LIMITS.grace);
    let error = pending.wait().expect_err("lost");
    assert!(matches!(error, Error::PeerLost { peer: 1, .. }), "{error}");
}

#[test]
fn the_deadline_counts_from_an_operation_s_turn() {
    // Promise: neither this rank's own earlier work nor the operations before it use up an
    // operation's time; but each of them has the limit too, and the error says what was awaited.
    let mut stage = Stage::ready();
    stage.set(|s| {
        s.reached.insert(0, Reached::Queued);
    });
    let first = stage.issue(0, true);
    let second = stage.issue(1, true);
    stage.later(25 * SECOND);
    stage.set(|s| {
        s.reached.insert(0, Reached::Running);
    });
    stage.later(25 * SECOND);
    stage.later(25 * SECOND);
    stage.set(|s| {
        s.reached.insert(0, Reached::Passed);
    });
    stage.run();
    first.wait().expect("in time");
    stage.later(25 * SECOND);
    assert!(!second.is_done());
    stage.later(5 * SECOND);
    let error = second.wait().expect_err("too late");
    assert!(
        error.to_string().contains("the peers' part of it"),
        "{error}"
    );
    assert!(error.to_string().contains("all_to_all #1"), "{error}");

    let mut stage = Stage::ready();
    stage.set(|s| {
        s.reached.insert(0, Reached::Queued);
    });
    let pending = stage.issue(0, true);
    stage.run();
    stage.later(30 * SECOND);
    let error = pending.wait().expect_err("too late");
    assert!(
        error.to_string().contains("this rank's own earlier"),
        "{error}"
    );
}

#[test]
fn an_abort_from_another_thread_ends_everything() {
    // Promise: the running, the waiting and later operations fail with the reason, in every state.
    let mut stage = Stage::ready();
    let running = stage.issue(0, true);
    let waiting = stage.issue(1, false);
    stage.run();
    stage.log();
    let abort = stage.abort.clone();
    std::thread::spawn(move || abort.abort("the coordinator said so"))
        .join()
        .expect("thread");
    stage.run();
    let late = stage.issue(2, true);
    for pending in [running, waiting, late] {
        let error = pending.wait().expect_err("aborted");
        assert!(matches!(error, Error::Aborted { .. }), "{error}");
        assert!(
            error.to_string().contains("the coordinator said so"),
            "{error}"
        );
    }
    assert_eq!(stage.log(), ["farewell", "abort"]);

    let mut stage = Stage::new();
    stage.abort.abort("not needed any more");
    stage.run();
    assert!(matches!(
        stage.machine.broken(),
        Some(Error::Aborted { .. })
    ));
    assert_eq!(stage.machine.state(), State::Dead);
}

#[test]
fn a_device_that_does_not_stop_keeps_its_memory() {
    // Promise: after an abort nothing waits longer than the deadline, and the error says that the
    // memory is not given back; what was never launched fails with the cause itself.
    let mut stage = Stage::ready();
    let running = stage.issue(0, true);
    let waiting = stage.issue(1, false);
    stage.run();
    stage.set(|s| s.released = false);
    stage.abort.abort("test");
    stage.later(SECOND);
    assert!(matches!(waiting.wait(), Err(Error::Aborted { .. })));
    stage.later(8 * SECOND);
    assert!(!running.is_done());
    stage.later(2 * SECOND);
    let error = running.wait().expect_err("stuck");
    assert!(error.keeps_memory() && !error.retryable(), "{error}");
    assert!(error.to_string().contains("restart this worker"), "{error}");
    assert_eq!(stage.machine.state(), State::Dead);
}

#[test]
fn closing_lets_what_was_issued_finish() {
    // Promise: a communicator that is dropped with operations in flight completes them, then closes
    // in good order, without an abort.
    let mut stage = Stage::ready();
    let pending = [stage.issue(0, true), stage.issue(1, true)];
    stage.run();
    stage.log();
    stage.machine.close();
    stage.later(SECOND);
    assert!(stage.log().is_empty());
    stage.set(|s| {
        s.reached = BTreeMap::from([(0, Reached::Passed), (1, Reached::Passed)]);
        s.word = Word::Busy;
    });
    stage.run();
    assert_eq!(stage.log(), ["finalize"]);
    for pending in pending {
        pending.wait().expect("finished");
    }
    stage.set(|s| s.word = Word::Done);
    stage.run();
    assert_eq!(stage.log(), ["destroy"]);
    assert_eq!(stage.machine.state(), State::Dead);
}

#[test]
fn closing_does_not_wait_for_dead_peers() {
    // Promise: peers that never close end the closing by its deadline, with an abort.
    let mut stage = Stage::ready();
    stage.machine.close();
    stage.set(|s| s.word = Word::Busy);
    stage.run();
    stage.later(4 * SECOND);
    assert_eq!(stage.log(), ["finalize"]);
    stage.later(SECOND);
    assert_eq!(stage.log(), ["farewell", "abort"]);
    assert_eq!(stage.machine.state(), State::Dead);
}

/// A communicator's thread on this one, with two operations whose sender is gone after them.
fn play(stage: Stage) -> (State, Vec<crate::error::Result<crate::pending::Outcome>>) {
    let (jobs, inbox) = channel();
    let (ready, is_ready) = channel();
    let pending = [0, 1].map(|seq| {
        let (completer, pending) = pair();
        let job = Job {
            op: op(seq),
            work: seq,
            completer,
        };
        jobs.send(job).expect("the inbox is open");
        pending
    });
    drop(jobs);
    let machine = watch::run(stage.machine, &inbox, &ready);
    assert_eq!(
        is_ready.try_iter().count(),
        1,
        "told once how the set-up went"
    );
    let results = pending.into_iter().map(|p| p.wait()).collect();
    (machine.state(), results)
}

#[test]
fn the_thread_ends_when_everything_has() {
    // Promise: a dropped communicator's thread completes what was issued, closes and ends.
    let stage = Stage::fresh();
    stage.set(|s| {
        s.word = Word::Done;
        s.agreed = BTreeMap::from([(0, Ok(())), (1, Ok(()))]);
        s.reached = BTreeMap::from([(0, Reached::Passed), (1, Reached::Passed)]);
    });
    let script = stage.script.clone();
    let (state, results) = play(stage);
    assert_eq!(state, State::Dead);
    assert!(results.iter().all(Result::is_ok));
    let log = std::mem::take(&mut script.borrow_mut().log);
    assert_eq!(log[..3], ["init", "launch 0", "mark 0"]);
    assert_eq!(log[log.len() - 2..], ["finalize", "destroy"]);
}

#[test]
fn an_abort_ends_the_thread() {
    // Promise: with operations that never end, an abort from another thread ends the thread too.
    let stage = Stage::fresh();
    stage.set(|s| {
        s.word = Word::Done;
        s.agreed = BTreeMap::from([(0, Ok(()))]);
    });
    let abort = stage.abort.clone();
    let aborter = std::thread::spawn(move || abort.abort("enough"));
    let (state, results) = play(stage);
    aborter.join().expect("thread");
    assert_eq!(state, State::Dead);
    for result in results {
        let error = result.expect_err("aborted");
        assert!(error.to_string().contains("enough"), "{error}");
    }
}
