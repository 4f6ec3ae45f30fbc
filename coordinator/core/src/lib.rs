//! Espalier's coordinator as a pure, deterministic state machine.
