//! Espalier's vocabulary: ids, job spec, plan; defaults and validation without IO.
