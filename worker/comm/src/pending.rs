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
    pending: Pending,
    // None once it was given back. Freed by `Drop` below, after the operation has let go of it.
    buffer: Option<B>,
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

impl Pending {
    /// Waits, and says whether the memory may be used again.
    fn lets_go(&self) -> bool {
        self.cell.get().err().is_none_or(|e| !e.keeps_memory())
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
        Handle {
            pending,
            buffer: Some(buffer),
        }
    }

    /// Waits and gives the buffer back.
    ///
    /// # Errors
    ///
    /// As [`Pending::wait`]; the buffer is dropped then (leaked if the error
    /// [keeps it](Error::keeps_memory)), its
    /// content is undefined.
    pub fn wait(mut self) -> Result<B> {
        self.pending.cell.get()?;
        // Only this method takes the buffer, and it takes the handle too.
        self.buffer
            .take()
            .ok_or_else(|| Error::system("give a buffer back", "it is gone"))
    }

    /// True once the operation has finished or failed.
    pub fn is_done(&self) -> bool {
        self.pending.is_done()
    }
}

impl<B> Drop for Handle<B> {
    fn drop(&mut self) {
        let Some(buffer) = self.buffer.take() else {
            return;
        };
        if self.pending.lets_go() {
            drop(buffer);
        } else {
            // A device still works on it: leaking is the only safe thing left.
            std::mem::forget(buffer);
        }
    }
}

impl<B> fmt::Debug for Handle<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct Flag(Arc<Mutex<bool>>);

    impl Drop for Flag {
        fn drop(&mut self) {
            *self.0.lock().expect("flag") = true;
        }
    }

    #[test]
    fn memory_that_a_device_still_uses_is_never_freed() {
        // Promise: a failed operation frees its buffer, except when the device did not stop.
        let stuck = Error::Stuck {
            generation: 3,
            what: "all_gather #1".into(),
            cause: "lost rank 1".into(),
            waited: Duration::from_secs(10),
        };
        let lost = Error::system("test", "failed");
        for (error, freed, waits) in [
            (stuck.clone(), false, true),
            (stuck, false, false),
            (lost.clone(), true, true),
            (lost, true, false),
        ] {
            let dropped = Arc::new(Mutex::new(false));
            let handle = Handle::new(Pending::failed(error), Flag(dropped.clone()));
            if waits {
                assert!(handle.wait().is_err());
            } else {
                drop(handle);
            }
            assert_eq!(*dropped.lock().expect("flag"), freed);
        }
    }
}
