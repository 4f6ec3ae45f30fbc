//! Every planted mistake is found: `cargo test -p espalier-sim --features planted`.
#![allow(clippy::unwrap_used)]

use espalier_sim::{Bug, Setup, run};

/// Seeds within which each must be found.
const SEEDS: u64 = 100;

// Promise: the judge is not blind. Each mistake that a process can be told to make is found within
// a bounded number of seeds.
#[test]
fn every_planted_mistake_is_found() {
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        let found = (1..=SEEDS).find_map(|seed| {
            let outcome = run(&Setup {
                seed,
                events: 20_000,
                bug: Some(bug),
            });
            outcome.broken.map(|broken| (seed, outcome.events, broken))
        });
        match found {
            Some((seed, event, broken)) => {
                println!(
                    "{bug:?}: seed {seed}, event {event}: {}: {}",
                    broken.name, broken.message
                );
            }
            None => missed.push(bug),
        }
    }
    assert!(
        missed.is_empty(),
        "not found within {SEEDS} seeds: {missed:?}"
    );
}
