//! A fixed set of seeds: what must hold holds, and a seed is one story.
#![allow(clippy::unwrap_used)]

use espalier_sim::{Setup, last_events, run};
use std::collections::BTreeMap;

const SEEDS: u64 = 100;
const EVENTS: u64 = 20_000;

fn setup(seed: u64, events: u64) -> Setup {
    Setup {
        seed,
        events,
        bug: None,
    }
}

// Promise: whatever fails and whenever, one leader acts, stale generations never count, nothing
// acknowledged is lost, no step is skipped or applied twice, and in good weather every job ends.
#[test]
fn nothing_breaks() {
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut exports, mut recoveries) = (0, 0);
    for seed in 1..=SEEDS {
        let setup = setup(seed, EVENTS);
        let outcome = run(&setup);
        if let Some(broken) = outcome.broken {
            let last = last_events(&setup).join("\n");
            panic!(
                "{last}\nseed {seed}, event {}: {}: {}\nagain: cargo run -p espalier-sim -- \
                 --seed {seed} --events {EVENTS} --trace",
                outcome.events, broken.name, broken.message
            );
        }
        exports += outcome.exports;
        recoveries += outcome.restores + outcome.resumes;
        for (kind, count) in outcome.faults {
            *faults.entry(kind).or_default() += count;
        }
    }
    // A simulation in which nothing happens proves nothing.
    assert!(exports >= SEEDS, "{exports} exports");
    assert!(recoveries >= SEEDS, "{recoveries} recoveries");
    for kind in [
        "takeover",
        "worker killed",
        "worker stopped",
        "coordinator killed",
        "control network cut",
        "data network cut",
        "store down",
        "disk error",
        "clock jump",
    ] {
        assert!(
            faults.get(kind).is_some_and(|n| *n >= 10),
            "{kind}: {faults:?}"
        );
    }
}

// Promise: one seed is one story, whenever it is played.
#[test]
fn a_seed_is_a_story() {
    for seed in 1..=4 {
        assert_eq!(
            run(&setup(seed, 4_000)),
            run(&setup(seed, 4_000)),
            "seed {seed}"
        );
    }
}
