//! Espalier's coordinator: store, gRPC API and the driver of the state machine.

fn main() {}
