//! A rank's part of all that a run depends on, as bytes: what checkpoints are made of, and what ranks hold for one
//! another.
//!
//! Nothing of the pretrained model is in it that never changes: frozen parameters, and rows of the word table that
//! no token ever touched. Whoever takes parts up has read these from where the job says.

use super::Error;
use super::trainer::Trainer;
use crate::checkpoint::{self, Draft, Image, Images, RunState, Values, fill};
use crate::torch;
use espalier_spec::exchange::Sharding;
use espalier_spec::{Rank, Step};
use std::collections::BTreeMap;
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// Names of tensors: `slice|<block>|<start>|<end>` f32 [end - start], `rows|ids` i64 [n] and `rows|values`
/// f32 [n * width], `untrained|<parameter>`; those of owners are said at [`Trainer::own_values`].
const SLICE: &str = "slice";
const ROWS: &str = "rows";
/// Parameters of heads that no step changes but an evaluation may.
const UNTRAINED: &str = "untrained|";
/// Note of a shared image: the run's state as JSON.
const STATE: &str = "state";

/// One rank's part of a run at a step boundary: two safetensors images.
#[derive(Clone)]
pub struct Part {
    /// Whose slices these are.
    pub rank: Rank,
    /// Steps done.
    pub step: Step,
    /// What every rank needs, `shared`: the slices of parameters and heads, rows of the word table, and the run's
    /// state in the metadata. What only the owner of the slices needs, `own`: moments of slices and rows, and what
    /// balancers keep beside them.
    pub images: Images,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [shared, own] = self.images.lengths();
        let (rank, step) = (self.rank, self.step);
        write!(f, "Part({rank} at step {step}, {shared} + {own} bytes)")
    }
}

/// What was found in parts as yet.
#[derive(Debug)]
pub(super) struct Found {
    /// Of each block, slices of its parameters.
    slices: Vec<Vec<Range<usize>>>,
    /// Of each block, how many of this rank's moments.
    pub(super) moments: Vec<usize>,
}

impl Found {
    pub(super) fn new(blocks: usize) -> Self {
        Self {
            slices: vec![Vec::new(); blocks],
            moments: vec![0; blocks],
        }
    }
}

impl Trainer {
    /// This rank's part of the run after the step that `state` says; no rank waits for another. Puts the state of
    /// balancer and sampler into `state`.
    ///
    /// # Errors
    /// If memory cannot be read.
    pub fn take_part(&mut self, state: &mut RunState) -> Result<Part, Error> {
        state.balancer = Some(self.balancing.state());
        state.sampler = self.follower.as_ref().map(|own| own.state().clone());
        let rank = self.exchange.comm().rank();
        let text = serde_json::to_string(state).map_err(|error| checkpoint::Error::Image {
            what: format!("the part of rank {rank}"),
            message: format!("the run's state cannot be written as JSON: {error}"),
        })?;
        let name = format!("espalier part of rank {rank}");
        let notes = [("format", name), (STATE, text)];
        let shared = Draft::new(self.shared_values()?, &notes);
        let own = Draft::new(self.own_values()?, &notes[..1]);
        Ok(Part {
            rank: Rank(u32::try_from(rank).unwrap_or(u32::MAX)),
            step: state.step,
            images: Images::encode(&shared, &own)?,
        })
    }

    /// Whether this rank needs the `own` image of `rank`'s part, where both were taken with the plan that it
    /// trains by.
    #[must_use]
    pub fn needs_own(&self, rank: Rank) -> bool {
        let everywhere = self.exchange.how().sharding == Sharding::None;
        everywhere || self.exchange.comm().rank() == rank.0 as usize
    }

    /// Takes up a run from the parts of all ranks of one step, in order of rank, in a trainer that has made no step.
    /// The parts may be of another number of ranks. `own` may be empty where [`Trainer::needs_own`] says so. All
    /// ranks call it; none waits for another. After an error the trainer is of no use.
    ///
    /// # Errors
    /// [`checkpoint::Error::Image`] names the part and the tensor that is missing, of another length or of another
    /// run; or if parts are of several steps.
    pub fn load_parts(&mut self, parts: &[Part]) -> Result<RunState, Error> {
        self.make_ready()?;
        let mut found = Found::new(self.blocks());
        let mut state: Option<RunState> = None;
        for part in parts {
            let what = format!("the part of {} at step {}", part.rank, part.step);
            let image = Image::read(part.images.shared(), what.clone())?;
            self.load_shared(&image, &mut found)?;
            let text = image.note(STATE)?;
            let own: RunState = serde_json::from_str(text)
                .map_err(|error| image.bad(format!("the run's state: {error}")))?;
            let first = state.get_or_insert(own);
            if first.step != part.step {
                let expected = first.step;
                return Err(image.bad(format!("expected step {expected}")).into());
            }
            let own = part.images.own();
            if !own.is_empty() {
                let image = Image::read(own, what)?;
                let bad = |message: String| image.bad(message);
                self.load_own(&image.tensors()?, &bad, &mut found.moments)?;
            }
        }
        let none = || checkpoint::Error::Image {
            what: "parts of a run".to_owned(),
            message: "there are none".to_owned(),
        };
        let state = state.ok_or_else(none)?;
        self.check_found(&found)?;
        self.take_up(&state)?;
        Ok(state)
    }

    /// Nothing is on its way, and of sharded blocks and the word table only what this rank owns is here.
    ///
    /// # Errors
    /// What the communicator says.
    pub(super) fn make_ready(&mut self) -> Result<(), Error> {
        self.exchange.settle()?;
        self.dismantle()
    }

    /// Balancer and sampler go on from a state.
    ///
    /// # Errors
    /// If it belongs to another balancer.
    pub(super) fn take_up(&mut self, state: &RunState) -> Result<(), Error> {
        if let Some(state) = &state.balancer {
            self.balancing.restore(state)?;
        }
        if let (Some(follower), Some(state)) = (&mut self.follower, &state.sampler) {
            follower.restore(state.clone());
            self.order.follow(follower.factors());
        }
        Ok(())
    }

    fn shared_values(&self) -> Result<Vec<(String, Values<'_>)>, Error> {
        let rank = self.exchange.comm().rank();
        let mut values = Vec::new();
        for (index, owner) in self.owners.iter().enumerate() {
            let Some(owner) = owner else { continue };
            let (block, slice) = (self.block(index), self.exchange.slice(index));
            let key = format!("{SLICE}|{}|{}|{}", block.name(), slice.start, slice.end);
            values.push((key, Values::Tensor(owner.parameters(block, &slice)?)));
        }
        let heads = self.heads.block();
        let params = heads.params().iter().enumerate();
        // All ranks have the same.
        for (place, param) in params.filter(|(_, param)| rank == 0 && param.is_frozen()) {
            let key = format!("{UNTRAINED}{}", param.name);
            values.push((key, Values::Tensor(heads.host(place)?)));
        }
        if let (Some(rows), Some(table)) = (&self.rows, self.backbone.table()) {
            let (ids, of_rows) = rows.own_values(rank, table)?;
            let ids = ids.into_iter().map(i64::from).collect();
            values.push((format!("{ROWS}|ids"), Values::Ids(ids)));
            values.push((format!("{ROWS}|values"), of_rows));
        }
        Ok(values)
    }

    /// What the owner of this rank's slices keeps: `<block>|<first or second>|<start>|<end>` f32 [end - start],
    /// `rows|ids` i64 [n], `rows|<first, second or start>` f32 [n * width], and what balancers keep.
    fn own_values(&self) -> Result<Vec<(String, Values<'_>)>, Error> {
        let mut values = Vec::new();
        for (index, owner) in self.owners.iter().enumerate() {
            let Some(owner) = owner else { continue };
            let (name, slice) = (self.block(index).name(), self.exchange.slice(index));
            // Where every rank has all the state, each gives its own slice of it.
            let start = slice.start - owner.range().start;
            let (first, second) = owner.moments();
            let kept = [
                Some(("first", first)),
                second.map(|second| ("second", second)),
            ];
            for (which, tensor) in kept.into_iter().flatten() {
                let key = format!("{name}|{which}|{}|{}", slice.start, slice.end);
                let own = tensor.f_narrow(0, start as i64, slice.len() as i64)?;
                let own = own.f_to_device(Device::Cpu)?;
                values.push((key, Values::Tensor(own)));
            }
        }
        if let Some(rows) = &self.rows {
            let (ids, kept) = rows.own_state(self.exchange.comm().rank());
            let ids = ids.into_iter().map(i64::from).collect();
            values.push((format!("{ROWS}|ids"), Values::Ids(ids)));
            let named = kept.into_iter();
            values.extend(named.map(|(name, own)| (format!("{ROWS}|{name}"), own)));
        }
        values.extend(self.tracks_state());
        Ok(values)
    }

    /// Takes up what every rank needs of one rank's part.
    ///
    /// # Errors
    /// What is wrong with a tensor, by name.
    pub(super) fn load_shared(
        &mut self,
        image: &Image<'_>,
        found: &mut Found,
    ) -> Result<(), Error> {
        for name in image.names() {
            if let Some(param) = name.strip_prefix(UNTRAINED) {
                self.load_untrained(image, &name, param)?;
                continue;
            }
            let parts: Vec<&str> = name.split('|').collect();
            match parts.as_slice() {
                [SLICE, block, start, end] => {
                    let (index, range) = self.place(block, start, end).ok_or_else(|| {
                        image.bad(format!("tensor {name} is of no block of this job"))
                    })?;
                    let words = image.numbers(&name, range.len())?;
                    if let Some(owner) = &self.owners[index] {
                        owner.put(self.block(index), &range, words)?;
                    }
                    found.slices[index].push(range);
                }
                [ROWS, "ids"] => self.load_rows(image, &name)?,
                [ROWS, "values"] => {}
                _ => {
                    let message = format!("tensor {name} is none of a part of a run");
                    return Err(image.bad(message).into());
                }
            }
        }
        Ok(())
    }

    /// Block and range of a slice's name; none if this job has no such slice.
    fn place(&self, block: &str, start: &str, end: &str) -> Option<(usize, Range<usize>)> {
        let index = self.index_of(block)?;
        let range: Range<usize> = start.parse().ok()?..end.parse().ok()?;
        let is_within = range.start <= range.end && range.end <= self.block(index).len();
        (is_within && self.owners[index].is_some()).then_some((index, range))
    }

    fn index_of(&self, block: &str) -> Option<usize> {
        (0..self.blocks()).find(|&index| self.block(index).name() == block)
    }

    fn load_untrained(&mut self, image: &Image<'_>, name: &str, param: &str) -> Result<(), Error> {
        let mut params = self.heads.block().params().iter();
        let shape = params.find(|own| own.name == param);
        let shape = shape.map(|own| own.tensor.size());
        let shape =
            shape.ok_or_else(|| image.bad(format!("tensor {name} is of no head of this job")))?;
        let mut values = Tensor::f_zeros(&shape[..], (Kind::Float, Device::Cpu))?;
        let words = image.numbers(name, values.numel())?;
        fill(torch::data_mut(&mut values)?, words);
        Ok(self.heads.block_mut().load(param, &values)?)
    }

    fn load_rows(&mut self, image: &Image<'_>, name: &str) -> Result<(), Error> {
        let ids = image.ids(name)?;
        let rank = self.exchange.comm().rank();
        let (Some(rows), Some(table)) = (&mut self.rows, self.backbone.table_mut()) else {
            let message = format!("tensor {name}: this job trains no word table");
            return Err(image.bad(message).into());
        };
        let count = table.rows();
        let row = |id: &i64| {
            u32::try_from(*id)
                .ok()
                .filter(|row| (*row as usize) < count)
        };
        let known: Vec<u32> = ids.iter().filter_map(row).collect();
        if known.len() != ids.len() {
            let message = format!("tensor {name}: there are rows beyond the table's {count}");
            return Err(image.bad(message).into());
        }
        let words = image.numbers(&format!("{ROWS}|values"), known.len() * rows.width())?;
        rows.put(rank, table, &known, words)
    }

    /// Takes up what owners kept, where it overlaps this rank's slices, and counts the moments of each block; `bad`
    /// makes an error about it.
    ///
    /// # Errors
    /// What is wrong with a tensor, by name.
    pub(super) fn load_own(
        &mut self,
        tensors: &BTreeMap<String, Tensor>,
        bad: &dyn Fn(String) -> checkpoint::Error,
        moments: &mut [usize],
    ) -> Result<(), Error> {
        let tensor = |name: &str, length: usize| {
            let tensor = tensors.get(name);
            let tensor = tensor.ok_or_else(|| bad(format!("tensor {name} is missing")))?;
            match (tensor.kind(), tensor.numel()) {
                (Kind::Float, found) if found == length => Ok(tensor),
                (kind, found) => Err(bad(format!(
                    "tensor {name} has {found} numbers of kind {kind:?}, expected {length} of kind Float"
                ))),
            }
        };
        for key in tensors.keys() {
            let Some((block, range)) = first_moments(key) else {
                continue;
            };
            let first = tensor(key, range.len())?;
            let second = self.optimizer.has_second();
            let second = second.then(|| tensor(&key.replace("|first|", "|second|"), range.len()));
            let second = second.transpose()?;
            let index = self.index_of(block);
            if let Some(index) = index
                && let Some(owner) = self.owners[index].as_mut()
            {
                moments[index] += owner.restore(&range, first, second)?;
            }
        }
        let ids = tensors.get(&format!("{ROWS}|ids"));
        if let (Some(rows), Some(ids)) = (&mut self.rows, ids) {
            let ids = Vec::<i64>::try_from(ids)?;
            // One that is no row is none of this rank's.
            let row = |&id: &i64| u32::try_from(id).unwrap_or(u32::MAX);
            let ids: Vec<u32> = ids.iter().map(row).collect();
            let length = ids.len() * rows.width();
            let numbers = |which: &str| {
                let tensor = tensor(&format!("{ROWS}|{which}"), length)?;
                Ok::<_, Error>(Vec::<f32>::try_from(tensor)?)
            };
            let start = rows.optimizer.start().is_some();
            let start = start.then(|| numbers("start")).transpose()?;
            let first = numbers("first")?;
            let second = rows.optimizer.moments().1.is_some();
            let second = second.then(|| numbers("second")).transpose()?;
            let (second, start) = (second.as_deref(), start.as_deref());
            rows.optimizer.restore(&ids, &first, second, start);
        }
        self.restore_tracks(tensors, bad)
    }

    /// Sees to it that parts were whole.
    ///
    /// # Errors
    /// [`checkpoint::Error::Image`] names the block that lacks something.
    pub(super) fn check_found(&self, found: &Found) -> Result<(), Error> {
        for (index, owner) in self.owners.iter().enumerate() {
            let Some(owner) = owner else { continue };
            let block = self.block(index);
            let lacks = |message: String| checkpoint::Error::Image {
                what: format!("parts of a run: {}", block.name()),
                message,
            };
            let mut slices = found.slices[index].clone();
            slices.sort_unstable_by_key(|slice| (slice.start, slice.end));
            let follows =
                |end: usize, slice: &Range<usize>| (slice.start == end).then_some(slice.end);
            let end = slices.iter().try_fold(0, follows);
            if end != Some(block.len()) {
                let all = block.len();
                let message = format!("expected slices that make {all} numbers, found {slices:?}");
                return Err(lacks(message).into());
            }
            let (expected, moments) = (owner.range().len(), found.moments[index]);
            if moments != expected {
                let rank = self.exchange.comm().rank();
                let message = format!("rank {rank} needs {expected} moments, found {moments}");
                return Err(lacks(message).into());
            }
        }
        Ok(())
    }
}

/// Block and range of a tensor of first moments.
fn first_moments(key: &str) -> Option<(&str, Range<usize>)> {
    let mut parts = key.split('|');
    let block = parts.next()?;
    if parts.next()? != "first" {
        return None;
    }
    let range: Range<usize> = parts.next()?.parse().ok()?..parts.next()?.parse().ok()?;
    Some((block, range))
}
