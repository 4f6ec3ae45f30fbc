//! A rank's threads, for arithmetic that libtorch does not do. How many there are changes no bit.

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Numbers below which handing work out costs more than it saves.
const FEW: usize = 1 << 16;

/// A rank's threads.
#[derive(Debug, Default)]
pub struct Threads {
    /// None where there is one only.
    pool: Option<ThreadPool>,
}

impl Threads {
    /// So many; where the system gives none, the caller's own does everything.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let pool = || {
            let builder = ThreadPoolBuilder::new().num_threads(count);
            builder
                .thread_name(|index| format!("slice-{index}"))
                .build()
        };
        Self {
            pool: (count > 1).then(pool).and_then(Result::ok),
        }
    }

    /// Calls `each` with consecutive groups of `items`, in all of which there is work on `numbers` numbers, and gives
    /// what it answers, in order.
    pub fn over<T: Send, R: Send>(
        &self,
        items: &mut [T],
        numbers: usize,
        each: impl Fn(&mut [T]) -> R + Sync,
    ) -> Vec<R> {
        match self.pool.as_ref().filter(|_| numbers >= FEW) {
            None => vec![each(items)],
            Some(pool) => {
                // Several for each thread, since some end sooner.
                let groups = 4 * pool.current_num_threads();
                let size = items.len().div_ceil(groups).max(1);
                pool.install(|| items.par_chunks_mut(size).map(&each).collect())
            }
        }
    }
}
