//! The numbers of TorchJD 0.18 and LibMTL 1.1; `tests/golden/balance.py` made them. Then those of
//! papers and hand calculations.

pub(crate) mod kit;
mod libraries;
mod vectors;
