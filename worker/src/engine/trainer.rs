//! A rank's trainer: model, heads, exchange and the optimizer of what this rank owns.

use super::balancing::Balancing;
use super::exchange::{Exchange, Held};
use super::headset::HeadSet;
use super::lanes::Lanes;
use super::optimizer::Optimizer;
use super::owner::SliceOptimizer;
use super::prefix::Prefix;
use super::schedule::Schedule;
use super::table::{TableOwner, table_rows};
use super::thaw::Thaw;
use super::threads::Threads;
use super::tracks::Tracks;
use super::{Error, Sources};
use crate::data::{Follower, Input, Order, TaskData};
use crate::model::{Backbone, Batch, Block, TokenBatch, images};
use crate::model::{Context, Modality};
use espalier_comm::Communicator;
use espalier_spec::job::{AdaptiveBy, Sampler};
use espalier_spec::{InputGroups, JobSpec, Plan};
use std::sync::Arc;
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// Everything that a step needs.
#[derive(Debug)]
pub struct Trainer {
    pub(super) spec: JobSpec,
    pub(super) backbone: Box<dyn Backbone>,
    pub(super) heads: HeadSet,
    pub(super) exchange: Exchange,
    /// One for each block in order, heads last; none where frozen.
    pub(super) owners: Vec<Option<SliceOptimizer>>,
    pub(super) rows: Option<TableOwner>,
    pub(super) balancing: Balancing,
    pub(super) tracks: Tracks,
    /// Room for one block's combined gradient.
    pub(super) scratch: Tensor,
    /// Passes per slot that every rank makes where passes must be equally many.
    pub(super) passes: usize,
    /// Time that the last step's scalar products took.
    pub(super) gram_time: Duration,
    pub(super) optimizer: Optimizer,
    pub(super) schedule: Schedule,
    /// From which step on each block is trained.
    pub(super) thaw: Thaw,
    /// The lowest block that is trained at this step.
    pub(super) from: usize,
    pub(super) tasks: Arc<Vec<Arc<TaskData>>>,
    /// Which tasks share inputs.
    pub(super) groups: InputGroups,
    pub(super) order: Arc<Order>,
    /// Follows losses, where the sampler does.
    pub(super) follower: Option<Follower>,
    modality: Modality,
    /// Samples hold the features of a frozen backbone, not what it reads.
    pub(super) cached: bool,
    /// How samples hold what the frozen lowest blocks made of them.
    pub(super) begun: Option<Prefix>,
    /// Where passes run.
    pub(super) device: Device,
    /// What is not libtorch's is shared among as many threads as it has in this one.
    pub(super) threads: Threads,
}

impl Trainer {
    /// A trainer at step 0 for this rank's part of a plan.
    ///
    /// # Errors
    /// If the plan does not fit the model.
    pub fn new(
        spec: &JobSpec,
        plan: &Plan,
        comm: Arc<dyn Communicator>,
        sources: &Sources,
        backbone: Box<dyn Backbone>,
    ) -> Result<Self, Error> {
        let blocks = backbone.blocks();
        let device = blocks.first().map_or(Device::Cpu, Block::device);
        let heads = HeadSet::new(spec, &sources.tasks, backbone.as_ref(), device)?;
        let tables = usize::from(backbone.table().is_some());
        let blocks: Vec<&Block> = backbone.blocks().iter().chain([heads.block()]).collect();
        let placed = plan.blocks.get(tables..).unwrap_or_default();
        let wanted: Vec<&str> = blocks.iter().map(|block| block.name()).collect();
        let found: Vec<&str> = placed
            .iter()
            .map(|placement| placement.block.as_str())
            .collect();
        if wanted != found {
            return Err(Error::Plan(format!(
                "blocks are {wanted:?}, the plan places {found:?}"
            )));
        }
        let optimizer = Optimizer::new(&spec.training.optimizer);
        let rank = comm.rank();
        let most_shards = plan.shards.iter().map(Vec::len).max().unwrap_or(1);
        let rows = match backbone.table() {
            Some(table) if table.trainable() => {
                let owned = table_rows(&plan.blocks[0].ends, table.rows(), table.width())?;
                let how = (plan.exchange.sharding, &optimizer);
                Some(TableOwner::new(owned, rank, table.width(), how))
            }
            _ => None,
        };
        let epoch = sources
            .order
            .samples()
            .div_ceil(u64::from(spec.training.batch_size.max(1)));
        let mut balancing = Balancing::new(spec, plan, epoch)?;
        let lanes = if plan.exchange.apart {
            Lanes::apart(plan, sources.order.groups(), balancing.parts())
        } else {
            Lanes::together(comm.size())
        };
        let slots = lanes.of(rank).len();
        balancing.set_rows(lanes.rows());
        let exchange = Exchange::new(comm, plan.exchange, lanes, placed)?;
        let mut owners = Vec::with_capacity(blocks.len());
        for (index, block) in blocks.iter().enumerate() {
            let end = placed[index].ends.last().copied().unwrap_or(0);
            if block.trainable() && end != block.len() as u64 {
                return Err(Error::Plan(format!(
                    "slices of {} end at {end}, not {}",
                    block.name(),
                    block.len()
                )));
            }
            let owner = block
                .trainable()
                .then(|| SliceOptimizer::new(exchange.stepped(index), block, &optimizer));
            let mut owner = owner.transpose()?;
            let is_heads = index + 1 == blocks.len();
            if let Some(owner) = owner.as_mut().filter(|_| optimizer.pulls() && !is_heads) {
                owner.hold_to_start(block)?;
            }
            owners.push(owner);
        }
        let largest = (0..blocks.len()).map(|index| exchange.slice(index).len());
        let total = sources.total_steps(spec);
        let count = backbone.blocks().len();
        let thaw = Thaw::new(&spec.tuning, &spec.training, sources.order.samples(), count);
        let never = thaw.never(total);
        if never > 0 && rank == 0 {
            tracing::warn!(
                blocks = never,
                steps = total,
                "the run is too short to unfreeze all blocks: the lowest stay as they are"
            );
        }
        let room = if plan.exchange.apart {
            largest.max().unwrap_or(0)
        } else {
            0
        };
        let mut trainer = Self {
            optimizer,
            schedule: Schedule::new(&spec.training.schedule, total),
            thaw,
            from: thaw.first(0),
            spec: spec.clone(),
            tasks: Arc::clone(&sources.tasks),
            groups: sources.order.groups().clone(),
            order: Arc::new(sources.order.afresh()),
            follower: match spec.sampler {
                Sampler::Adaptive(given)
                    if given.by == AdaptiveBy::Affinity && !plan.exchange.apart =>
                {
                    return Err(Error::Plan(
                        "the sampler follows how gradients agree, but they do not travel apart"
                            .to_owned(),
                    ));
                }
                Sampler::Adaptive(given) => {
                    let groups = sources.order.groups().clone();
                    Some(Follower::new(given, groups, sources.tasks.len()))
                }
                _ => None,
            },
            modality: sources.modality,
            backbone,
            heads,
            exchange,
            owners,
            rows,
            balancing,
            tracks: Tracks::default(),
            scratch: Tensor::f_zeros([room as i64], (Kind::Float, Device::Cpu))?,
            passes: most_shards * spec.training.accumulation.max(1) as usize,
            gram_time: Duration::ZERO,
            cached: false,
            begun: None,
            device,
            threads: Threads::new(tch::get_num_threads().unsigned_abs() as usize),
        };
        for block in trainer.backbone.blocks_mut() {
            block.set_slots(slots)?;
        }
        trainer.dismantle()?;
        if trainer.may_stay() {
            trainer.stay()?;
        }
        Ok(trainer)
    }

    /// Which samples each step takes; of steps beyond those done so far only as many are known as a loader
    /// prepares ahead.
    #[must_use]
    pub fn order(&self) -> &Arc<Order> {
        &self.order
    }

    /// Waits until everything that was started has come.
    ///
    /// # Errors
    /// What the communicator says.
    pub fn settle(&mut self) -> Result<(), Error> {
        self.exchange.settle()
    }

    /// Brings sharded blocks and the word table together, for what needs the whole model: on every
    /// rank, or only on rank 0, who writes it. All ranks call it, and then [`Trainer::dismantle`].
    ///
    /// # Errors
    /// What the communicator says.
    pub(super) fn assemble(&mut self, everywhere: bool) -> Result<(), Error> {
        let stays = everywhere || self.exchange.comm().rank() == 0;
        let held = Held {
            blocks: self.backbone.blocks(),
            owners: &self.owners,
        };
        self.exchange.assemble(&held, stays)?;
        if let (Some(own), Some(table)) = (
            self.rows.as_ref().and_then(TableOwner::own),
            self.backbone.table_mut(),
        ) {
            own.assemble(self.exchange.comm(), table, everywhere)?;
        }
        Ok(())
    }

    /// Lets sharded blocks and the word table go again; what their owners keep is what is in them
    /// now.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn dismantle(&mut self) -> Result<(), Error> {
        for (index, block) in self.backbone.blocks().iter().enumerate() {
            if self.exchange.is_sharded(index, block) && self.exchange.is_here(index) {
                if let Some(owner) = &mut self.owners[index] {
                    owner.keep(block)?;
                }
                self.exchange.release(index, block)?;
            }
        }
        if let (Some(own), Some(table)) = (
            self.rows.as_mut().and_then(TableOwner::own_mut),
            self.backbone.table_mut(),
        ) {
            own.keep(self.exchange.comm().rank(), table)?;
        }
        Ok(())
    }

    /// The heads, for giving them weights of one's own before the first step: the same ones on all
    /// ranks, since nothing sends them round.
    pub fn heads_mut(&mut self) -> &mut HeadSet {
        &mut self.heads
    }

    /// The block of an index; the heads' block is the last one.
    pub(super) fn block(&self, index: usize) -> &Block {
        self.backbone
            .blocks()
            .get(index)
            .unwrap_or_else(|| self.heads.block())
    }

    /// Number of blocks, the heads' included.
    pub(super) fn blocks(&self) -> usize {
        self.owners.len()
    }

    pub(super) fn zero_grad(&mut self) -> Result<(), Error> {
        for block in self.backbone.blocks_mut() {
            block.zero_grad()?;
        }
        Ok(self.heads.block_mut().zero_grad()?)
    }

    /// Makes a slot's gradients those that backward accumulates into.
    pub(super) fn bind(&self, slot: usize) -> Result<(), Error> {
        if self.exchange.lanes().most() > 1 {
            for block in self.backbone.blocks() {
                block.bind(slot)?;
            }
        }
        Ok(())
    }

    pub(super) fn context(&self, step: u64) -> Context {
        Context {
            train: true,
            seed: self.spec.seed,
            step,
            recompute: self.spec.exchange.recompute,
            from: self.thaw.first(step),
        }
    }

    /// A forward pass's batch; `keys` are the samples' identities for dropout.
    pub(super) fn batch(&self, inputs: &[&Input], keys: &[u64]) -> Result<Batch, Error> {
        match self.cached {
            true => features(inputs, self.backbone.width(), self.device),
            false => {
                let batch = pack(inputs, keys, self.modality, self.device)?;
                match &self.begun {
                    Some(begun) => begun.start(batch, inputs, self.device),
                    None => Ok(batch),
                }
            }
        }
    }

    /// Makes steps and evaluations take these tasks' samples, which hold features of the backbone.
    pub(super) fn take_features(&mut self, tasks: Vec<Arc<TaskData>>) {
        self.tasks = Arc::new(tasks);
        self.cached = true;
    }
}

/// A batch of features that were computed before.
fn features(inputs: &[&Input], width: usize, device: Device) -> Result<Batch, Error> {
    let mut all = Vec::with_capacity(inputs.len() * width);
    for input in inputs {
        if let Input::Numbers(numbers) = input {
            all.extend_from_slice(numbers);
        }
    }
    let rows = Tensor::f_from_slice(&all)?.f_view([-1, width as i64])?;
    Ok(Batch::Features(rows.f_to_device(device)?))
}

/// Packs inputs of one modality.
///
/// # Errors
/// If inputs do not fit the modality.
pub fn pack(
    inputs: &[&Input],
    keys: &[u64],
    modality: Modality,
    device: Device,
) -> Result<Batch, Error> {
    match modality {
        Modality::Text => {
            let ids: Vec<Arc<[u32]>> = inputs.iter().filter_map(|i| i.ids().cloned()).collect();
            let samples: Vec<&[u32]> = ids.iter().map(AsRef::as_ref).collect();
            let seconds: Vec<Option<u32>> = inputs.iter().map(|input| input.second()).collect();
            let batch = TokenBatch::pack_pairs(&samples, &seconds, keys, device)?;
            Ok(Batch::Tokens(batch))
        }
        Modality::Image(shape) => {
            let numbers = |input: &&Input| match input.read() {
                Input::Numbers(numbers) => Some(numbers.clone()),
                _ => None,
            };
            let all: Vec<Arc<[f32]>> = inputs.iter().filter_map(numbers).collect();
            let samples: Vec<&[f32]> = all.iter().map(AsRef::as_ref).collect();
            Ok(images(&samples, keys, shape, device)?)
        }
    }
}
