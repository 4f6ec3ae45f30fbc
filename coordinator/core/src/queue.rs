//! The queue: which waiting job is placed next, and on which devices.
//!
//! Order: priority, highest first, then creation. Strictly so among jobs that want the same kind of
//! device: a job that does not fit now holds those behind it back, so that small jobs can't starve
//! a large one. The exception is a job that the whole cluster could not hold: it waits for workers
//! and blocks nobody.
//!
//! A job without a number of ranks takes every device of the ready workers at its first placement:
//! all CUDA devices if there are any (and the job does not ask for the CPU), else all CPU devices; no
//! more than it has shards, since a rank without one would have nothing to compute.
//! Ranks, shards and kind of device are fixed from then on.
//!
//! An elastic job counts workers instead of devices (`elastic.rs`).

use crate::elastic;
use crate::generation::{Crowd, count};
use crate::index::at;
use crate::machine::Machine;
use crate::record::{Kind, Waiting};
use crate::state::{Job, Phase, Size};
use espalier_spec::job::Device;
use espalier_spec::{JobId, WorkerId};
use std::collections::BTreeMap;
use std::fmt;

/// Why a queued job waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The coordinator restarted; these workers have not come back yet.
    Reconnect { workers: Crowd },
    /// Ranks of the job's last generation have not stopped yet.
    Stops { generation: u64, workers: Crowd },
    /// The whole cluster has too few ranks.
    Short {
        need: Option<u32>,
        kind: Device,
        has: usize,
        free: usize,
        /// Those that get no ranks of this job; they are not counted.
        unfit: Option<Crowd>,
        draining: usize,
    },
    /// There are enough ranks, but others use them.
    Busy {
        need: u32,
        kind: Device,
        has: usize,
        free: usize,
    },
    /// There are too few workers for an elastic job, or others use them.
    Few {
        need: usize,
        kind: Device,
        has: usize,
        free: usize,
        /// Those that get no ranks of this job; they are not counted.
        unfit: Option<Crowd>,
    },
    /// Another job is first; none: one of another namespace, whose name is told to nobody here.
    Behind { job: Option<JobId> },
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::Reconnect { workers } => {
                write!(
                    f,
                    "waits for {workers} to come back after the coordinator's restart"
                )
            }
            Wait::Stops {
                generation,
                workers,
            } => {
                write!(
                    f,
                    "waits for {workers} to stop the ranks of generation {generation}"
                )
            }
            Wait::Short {
                need,
                kind,
                has,
                free,
                unfit,
                draining,
            } => {
                match need {
                    Some(need) => write!(f, "needs {}", noun(*need as usize, *kind))?,
                    None => write!(f, "needs a worker with a {}", of(*kind).trim())?,
                }
                write!(f, "; the cluster has {has} ({free} free)")?;
                besides(unfit.as_ref(), f)?;
                match draining {
                    0 => Ok(()),
                    n => write!(f, ", besides {n} of draining workers"),
                }
            }
            Wait::Busy {
                need,
                kind,
                has,
                free,
            } => {
                write!(
                    f,
                    "needs {}; the cluster has {has} ({free} free)",
                    noun(*need as usize, *kind)
                )
            }
            Wait::Few {
                need,
                kind,
                has,
                free,
                unfit,
            } => {
                let need = elastic::noun(*need, of(*kind));
                write!(f, "needs {need}; the cluster has {has} ({free} free)")?;
                besides(unfit.as_ref(), f)
            }
            Wait::Behind { job: Some(job) } => write!(f, "waits behind job {job}"),
            Wait::Behind { job: None } => f.write_str("waits behind a job of another namespace"),
        }
    }
}

impl Wait {
    /// What of it is worth an event: not what passes within seconds.
    pub(crate) fn waiting(&self) -> Option<Waiting> {
        match self {
            Wait::Reconnect { .. } | Wait::Stops { .. } => None,
            Wait::Few { need, has, .. } if has < need => Some(Waiting::Short),
            Wait::Short { .. } => Some(Waiting::Short),
            Wait::Busy { .. } | Wait::Few { .. } | Wait::Behind { .. } => Some(Waiting::Busy),
        }
    }
}

fn besides(unfit: Option<&Crowd>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match unfit {
        Some(workers) => write!(f, ", besides {workers}, unfit for this job"),
        None => Ok(()),
    }
}

/// The workers that [`Machine::unfit`] finds, if there are any.
pub(crate) fn some(unfit: &BTreeMap<&WorkerId, (usize, usize)>) -> Option<Crowd> {
    (!unfit.is_empty()).then(|| Crowd::of(unfit.keys().copied()))
}

/// "cpu " or "cuda " in front of "rank".
fn of(kind: Device) -> &'static str {
    match kind {
        Device::Auto => "rank",
        Device::Cpu => "cpu rank",
        Device::Cuda => "cuda rank",
    }
}

fn noun(number: usize, kind: Device) -> String {
    count(number, of(kind))
}

/// Whether a device of this name is of this kind.
pub(crate) fn is_kind(name: &str, kind: Device) -> bool {
    let cuda = name == "cuda" || name.starts_with("cuda:");
    match kind {
        Device::Auto => true,
        Device::Cpu => !cuda,
        Device::Cuda => cuda,
    }
}

impl Machine {
    /// Places every queued job that can be, and says of the others why they wait.
    pub(crate) fn schedule(&mut self) {
        self.refresh();
        let queue = self.index.queued.iter();
        let queue: Vec<u64> = queue.map(|(_, number)| *number).collect();
        let before = std::mem::take(&mut self.waits);
        let awaited = Crowd::of(self.index.awaited.iter());
        let mut first: BTreeMap<bool, JobId> = BTreeMap::new();
        for number in queue {
            let wait = if self.index.awaited.is_empty() {
                self.try_place(number, &mut first)
            } else {
                let workers = awaited.clone();
                Some(Wait::Reconnect { workers })
            };
            let Some(wait) = wait else {
                // Its devices are taken now.
                self.refresh();
                continue;
            };
            let known = before.get(&number);
            let fewer = matches!(
                (known, &wait),
                (Some(Wait::Reconnect { .. }), Wait::Reconnect { .. })
            );
            if known != Some(&wait) && !fewer {
                self.touch_job(number);
            }
            if known.map(Wait::waiting) != Some(wait.waiting()) {
                self.mark_job(number);
            }
            let said = self.state.jobs.get(&number).and_then(|job| job.waiting);
            if let Some(waiting) = wait.waiting()
                && said != Some(waiting)
            {
                self.tell(number, wait.to_string(), Kind::Waits(waiting));
            }
            self.waits.insert(number, wait);
        }
        self.note_busy();
    }

    /// Whether something has changed that the queue goes by.
    pub(crate) fn moves_queue(&self) -> bool {
        let queued = |number: &u64| {
            let job = self.state.jobs.get(number);
            self.waits.contains_key(number) || job.is_some_and(|job| job.phase == Phase::Queued)
        };
        !self.changed.workers.is_empty() || self.changed.jobs.iter().any(queued)
    }

    /// Keeps which devices queued jobs wait for: elastic jobs don't take more of these.
    fn note_busy(&mut self) {
        let waits = self.waits.iter();
        let waits = waits.filter(|(_, wait)| wait.waiting() == Some(Waiting::Busy));
        let mut busy = [false; 3];
        for job in waits.filter_map(|(number, _)| self.state.jobs.get(number)) {
            let fixed = job.size.map(|size| size.device);
            busy[at(fixed.unwrap_or(job.spec.resources.device))] = true;
        }
        if self.busy != busy {
            self.busy = busy;
            self.marked.extend(&self.index.growing);
        }
    }

    /// Places one job, or says why not. `first`: the job that waits for CUDA (true) or CPU (false)
    /// devices already.
    fn try_place(&mut self, number: u64, first: &mut BTreeMap<bool, JobId>) -> Option<Wait> {
        let job = self.state.jobs.get(&number)?;
        let (kind, need) = match self.wants(number, job) {
            Ok(wants) => wants,
            Err(wait) => return Some(wait),
        };
        let range = elastic::range(job);
        if let Some(other) = first.get(&(kind == Device::Cuda)) {
            let near = self.namespace(other) == Some(job.spec.namespace.as_str());
            let job = near.then(|| other.clone());
            return Some(Wait::Behind { job });
        }
        let holders = self.holders(number);
        if !holders.is_empty() {
            first.insert(kind == Device::Cuda, job.name());
            let generation = job.generation.0;
            return Some(Wait::Stops {
                generation,
                workers: Crowd::of(holders.iter()),
            });
        }
        let seats = match range {
            Some(range) => self.spread(number, job, kind, need, range),
            None => self.seats(number, job, kind, need),
        };
        let Some(seats) = seats else {
            first.insert(kind == Device::Cuda, job.name());
            if let Some((min, _)) = range {
                return Some(self.too_few(number, job, kind, min));
            }
            let (has, free) = (self.index.has(kind), self.index.free(kind));
            return Some(Wait::Busy {
                need,
                kind,
                has,
                free,
            });
        };
        let size = job.size.unwrap_or_else(|| Size {
            ranks: need,
            shards: job.spec.resources.shards.unwrap_or(need).max(1),
            device: kind,
        });
        self.begin(number, seats, size);
        None
    }

    /// Kind and number of the devices that a job wants now; `Err` if the cluster can't hold it.
    fn wants(&self, number: u64, job: &Job) -> Result<(Device, u32), Wait> {
        let asked = job.spec.resources.device;
        let kinds: &[Device] = match (job.size, asked) {
            (
                Some(Size {
                    device: Device::Cuda,
                    ..
                }),
                _,
            )
            | (None, Device::Cuda) => &[Device::Cuda],
            (Some(_), _) | (None, Device::Cpu) => &[Device::Cpu],
            (None, Device::Auto) => &[Device::Cuda, Device::Cpu],
        };
        let need = job.size.map(|size| size.ranks).or(job.spec.resources.ranks);
        let most = job.spec.resources.shards.unwrap_or(u32::MAX).max(1);
        let range = elastic::range(job);
        for kind in kinds {
            // Nobody waits for what this job can't have.
            let unfit = self.unfit(number, *kind);
            if let (Some((min, _)), Some(need)) = (range, need) {
                if self.index.hosts(*kind).saturating_sub(unfit.len()) >= min {
                    return Ok((*kind, need.max(1)));
                }
                continue;
            }
            let lost: usize = unfit.values().map(|(has, _)| has).sum();
            let has = self.index.has(*kind).saturating_sub(lost);
            match need {
                Some(need) if need as usize <= has => return Ok((*kind, need.max(1))),
                None if has > 0 => {
                    let all = u32::try_from(has).unwrap_or(u32::MAX);
                    return Ok((*kind, all.min(most)));
                }
                _ => {}
            }
        }
        let kind = if kinds.len() == 1 {
            kinds[0]
        } else {
            Device::Auto
        };
        if let Some((min, _)) = range {
            return Err(self.too_few(number, job, kind, min));
        }
        let unfit = self.unfit(number, kind);
        let lost: usize = unfit.values().map(|(has, _)| has).sum();
        let taken: usize = unfit.values().map(|(_, free)| free).sum();
        Err(Wait::Short {
            need,
            kind,
            has: self.index.has(kind).saturating_sub(lost),
            free: self.index.free(kind).saturating_sub(taken),
            unfit: some(&unfit),
            draining: self.index.draining(kind),
        })
    }
}
