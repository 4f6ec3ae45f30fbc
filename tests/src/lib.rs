//! Whole-cluster tests of Espalier with real processes.
