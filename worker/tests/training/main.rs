//! Whole training runs of one process, ranks as threads: one program, so that it is linked once.
#![allow(clippy::unwrap_used)]

mod kit;

mod adaptation;
mod adaptation_steps;
mod adaptive;
mod cache;
mod ctc;
mod entailment;
mod exchange;
mod label_embedding;
mod language;
mod missing_labels;
mod not_finite;
mod parts;
mod ranking;
mod rates;
mod recovery;
mod script;
mod segmentation;
mod shared_inputs;
mod span;
mod tags;
mod task_adapters;
mod tuning;
mod vocabulary;
mod zero_shot;
