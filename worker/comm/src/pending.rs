//! Waiting for an operation that runs on the progress thread.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::error::{Error, Result};

/// What a finished operation gives back besides the memory it wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Byte strings in rank order for the `*_bytes` operations, else empty.
    pub parts: Vec<Vec<u8>>,
}

/// An operation in flight. Dropping it waits until the operation no longer uses its memory.
#[must_use = "an operation that nobody waits for hides its errors"]
#[derive(Debug)]
pub struct Pending {
    cell: Arc<Cell>,
}

/// An operation in flight together with the buffer it works on.
#[must_use = "an operation that nobody waits for hides its errors"]
pub struct Handle<B> {
    // Declared before `buffer`: dropped first, so the operation has let go of the memory by the
    // time the buffer is freed.
    pending: Pending,
    buffer: B,
}

/// The progress thread's end of a [`Pending`]. Dropped without a result, it reports that.
pub(crate) struct Completer {
    cell: Arc<Cell>,
}

#[derive(Debug, Default)]
struct Cell {
    result: Mutex<Option<Result<Outcome>>>,
    ready: Condvar,
}

/// The two ends of one operation.
pub(crate) fn pair() -> (Completer, Pending) {
    let cell = Arc::new(Cell::default());
    (Completer { cell: cell.clone() }, Pending { cell })
}

impl Completer {
    pub(crate) fn complete(self, result: Result<Outcome>) {
        self.cell.set(result);
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        self.cell.set(Err(Error::system(
            "operation dropped",
            "the progress thread has ended",
        )));
    }
}

impl Cell {
    /// Keeps the first result.
    fn set(&self, result: Result<Outcome>) {
        let mut slot = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(result);
            self.ready.notify_all();
        }
    }

    fn get(&self) -> Result<Outcome> {
        let mut slot = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match slot.take() {
                // The outcome is moved out, not cloned; an empty one stays for later callers.
                Some(result) => {
                    *slot = Some(
                        result
                            .as_ref()
                            .map(|_| Outcome::default())
                            .map_err(Clone::clone),
                    );
                    return result;
                }
                None => {
                    slot = self
                        .ready
                        .wait(slot)
                        .unwrap_or_else(PoisonError::into_inner)
                }
            }
        }
    }
}

impl Pending {
    /// An operation that failed before it began.
    pub(crate) fn failed(error: Error) -> Pending {
        let (completer, pending) = pair();
        completer.complete(Err(error));
        pending
    }

    /// Waits for the operation. Bounded: the progress thread gives up after the communicator's
    /// timeout without progress, or at once when aborted.
    ///
    /// # Errors
    ///
    /// Whatever made the operation fail; see [`Error`].
    pub fn wait(self) -> Result<Outcome> {
        self.cell.get()
    }

    /// True once the operation has finished or failed.
    pub fn is_done(&self) -> bool {
        self.cell
            .result
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // The memory may be freed after this: wait until the operation has let go of it. The
        // result itself may have been taken already, then this returns at once.
        let _ = self.cell.get();
    }
}

impl<B> Handle<B> {
    pub(crate) fn new(pending: Pending, buffer: B) -> Self {
        Handle { pending, buffer }
    }

    /// Waits and gives the buffer back.
    ///
    /// # Errors
    ///
    /// As [`Pending::wait`]; the buffer is dropped then, its content is undefined.
    pub fn wait(self) -> Result<B> {
        let Handle { pending, buffer } = self;
        pending.wait()?;
        Ok(buffer)
    }

    /// True once the operation has finished or failed.
    pub fn is_done(&self) -> bool {
        self.pending.is_done()
    }
}

impl<B> fmt::Debug for Handle<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}
