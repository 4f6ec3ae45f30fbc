//! A driver that follows a script, and a stage to run the state machine on.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::driver::{Driver, Limits, Reached, Word};
use super::dynamic::Said;
use super::state::{Machine, State};
use crate::abort::AbortHandle;
use crate::call::{Kind, OpId};
use crate::error::{Error, Result};
use crate::pending::{Outcome, Pending, pair};

pub(crate) const GENERATION: u64 = 7;
pub(crate) const LIMITS: Limits = Limits {
    init: Duration::from_secs(60),
    operation: Duration::from_secs(30),
    release: Duration::from_secs(10),
    close: Duration::from_secs(5),
    grace: Duration::from_millis(200),
};

/// What the library and the device will say. Operations are known by their number.
pub(crate) struct Script {
    pub(crate) word: Word,
    /// Numbers of operations whose peers agree; others get no answer, or this error.
    pub(crate) agreed: BTreeMap<u64, Result<()>>,
    pub(crate) reached: BTreeMap<u64, Reached>,
    pub(crate) lost: Option<(usize, String)>,
    pub(crate) released: bool,
    /// What the driver was told to do, in order.
    pub(crate) log: Vec<String>,
}

pub(crate) struct Fake(Rc<RefCell<Script>>);

impl Driver for Fake {
    type Work = u64;

    fn init(&mut self) -> Said<()> {
        self.0.borrow_mut().log.push("init".into());
        Ok(())
    }

    fn word(&mut self) -> Word {
        self.0.borrow().word.clone()
    }

    fn agreed(&mut self, _op: OpId, work: &mut u64) -> Option<Result<()>> {
        self.0.borrow().agreed.get(work).cloned()
    }

    fn launch(&mut self, work: &mut u64) -> Said<()> {
        self.0.borrow_mut().log.push(format!("launch {work}"));
        Ok(())
    }

    fn mark(&mut self, work: &mut u64) -> Said<()> {
        self.0.borrow_mut().log.push(format!("mark {work}"));
        Ok(())
    }

    fn reached(&mut self, work: &u64) -> Said<Reached> {
        let reached = self.0.borrow().reached.get(work).copied();
        Ok(reached.unwrap_or(Reached::Running))
    }

    fn lost(&mut self) -> Option<(usize, String)> {
        self.0.borrow().lost.clone()
    }

    fn farewell(&mut self, _why: &Error) {
        self.0.borrow_mut().log.push("farewell".into());
    }

    fn abort(&mut self) {
        self.0.borrow_mut().log.push("abort".into());
    }

    fn released(&mut self) -> bool {
        self.0.borrow().released
    }

    fn finalize(&mut self) -> Said<()> {
        self.0.borrow_mut().log.push("finalize".into());
        Ok(())
    }

    fn destroy(&mut self) {
        self.0.borrow_mut().log.push("destroy".into());
    }
}

/// A machine with its script, its abort handle and a clock.
pub(crate) struct Stage {
    pub(crate) script: Rc<RefCell<Script>>,
    pub(crate) machine: Machine<Fake>,
    pub(crate) abort: AbortHandle,
    now: Duration,
}

/// An operation that a test never blocks on: a real `Pending` waits when it is dropped, and here
/// nobody but the test itself could end that.
pub(crate) struct Issued(Option<Pending>);

impl Issued {
    pub(crate) fn is_done(&self) -> bool {
        self.0.as_ref().is_some_and(Pending::is_done)
    }

    pub(crate) fn wait(mut self) -> Result<Outcome> {
        assert!(self.is_done(), "it has not come to its end");
        self.0.take().expect("taken once").wait()
    }
}

impl Drop for Issued {
    fn drop(&mut self) {
        std::mem::forget(self.0.take());
    }
}

pub(crate) fn op(seq: u64) -> OpId {
    OpId {
        seq,
        kind: Kind::AllToAll,
    }
}

impl Stage {
    /// At the beginning of the set-up.
    pub(crate) fn new() -> Stage {
        let mut stage = Stage::fresh();
        stage.machine.start(Duration::ZERO);
        stage
    }

    /// Before the set-up.
    pub(crate) fn fresh() -> Stage {
        let script = Rc::new(RefCell::new(Script {
            word: Word::Busy,
            agreed: BTreeMap::new(),
            reached: BTreeMap::new(),
            lost: None,
            released: true,
            log: Vec::new(),
        }));
        let abort = AbortHandle::new().expect("abort handle");
        let machine = Machine::new(Fake(script.clone()), GENERATION, LIMITS, abort.clone());
        Stage {
            script,
            machine,
            abort,
            now: Duration::ZERO,
        }
    }

    /// After the set-up.
    pub(crate) fn ready() -> Stage {
        let mut stage = Stage::new();
        stage.set(|s| s.word = Word::Done);
        stage.run();
        assert_eq!(stage.machine.state(), State::Ready);
        stage.log();
        stage
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.borrow_mut());
    }

    /// Issues an operation; `agreed` tells whether all peers have greeted already.
    pub(crate) fn issue(&mut self, seq: u64, agreed: bool) -> Issued {
        if agreed {
            self.set(|s| {
                s.agreed.insert(seq, Ok(()));
            });
        }
        let (completer, pending) = pair();
        self.machine.push(op(seq), seq, completer);
        Issued(Some(pending))
    }

    /// Steps until nothing moves any more.
    pub(crate) fn run(&mut self) {
        for _ in 0..1000 {
            if !self.machine.step(self.now) {
                return;
            }
        }
        panic!("the machine does not come to rest");
    }

    pub(crate) fn later(&mut self, by: Duration) {
        self.now += by;
        self.run();
    }

    /// What was done since the last look.
    pub(crate) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.script.borrow_mut().log)
    }
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);
