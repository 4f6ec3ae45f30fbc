//! What some balancers keep for every task beside its gradient, sharded with the slices of its
//! owner: moving averages, accumulators; and updates made number by number.

use super::Error;
use super::agree::{Agreed, update_square};
use super::balancing::{Decision, agree, present};
use super::exact::ExactSum;
use super::kernel::{self, Lane, Row, pair, pairs};
use super::rows::RowGradient;
use super::trainer::Trainer;
use crate::checkpoint::{self, Values};
use crate::data::RankStep;
use crate::torch;
use espalier_balance::{Facts, Gram, SliceAt};
use tch::Tensor;

/// Buffers of this rank's slices. Rows of the table are kept sparse: a row never touched is 0.
#[derive(Debug, Default)]
pub(super) struct Tracks {
    /// For each block and row of the gradient matrix, f32 [slice].
    pub(super) blocks: Vec<Vec<Tensor>>,
    /// For each row of the gradient matrix, or the one update.
    pub(super) table: Vec<RowGradient>,
}

impl Tracks {
    /// The rows that a block's buffers make.
    fn rows(&self, index: usize) -> Result<Vec<Row<'_>>, Error> {
        let buffers = self.blocks.get(index).into_iter().flatten();
        let row = |buffer| {
            Ok(Row {
                lanes: vec![Lane::F32(torch::data(buffer)?)],
            })
        };
        buffers.map(row).collect()
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> u64 {
        let blocks: usize = self.blocks.iter().flatten().map(Tensor::numel).sum();
        let table: usize = self.table.iter().map(|rows| rows.values.len()).sum();
        4 * (blocks + table) as u64
    }
}

impl Trainer {
    /// Room for `count` buffers per block, zeros at first.
    fn track(&mut self, count: usize) -> Result<(), Error> {
        if self.tracks.blocks.is_empty() {
            for (index, block) in self.backbone.blocks().iter().enumerate() {
                let length = match block.trainable() {
                    true => self.exchange.slice(index).len() as i64,
                    false => 0,
                };
                let zeros = |_| Tensor::f_zeros([length], (tch::Kind::Float, tch::Device::Cpu));
                let buffers = (0..count).map(zeros).collect::<Result<_, _>>()?;
                self.tracks.blocks.push(buffers);
            }
            self.tracks.table.resize(count, RowGradient::default());
        }
        Ok(())
    }

    /// The rows to combine: the gradients, or the buffers that follow them.
    pub(super) fn rows_to_combine<'a>(&'a self, index: usize) -> Result<Vec<Row<'a>>, Error> {
        if self.balancing.buffers().is_some() {
            return self.tracks.rows(index);
        }
        let block = self.backbone.blocks().get(index);
        let block = block.ok_or_else(|| Error::Plan(format!("no block {index}")))?;
        self.exchange.rows(index, block)
    }

    /// Weights by the Gram matrix of buffers, which take in this step's gradients first.
    pub(super) fn decide_by_buffers(
        &mut self,
        batch: &RankStep,
        agreed: &Agreed,
        sums: &[f64],
    ) -> Result<Decision, Error> {
        let rows = self.balancing.rows().to_vec();
        self.track(rows.len())?;
        let gram = self.balancing.gram(agreed, &batch.counts)?;
        let mixes = self.balancing.mixes(batch, sums, &gram)?;
        let mix_of = |task: usize| mixes.iter().find(|(own, _)| *own == task).map(|(_, m)| *m);
        let mut sums_of = vec![ExactSum::default(); pairs(rows.len())];
        let (exchange, tracks, from) = (&self.exchange, &mut self.tracks, self.from);
        for (index, block) in self.backbone.blocks().iter().enumerate() {
            if !block.trainable() || index < from {
                continue;
            }
            let slice = exchange.slice(index);
            for (place, row) in exchange.rows(index, block)?.iter().enumerate() {
                let Some(mix) = mix_of(rows[place].task) else {
                    continue;
                };
                let buffer = torch::data_mut(&mut tracks.blocks[index][place])?;
                let (keep, add) = (mix.keep as f32, mix.add as f32);
                let row = std::slice::from_ref(row);
                kernel::for_chunks(row, slice.start, slice.len(), |at, parts| {
                    let own = buffer[at..at + parts[0].len()].iter_mut();
                    own.zip(parts[0])
                        .for_each(|(y, g)| *y = keep * *y + add * g);
                });
            }
            let buffers = tracks.rows(index)?;
            kernel::gram(
                &self.threads,
                &buffers,
                slice.start,
                slice.len(),
                &mut sums_of,
            );
        }
        if let Some(table) = &self.rows {
            for (place, gradient) in table.gradients().iter().enumerate() {
                if let Some(mix) = mix_of(rows[place].task) {
                    let kept = std::mem::take(&mut tracks.table[place]).times(mix.keep as f32);
                    let more = gradient.clone().times(mix.add as f32);
                    tracks.table[place] = kept.plus(&more, table.width());
                }
            }
            let rank = self.exchange.comm().rank();
            table.gram(&self.tracks.table, rank, &mut sums_of);
        }
        let products = agree(&sums_of, &mut self.exchange)?;
        let product = |i: usize, j: usize| products[pair(i, j, rows.len())];
        let tasks: Vec<usize> = mixes.iter().map(|(task, _)| *task).collect();
        let place = |task: usize| rows.iter().position(|row| row.task == task).unwrap_or(0);
        let pairs_of = |a: &usize| tasks.iter().map(move |b| (*a, *b)).collect::<Vec<_>>();
        let all = tasks.iter().flat_map(pairs_of);
        let values = all.map(|(a, b)| product(place(a), place(b))).collect();
        let gram = Gram::new(values)?;
        let seen = Facts {
            gram: Some(&gram),
            ..Facts::default()
        };
        let answer = self.balancing.ask_about(batch, tasks, sums, seen)?;
        let mut decision = self.balancing.spread(batch, &answer);
        // Those that were not mixed in are left out of the whole step, their heads too.
        let out = present(&batch.counts).into_iter();
        let out: Vec<usize> = out.filter(|task| mix_of(*task).is_none()).collect();
        self.balancing.leave_out(&out, &mut decision);
        decision.backbone_square = Some(update_square(&decision.row_weights, product));
        Ok(decision)
    }

    /// Feeds the accumulators and gives what they answer, per task, over this rank's slices. A
    /// gradient that is not finite is kept out: its task may be skipped in this step, not for good.
    pub(super) fn excess(&mut self, agreed: &Agreed) -> Result<Vec<ExactSum>, Error> {
        let rows = self.balancing.rows().to_vec();
        let is_finite = |place: usize| agreed.product(place, place).is_finite();
        self.track(rows.len())?;
        let mut answers = vec![ExactSum::default(); self.tasks.len()];
        let (exchange, tracks, from) = (&self.exchange, &mut self.tracks, self.from);
        for (index, block) in self.backbone.blocks().iter().enumerate() {
            if !block.trainable() || index < from {
                continue;
            }
            let slice = exchange.slice(index);
            for (place, row) in exchange.rows(index, block)?.iter().enumerate() {
                if !is_finite(place) {
                    continue;
                }
                let buffer = torch::data_mut(&mut tracks.blocks[index][place])?;
                let answer = &mut answers[rows[place].task];
                let row = std::slice::from_ref(row);
                kernel::for_chunks(row, slice.start, slice.len(), |at, parts| {
                    let own = &mut buffer[at..at + parts[0].len()];
                    answer.add(espalier_balance::accumulate(own, parts[0]));
                });
            }
        }
        if let Some(table) = &self.rows {
            let rank = self.exchange.comm().rank();
            let width = table.width();
            for (place, gradient) in table.gradients().iter().enumerate() {
                if !is_finite(place) {
                    continue;
                }
                let empty = RowGradient {
                    rows: gradient.rows.clone(),
                    values: vec![0.0; gradient.values.len()],
                };
                let mut kept = std::mem::take(&mut tracks.table[place]).plus(&empty, width);
                let answer = &mut answers[rows[place].task];
                for (row, values) in gradient.each(width) {
                    if let Some(own) = kept.row_mut(row, width) {
                        let part = espalier_balance::accumulate(own, values);
                        if table.owns(rank, row) {
                            answer.add(part);
                        }
                    }
                }
                tracks.table[place] = kept;
            }
        }
        Ok(answers)
    }

    /// Makes the update number by number; the square of its norm over this rank's slices.
    pub(super) fn combine_elementwise(
        &mut self,
        step: u64,
        decision: &Decision,
    ) -> Result<ExactSum, Error> {
        self.track(1)?;
        let mut square = ExactSum::default();
        let Some(rule) = self.balancing.elementwise() else {
            return Ok(square);
        };
        let used = decision.row_weights.iter().enumerate();
        let used: Vec<usize> = used.filter(|(_, w)| **w != 0.0).map(|(p, _)| p).collect();
        let at = |block: u64, offset: u64| SliceAt {
            seed: self.spec.seed,
            step,
            block,
            offset,
        };
        let (exchange, tracks, from) = (&self.exchange, &mut self.tracks, self.from);
        for (index, block) in self.backbone.blocks().iter().enumerate() {
            if !block.trainable() || index < from {
                continue;
            }
            let slice = exchange.slice(index);
            let rows = exchange.rows(index, block)?;
            let rows: Vec<Row<'_>> = used.iter().map(|place| rows[*place].clone()).collect();
            let out = torch::data_mut(&mut tracks.blocks[index][0])?;
            kernel::for_chunks(&rows, slice.start, slice.len(), |offset, parts| {
                let own = &mut out[offset..offset + parts.first().map_or(0, |p| p.len())];
                if !parts.is_empty() {
                    let place = at(1 + index as u64, (slice.start + offset) as u64);
                    rule.combine(&place, parts, own);
                }
            });
            square.merge(&kernel::squares(&self.threads, out, slice.start));
        }
        if let Some(table) = &self.rows {
            let width = table.width();
            let zeros = vec![0f32; width];
            let union = table
                .gradients()
                .iter()
                .fold(RowGradient::default(), |sum, more| sum.plus(more, width));
            let mut update = RowGradient::default();
            for &row in &union.rows {
                let gradients = used.iter().map(|place| {
                    let gradient = &table.gradients()[*place];
                    gradient.row(row, width).unwrap_or(&zeros)
                });
                let gradients: Vec<&[f32]> = gradients.collect();
                let mut out = vec![0f32; width];
                if !gradients.is_empty() {
                    let place = at(0, u64::from(row) * width as u64);
                    rule.combine(&place, &gradients, &mut out);
                }
                update.rows.push(row);
                update.values.extend(out);
            }
            let rank = self.exchange.comm().rank();
            for (row, values) in update.each(width) {
                if table.owns(rank, row) {
                    square.add(f64::from(kernel::dot(values, values)));
                }
            }
            tracks.table = vec![update];
        }
        Ok(square)
    }
}

impl super::balancing::Balancing {
    /// How the buffers of the step's tasks are mixed; without those that are to be skipped.
    fn mixes(
        &self,
        batch: &RankStep,
        sums: &[f64],
        gram: &Gram,
    ) -> Result<Vec<(usize, espalier_balance::Mix)>, Error> {
        let Some(buffers) = self.buffers() else {
            return Ok(Vec::new());
        };
        let tasks = present(&batch.counts);
        let mean = |task: &usize| sums[*task] / f64::from(batch.counts[*task]);
        let losses: Vec<f64> = tasks.iter().map(mean).collect();
        let facts = Facts {
            gram: Some(gram),
            ..self.facts(batch, &tasks, &losses)
        };
        let mixes = buffers.mix(&facts).map_err(|error| self.named(error))?;
        let pairs = tasks.into_iter().zip(mixes);
        Ok(pairs.filter_map(|(task, mix)| Some((task, mix?))).collect())
    }
}

/// Names of a checkpoint's tensors: `track|<block>|<row>|<start>|<end>`, `track rows|<row>|...`.
const TRACK: &str = "track";
const TRACK_ROWS: &str = "track rows";

impl Trainer {
    /// The buffers of this rank's slices, for checkpoints; none for updates, which no later step
    /// needs.
    pub(super) fn tracks_state(&self) -> Vec<(String, Values<'_>)> {
        let mut tensors = Vec::new();
        if self.balancing.elementwise().is_some() {
            return tensors;
        }
        for (index, buffers) in self.tracks.blocks.iter().enumerate() {
            let slice = self.exchange.slice(index);
            for (row, buffer) in buffers.iter().enumerate() {
                let key = format!("{TRACK}|{index}|{row}|{}|{}", slice.start, slice.end);
                tensors.push((key, Values::Tensor(buffer.shallow_clone())));
            }
        }
        let rank = self.exchange.comm().rank();
        let width = self
            .rows
            .as_ref()
            .map_or(1, super::table::TableOwner::width);
        for (row, table) in self.tracks.table.iter().enumerate() {
            let own = |id: &u32| self.rows.as_ref().is_some_and(|rows| rows.owns(rank, *id));
            let kept = table.each(width).filter(|(id, _)| own(id));
            let (ids, values): (Vec<i64>, Vec<&[f32]>) =
                kept.map(|(id, values)| (i64::from(id), values)).unzip();
            let key = format!("{TRACK_ROWS}|{row}");
            tensors.push((format!("{key}|ids"), Values::Ids(ids)));
            let values = Values::Numbers(values.concat().into());
            tensors.push((format!("{key}|values"), values));
        }
        tensors
    }

    /// Takes up buffers from what one rank kept, where they overlap this rank's slices; `bad` makes an error about
    /// that.
    pub(super) fn restore_tracks(
        &mut self,
        tensors: &std::collections::BTreeMap<String, Tensor>,
        bad: &dyn Fn(String) -> checkpoint::Error,
    ) -> Result<(), Error> {
        let check = |key: &str, tensor: &Tensor, expected: usize| match tensor.numel() {
            found if found == expected => Ok(()),
            found => Err(bad(format!(
                "tensor {key} has {found} numbers, expected {expected}"
            ))),
        };
        let saved = tensors.keys().any(|key| key.starts_with(TRACK));
        if saved && self.balancing.elementwise().is_none() {
            self.track(self.balancing.rows().len())?;
        }
        for (key, tensor) in tensors {
            let parts: Vec<&str> = key.split('|').collect();
            match parts.as_slice() {
                [TRACK, index, row, start, end] => {
                    let numbers = [index, row, start, end].map(|text| text.parse::<usize>());
                    let [Ok(index), Ok(row), Ok(start), Ok(end)] = numbers else {
                        continue;
                    };
                    if index + 1 >= self.blocks() {
                        continue;
                    }
                    check(key, tensor, end.saturating_sub(start))?;
                    let slice = self.exchange.slice(index);
                    let (from, to) = (start.max(slice.start), end.min(slice.end));
                    let place = self.tracks.blocks.get(index).and_then(|rows| rows.get(row));
                    if let (Some(place), true) = (place, from < to) {
                        let length = (to - from) as i64;
                        place
                            .f_narrow(0, (from - slice.start) as i64, length)?
                            .f_copy_(&tensor.f_narrow(0, (from - start) as i64, length)?)?;
                    }
                }
                [TRACK_ROWS, row, "ids"] => {
                    let values = tensors.get(&format!("{TRACK_ROWS}|{row}|values"));
                    let (Ok(row), Some(values)) = (row.parse::<usize>(), values) else {
                        continue;
                    };
                    let ids = Vec::<i64>::try_from(tensor)?;
                    let width = self
                        .rows
                        .as_ref()
                        .map_or(1, super::table::TableOwner::width);
                    let key = format!("{TRACK_ROWS}|{row}|values");
                    check(&key, values, ids.len() * width)?;
                    let saved = RowGradient {
                        rows: ids.iter().map(|&id| id as u32).collect(),
                        values: Vec::<f32>::try_from(values)?,
                    };
                    if let Some(kept) = self.tracks.table.get_mut(row) {
                        *kept = std::mem::take(kept).plus(&saved, width);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
