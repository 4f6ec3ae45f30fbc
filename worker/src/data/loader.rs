//! A rank's part of every step, prepared ahead of time by threads.

use super::shard::{Placement, SAMPLE_COST, Work, micro_batches, split};
use super::{Classes, Error, Input, Order, SampleRef, Split, StepBatch, TaskData, Window};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

/// One sample, ready to compute.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Which one it is.
    pub at: SampleRef,
    /// Its tokens or numbers; with those of what its own class says of it, where it is read together with
    /// that.
    pub input: Input,
    /// Then, together with what other classes say of it; or what it is ranked with; else none.
    pub more: Vec<Input>,
    /// The window that its image was seen through, if through one: its mask is seen through the same.
    pub window: Option<Window>,
}

/// A shard's samples of one step, in micro-batches; none if the shard has nothing to do.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardBatch {
    /// The shard.
    pub shard: usize,
    /// Parts to compute one after another, each in canonical order (by task, those of its target after
    /// the others, then by draw); at most as many as the job's `accumulation`, none empty. A sample and
    /// the one of the target that is drawn with it are in one part.
    pub micro: Vec<Vec<Sample>>,
}

/// A rank's part of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct RankStep {
    /// Steps done before it.
    pub step: u64,
    /// Samples of each task that have a label for it, in the whole step, over all shards, those of targets
    /// not counted: what sums of losses are divided by.
    pub counts: Vec<u32>,
    /// Samples drawn for the step, over all shards; one that several tasks label counts once.
    pub drawn: u64,
    /// The rank's shards, in order.
    pub shards: Vec<ShardBatch>,
}

/// What to load.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// Steps to deliver; the first may be any.
    pub steps: Range<u64>,
    /// The shards that this rank hosts, in order.
    pub shards: Vec<usize>,
    /// Which shards may compute which tasks.
    pub placement: Placement,
    /// Micro-batches of a shard's step.
    pub accumulation: u32,
    /// Steps that are kept ready.
    pub depth: usize,
    /// Threads that prepare them; no more than `depth` are started.
    pub threads: usize,
}

impl LoaderOptions {
    /// Four steps ahead, by one thread.
    #[must_use]
    pub fn new(steps: Range<u64>, shards: Vec<usize>, placement: Placement) -> Self {
        Self {
            steps,
            shards,
            placement,
            accumulation: 1,
            depth: 4,
            threads: 1,
        }
    }
}

/// Iterates over a rank's part of every step, in order of steps. After an error it ends. Dropped, it
/// stops its threads, which takes no longer than tokenising one sample.
#[derive(Debug)]
pub struct Loader {
    next: u64,
    first: u64,
    end: u64,
    // Thread t prepares every step s with (s - first) mod threads = t, so that results arrive in
    // order with no lock and no sorting.
    lanes: Vec<Receiver<Result<RankStep, Error>>>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Loader {
    /// Starts to prepare.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        tasks: Arc<Vec<Arc<TaskData>>>,
        order: Arc<Order>,
        options: LoaderOptions,
    ) -> Result<Self, Error> {
        let depth = options.depth.max(1);
        let count = options.threads.clamp(1, depth);
        let Range { start: first, end } = options.steps;
        let stop = Arc::new(AtomicBool::new(false));
        let mut loader = Self {
            next: first,
            first,
            end,
            lanes: Vec::with_capacity(count),
            threads: Vec::with_capacity(count),
            stop: stop.clone(),
        };
        let worker = Arc::new(Preparation {
            tasks,
            order,
            options,
            stop,
        });
        for lane in 0..count {
            // One prepared step waits in the thread's hands when its lane is full.
            let (sender, receiver) = sync_channel((depth / count).saturating_sub(1));
            let worker = worker.clone();
            let work = move || worker.run(first + lane as u64, count, &sender);
            let name = format!("loader-{lane}");
            let thread = Builder::new()
                .name(name)
                .spawn(work)
                .map_err(Error::Thread)?;
            loader.lanes.push(receiver);
            loader.threads.push(thread);
        }
        Ok(loader)
    }

    fn finish(&mut self) {
        self.next = self.end;
        self.stop.store(true, Ordering::Relaxed);
        // A thread that waits to hand over a step sees its receiver gone.
        self.lanes.clear();
        for thread in self.threads.drain(..) {
            // A panic was reported by the thread itself, and as `LoaderDied` to the reader.
            let _ = thread.join();
        }
    }
}

impl Iterator for Loader {
    type Item = Result<RankStep, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let step = self.next;
        let lane = ((step - self.first) % self.lanes.len().max(1) as u64) as usize;
        let received = self.lanes.get(lane).and_then(|lane| lane.recv().ok());
        let result = received.unwrap_or(Err(Error::LoaderDied { step }));
        match result {
            Ok(batch) => {
                self.next += 1;
                Some(Ok(batch))
            }
            Err(error) => {
                self.finish();
                Some(Err(error))
            }
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.finish();
    }
}

/// What the threads share.
struct Preparation {
    tasks: Arc<Vec<Arc<TaskData>>>,
    order: Arc<Order>,
    options: LoaderOptions,
    stop: Arc<AtomicBool>,
}

impl Preparation {
    fn run(&self, first: u64, stride: usize, sender: &SyncSender<Result<RankStep, Error>>) {
        for step in (first..self.options.steps.end).step_by(stride) {
            let Some(result) = self.prepare(step).transpose() else {
                return;
            };
            let failed = result.is_err();
            if sender.send(result).is_err() || failed {
                return;
            }
        }
    }

    /// This rank's part of `step`; none if the loader was dropped meanwhile. Every rank computes the
    /// costs of all samples of the step, since the split depends on all of them; tokens are kept, so
    /// a sample is tokenised once per process.
    fn prepare(&self, step: u64) -> Result<Option<RankStep>, Error> {
        let batch = self.order.batch(step);
        let mut work = Vec::with_capacity(batch.samples.len());
        let target = |index: usize| batch.targets.get(index).copied().flatten();
        for (index, at) in batch.samples.iter().enumerate() {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let classes = self.task(*at)?.classes.as_ref();
            let pairs = classes.map_or(1, Classes::pairs) as u64;
            let (split, sample) = (self.split(*at)?, at.sample as usize);
            let mut tokens = split.cost(sample)? * pairs + split.partner_cost(sample)?;
            if let Some(target) = target(index) {
                tokens += self.split(target)?.cost(target.sample as usize)? + SAMPLE_COST;
            }
            work.push(Work {
                task: usize::from(at.task),
                tokens,
            });
        }
        let parts = split(&work, &self.options.placement)?;
        let mut shards = Vec::with_capacity(self.options.shards.len());
        for shard in &self.options.shards {
            let mine = parts.get(*shard).map(Vec::as_slice).unwrap_or_default();
            let costs: Vec<Work> = mine.iter().map(|index| work[*index]).collect();
            let mut micro = Vec::new();
            for part in micro_batches(&costs, self.options.accumulation) {
                let mut which: Vec<SampleRef> = Vec::with_capacity(part.len());
                for index in &part {
                    let index = mine[*index];
                    which.push(batch.samples[index]);
                    which.extend(target(index));
                }
                // Stable: draws stay in order.
                which.sort_by_key(|at| (at.task, at.target));
                let samples = which.into_iter().map(|at| self.sample(at));
                micro.push(samples.collect::<Result<Vec<Sample>, Error>>()?);
            }
            shards.push(ShardBatch {
                shard: *shard,
                micro,
            });
        }
        Ok(Some(RankStep {
            step,
            counts: self.counts(&batch),
            drawn: batch.samples.len() as u64,
            shards,
        }))
    }

    /// Samples of each task that have a label for it; every rank knows all labels.
    fn counts(&self, batch: &StepBatch) -> Vec<u32> {
        let mut counts = self.order.counts(batch);
        for (task, (count, data)) in counts.iter_mut().zip(self.tasks.iter()).enumerate() {
            // Not by how many rows had none: a text that is too long or a damaged mask is missing, too.
            if !data.train.is_labelled() {
                let leader = self.order.groups().leader(task);
                let own = batch.samples.iter();
                let own = own.filter(|at| usize::from(at.task) == leader);
                let labelled = own.filter(|at| data.train.has_label(at.sample as usize));
                *count = u32::try_from(labelled.count()).unwrap_or(u32::MAX);
            }
        }
        counts
    }

    fn sample(&self, at: SampleRef) -> Result<Sample, Error> {
        let task = self.task(at)?;
        if let Some(classes) = task.classes.as_ref().filter(|c| c.pairs() > 1) {
            return self.paired(at, task, classes);
        }
        let pass = self.order.pass_key(at);
        let split = self.split(at)?;
        let input = split.drawn(at.sample as usize, pass)?;
        let (input, window) = match &task.augment {
            Some(augmenter) => {
                let key = self.order.draw_key(at);
                (augmenter.apply(input, key), augmenter.window(key))
            }
            None => (input, None),
        };
        Ok(Sample {
            at,
            input,
            more: split.partners(at.sample as usize)?,
            window,
        })
    }

    /// A sample together with what its own class and some others say of it.
    fn paired(&self, at: SampleRef, task: &TaskData, classes: &Classes) -> Result<Sample, Error> {
        let index = at.sample as usize;
        let own = task.train.labels.classes(index).first().copied();
        let (own, others) = classes.drawn(own.unwrap_or(0), self.order.draw_key(at));
        let input = task.train.paired(index, own)?;
        let others = others.into_iter();
        let more = others.map(|other| task.train.paired(index, other));
        let more = more.collect::<Result<Vec<Input>, Error>>()?;
        Ok(Sample {
            at,
            input,
            more,
            window: None,
        })
    }

    /// Where a sample is.
    fn split(&self, at: SampleRef) -> Result<&Split, Error> {
        let task = self.task(at)?;
        Ok(match &task.target {
            Some(target) if at.target => target,
            _ => &task.train,
        })
    }

    fn task(&self, at: SampleRef) -> Result<&TaskData, Error> {
        let task = usize::from(at.task);
        let none = || Error::Placement {
            task,
            shards: "no data".to_owned(),
            count: 0,
        };
        self.tasks.get(task).map(Arc::as_ref).ok_or_else(none)
    }
}

#[cfg(test)]
mod tests;
