//! How gradients reach owners and parameters come back: one block at a time.
//!
//! Every rank computes gradients of whole blocks; rank r combines slice r of each. How they travel
//! is the plan's choice ([`ExchangePlan`]):
//!
//! * **owner combine, apart**: an all-to-all brings the owner its slice of every lane, unsummed.
//! * **owner combine, together**: a reduce-scatter sums slices in order of rank into the owner's.
//! * **all-reduce**: everybody gets the sum of everything.
//!
//! What comes back is the owners' updated parameters, or, where every rank keeps the optimizer's
//! whole state, their combined gradients. Calls that start something return at once; bytes move
//! while the caller computes.

mod presence;

pub use presence::Held;

use super::Error;
use super::kernel::{Lane, Row};
use super::lanes::Lanes;
use crate::model::Block;
use crate::torch::{self, Lent};
use espalier_comm::{Bf16, Communicator, CommunicatorExt, Handle};
use espalier_spec::exchange::{ExchangeType, Sharding};
use espalier_spec::plan::{BlockPlacement, ExchangePlan, SyncPath};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::{Kind, Tensor};

/// Exchange of all blocks of a job, seen from one rank. The last block is the heads', whose tasks
/// share no numbers: its gradients always travel together.
pub struct Exchange {
    comm: Arc<dyn Communicator>,
    how: ExchangePlan,
    lanes: Lanes,
    /// For each block the slice of each rank.
    slices: Vec<Vec<Range<usize>>>,
    /// For each block and slot: what the other ranks' slots sent, one after another.
    received: Vec<Vec<Received>>,
    sending: Vec<Sending>,
    gathering: Vec<Option<Handle<Lent>>>,
    /// Which blocks' parameters are here, if they are sharded.
    present: Vec<bool>,
    most_present: usize,
    /// Gradients are used on the device that computed them.
    stays: bool,
    waited: Duration,
    begun: Option<Instant>,
    span: Duration,
    /// When the last exchange that has ended began.
    first: Option<Instant>,
}

/// Memory for what other ranks send.
#[derive(Debug)]
enum Received {
    F32(Tensor),
    Bf16(Vec<Bf16>),
    /// On its way.
    Away,
}

/// What is on its way to owners.
enum Sending {
    InPlace(Handle<Lent>),
    F32(usize, usize, Handle<(Lent, Lent)>),
    Bf16(usize, usize, Handle<(Vec<Bf16>, Vec<Bf16>)>),
}

impl Exchange {
    /// For blocks whose slices are given, in order, heads last.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn new<'a>(
        comm: Arc<dyn Communicator>,
        how: ExchangePlan,
        lanes: Lanes,
        blocks: impl IntoIterator<Item = &'a BlockPlacement>,
    ) -> Result<Self, Error> {
        let slices: Vec<Vec<Range<usize>>> = blocks.into_iter().map(ranges).collect();
        let mut exchange = Self {
            gathering: slices.iter().map(|_| None).collect(),
            present: vec![true; slices.len()],
            most_present: 0,
            stays: false,
            begun: None,
            span: Duration::ZERO,
            first: None,
            received: Vec::new(),
            comm,
            how,
            lanes,
            slices,
            sending: Vec::new(),
            waited: Duration::ZERO,
        };
        exchange.make_room()?;
        Ok(exchange)
    }

    /// Memory for what the other ranks will send.
    fn make_room(&mut self) -> Result<(), Error> {
        let blocks = self.slices.len();
        for index in 0..blocks {
            let mut slots = Vec::new();
            if self.lanes.is_apart() && index + 1 < blocks {
                for slot in 0..self.lanes.most() {
                    let length = self.senders(slot) * self.slice(index).len();
                    slots.push(match self.how.dtype {
                        ExchangeType::F32 => Received::F32(Tensor::f_zeros(
                            [length as i64],
                            (Kind::Float, tch::Device::Cpu),
                        )?),
                        ExchangeType::Bf16 => Received::Bf16(vec![Bf16::default(); length]),
                    });
                }
            }
            self.received.push(slots);
        }
        Ok(())
    }

    /// Other ranks that have this slot.
    fn senders(&self, slot: usize) -> usize {
        let others = (0..self.comm.size()).filter(|rank| *rank != self.comm.rank());
        others
            .filter(|rank| self.lanes.of(*rank).len() > slot)
            .count()
    }

    pub(super) fn alone(&self) -> bool {
        self.comm.size() == 1
    }

    /// Leaves gradients on the device that computed them: nobody else wants them.
    pub(super) fn leave_there(&mut self) {
        self.stays = true;
    }

    /// Whether gradients stay on the device that computed them.
    pub(super) fn stays(&self) -> bool {
        self.stays
    }

    /// The lanes.
    #[must_use]
    pub fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// How gradients travel.
    #[must_use]
    pub fn how(&self) -> &ExchangePlan {
        &self.how
    }

    /// The slice of a block whose gradients this rank combines.
    #[must_use]
    pub fn slice(&self, index: usize) -> Range<usize> {
        let own = self.slices[index].get(self.comm.rank());
        own.cloned().unwrap_or(0..0)
    }

    /// The part of a block that this rank's optimizer steps: its slice, or all of it.
    #[must_use]
    pub fn stepped(&self, index: usize) -> Range<usize> {
        match self.how.sharding {
            Sharding::None => 0..self.slices[index].last().map_or(0, |last| last.end),
            Sharding::Optimizer | Sharding::Full => self.slice(index),
        }
    }

    fn is_heads(&self, index: usize) -> bool {
        index + 1 == self.slices.len()
    }

    /// Starts to bring a slot's gradients of a block to those who need them, from whatever device computed them. All
    /// ranks call this for the same blocks in the same order, for every slot that any of them has.
    ///
    /// # Errors
    /// If the gradient cannot be lent.
    pub fn send(&mut self, index: usize, slot: usize, block: &Block) -> Result<(), Error> {
        if !self.stays {
            block.pull_gradient(slot)?;
        }
        if self.alone() || !block.trainable() {
            return Ok(());
        }
        self.begun.get_or_insert_with(Instant::now);
        if self.lanes.is_apart() && !self.is_heads(index) {
            return self.send_apart(index, slot, block);
        }
        let Some(grad) = block.grad() else {
            return Ok(());
        };
        let lent = Lent::new(grad)?;
        let handle = match self.how.sync {
            SyncPath::AllReduce => self.comm.start_all_reduce(lent),
            _ => self.comm.start_reduce_scatter(lent, &self.slices[index]),
        };
        self.sending.push(Sending::InPlace(handle));
        Ok(())
    }

    fn send_apart(&mut self, index: usize, slot: usize, block: &Block) -> Result<(), Error> {
        let rank = self.comm.rank();
        let has = self.lanes.of(rank).len() > slot;
        let slices = &self.slices[index];
        let outgoing: Vec<_> = slices
            .iter()
            .enumerate()
            .map(|(to, slice)| {
                if has && to != rank {
                    slice.clone()
                } else {
                    0..0
                }
            })
            .collect();
        let length = self.slice(index).len();
        let mut start = 0;
        let mut incoming = Vec::with_capacity(slices.len());
        for from in 0..self.comm.size() {
            let sends = from != rank && self.lanes.of(from).len() > slot;
            let end = start + if sends { length } else { 0 };
            incoming.push(start..end);
            start = end;
        }
        // A rank without this slot lends its first gradient, of which it sends nothing.
        let Some(grad) = block.slot(slot).or(block.grad()) else {
            return Ok(());
        };
        let room = std::mem::replace(&mut self.received[index][slot], Received::Away);
        let sending = match room {
            Received::F32(room) => {
                let (send, recv) = (Lent::new(grad)?, Lent::new(&room)?);
                let handle = self.comm.start_all_to_all(send, &outgoing, recv, &incoming);
                Sending::F32(index, slot, handle)
            }
            Received::Bf16(room) => {
                let half = |value: &f32| Bf16::from_f32(*value);
                let send: Vec<Bf16> = torch::data(grad)?.iter().map(half).collect();
                let handle = self.comm.start_all_to_all(send, &outgoing, room, &incoming);
                Sending::Bf16(index, slot, handle)
            }
            Received::Away => {
                return Err(Error::Plan(format!("block {index} was sent twice")));
            }
        };
        self.sending.push(sending);
        Ok(())
    }

    /// Waits for all gradients.
    ///
    /// # Errors
    /// What the communicator says.
    pub fn receive(&mut self) -> Result<(), Error> {
        let begun = Instant::now();
        for sending in std::mem::take(&mut self.sending) {
            match sending {
                Sending::InPlace(handle) => drop(handle.wait()?),
                Sending::F32(index, slot, handle) => {
                    let (_, room) = handle.wait()?;
                    self.received[index][slot] = Received::F32(room.into_tensor());
                }
                Sending::Bf16(index, slot, handle) => {
                    let (_, room) = handle.wait()?;
                    self.received[index][slot] = Received::Bf16(room);
                }
            }
        }
        self.waited += begun.elapsed();
        if let Some(begun) = self.begun.take() {
            self.span += begun.elapsed();
            self.first.get_or_insert(begun);
        }
        Ok(())
    }

    /// The gradient matrix of this rank's slice of a block: a row for each task (and part), as
    /// [`Lanes::rows`] orders them. Call it after [`Exchange::receive`].
    ///
    /// # Errors
    /// If memory is not on the CPU.
    pub fn rows<'a>(&'a self, index: usize, block: &'a Block) -> Result<Vec<Row<'a>>, Error> {
        let (rank, slice) = (self.comm.rank(), self.slice(index));
        let mut rows = Vec::new();
        for row in self.lanes.rows() {
            let mut lanes = Vec::with_capacity(row.lanes.len());
            for lane in &row.lanes {
                if lane.rank == rank {
                    let grad = block.slot(lane.slot).ok_or_else(frozen)?;
                    lanes.push(Lane::F32(&torch::data(grad)?[slice.clone()]));
                    continue;
                }
                let before = (0..lane.rank)
                    .filter(|other| *other != rank && self.lanes.of(*other).len() > lane.slot)
                    .count();
                let place = before * slice.len()..(before + 1) * slice.len();
                lanes.push(match &self.received[index][lane.slot] {
                    Received::F32(room) => Lane::F32(&torch::data(room)?[place]),
                    Received::Bf16(room) => Lane::Bf16(&room[place]),
                    Received::Away => {
                        return Err(Error::Plan(format!("block {index} is on its way")));
                    }
                });
            }
            rows.push(Row { lanes });
        }
        Ok(rows)
    }

    /// Starts to bring all slices of a block's combined gradient to all ranks.
    ///
    /// # Errors
    /// If the gradient cannot be lent.
    pub fn share_gradient(&mut self, index: usize, block: &Block) -> Result<(), Error> {
        match block.grad() {
            Some(grad) => self.start_gather(index, &grad.shallow_clone()),
            None => Ok(()),
        }
    }

    /// Starts to bring a block's updated slices to all ranks.
    ///
    /// # Errors
    /// If the parameters cannot be lent.
    pub fn gather(&mut self, index: usize, block: &Block) -> Result<(), Error> {
        if block.trainable() && !self.alone() {
            block.about_to_change()?;
            self.start_gather(index, block.flat())?;
        }
        Ok(())
    }

    fn start_gather(&mut self, index: usize, whole: &Tensor) -> Result<(), Error> {
        if !self.alone() {
            self.gathered(index)?;
            let lent = Lent::new(whole)?;
            let handle = self.comm.start_all_gather(lent, &self.slices[index]);
            self.gathering[index] = Some(handle);
        }
        Ok(())
    }

    /// Waits until a block's parameters (or combined gradients) have come.
    ///
    /// # Errors
    /// What the communicator says.
    pub fn gathered(&mut self, index: usize) -> Result<(), Error> {
        if let Some(handle) = self.gathering[index].take() {
            let begun = Instant::now();
            handle.wait()?;
            self.waited += begun.elapsed();
        }
        Ok(())
    }

    /// Waits until everything has come.
    ///
    /// # Errors
    /// What the communicator says.
    pub fn settle(&mut self) -> Result<(), Error> {
        (0..self.gathering.len()).try_for_each(|index| self.gathered(index))
    }

    /// Sums small numbers over all ranks, in order of rank: all ranks get the same bits.
    ///
    /// # Errors
    /// What the communicator says.
    pub fn agree(&mut self, numbers: &mut [f64]) -> Result<(), Error> {
        if !self.alone() {
            let begun = Instant::now();
            self.comm.all_reduce(numbers)?;
            self.waited += begun.elapsed();
        }
        Ok(())
    }

    /// An error if this rank was told to stop at once: what computes for long asks between its parts.
    ///
    /// # Errors
    /// [`espalier_comm::Error::Aborted`].
    pub fn unless_aborted(&self) -> Result<(), Error> {
        match self.comm.abort_handle().reason() {
            Some(reason) => Err(Error::Comm(espalier_comm::Error::Aborted {
                what: "computing".to_owned(),
                reason: reason.to_owned(),
            })),
            None => Ok(()),
        }
    }

    /// Bytes sent to other ranks since the communicator began.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.comm.traffic().total().sent
    }

    /// Time from first to last operation of the exchange since this was asked last, hidden behind
    /// computing or not.
    pub fn take_span(&mut self) -> Duration {
        std::mem::take(&mut self.span)
    }

    /// When the first exchange began since this was asked last.
    pub fn take_first(&mut self) -> Option<Instant> {
        self.first.take()
    }

    /// Time spent waiting for other ranks since this was asked last.
    pub fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    /// Counts time that was spent waiting for other ranks elsewhere.
    pub fn count_waited(&mut self, time: Duration) {
        self.waited += time;
    }

    /// Bytes of memory held for what other ranks send.
    #[must_use]
    pub fn buffer_bytes(&self) -> u64 {
        let size = |room: &Received| match room {
            Received::F32(room) => 4 * room.numel(),
            Received::Bf16(room) => 2 * room.len(),
            Received::Away => 0,
        };
        self.received.iter().flatten().map(size).sum::<usize>() as u64
    }

    /// The communicator, for what is no part of a step.
    #[must_use]
    pub fn comm(&self) -> &dyn Communicator {
        self.comm.as_ref()
    }
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rank, size) = (self.comm.rank(), self.comm.size());
        write!(f, "Exchange(rank {rank} of {size}, {:?})", self.how)
    }
}

fn frozen() -> Error {
    Error::Plan("a frozen block has no gradient to combine".to_owned())
}

fn ranges(placement: &BlockPlacement) -> Vec<Range<usize>> {
    let mut start = 0;
    let mut slice = |&end: &u64| {
        let range = start..end as usize;
        start = end as usize;
        range
    };
    placement.ends.iter().map(&mut slice).collect()
}
