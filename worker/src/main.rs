//! Espalier's worker: data, model, heads, engine, checkpoints and the agent.

fn main() {}
