//! A mutator with a fixed seed, for runs of the targets as tests: the same inputs in every run.

use std::time::{Duration, Instant};

/// Longest that a test takes; fewer inputs are tried on a slow machine.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Longest input that is made.
const LONGEST: usize = 1 << 14;

/// Feeds `target` with the seeds themselves, then with `rounds` inputs that are made of them and of `tokens`. An
/// input under which it panics is printed.
pub fn run(seeds: &[Vec<u8>], tokens: &[&[u8]], rounds: usize, target: impl Fn(&[u8])) {
    let begun = Instant::now();
    let mut dice = Dice(0x5EED_0F0F_2211);
    for seed in seeds {
        shown(seed, &target);
    }
    for _ in 0..rounds {
        if begun.elapsed() > PATIENCE {
            return;
        }
        let mut input = seeds[dice.roll(seeds.len())].clone();
        for _ in 0..=dice.roll(6) {
            mutate(&mut input, seeds, tokens, &mut dice);
        }
        input.truncate(LONGEST);
        shown(&input, &target);
    }
}

fn shown(input: &[u8], target: &impl Fn(&[u8])) {
    let shown = Shown(input);
    target(input);
    drop(shown);
}

/// Prints the input if it is dropped by a panic.
struct Shown<'a>(&'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("input: b\"{}\"", self.0.escape_ascii());
        }
    }
}

/// xorshift64*: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        (high % sides.max(1) as u64) as usize
    }
}

fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], tokens: &[&[u8]], dice: &mut Dice) {
    const ODD: [u8; 8] = [0, 1, 0x7F, 0x80, 0xFF, b'\n', b' ', b'"'];
    let at = dice.roll(input.len() + 1);
    let until = (at + 1 + dice.roll(16)).min(input.len());
    match dice.roll(9) {
        0 if at < input.len() => input[at] ^= 1 << dice.roll(8),
        1 if at < input.len() => input[at] = ODD[dice.roll(ODD.len())],
        2 if at < until => drop(input.drain(at..until)),
        3 if at < until => {
            let again = input[at..until].to_vec();
            input.splice(at..at, again);
        }
        4 => input.truncate(at),
        5 => {
            let other = &seeds[dice.roll(seeds.len())];
            let from = dice.roll(other.len() + 1);
            let part = other[from..(from + dice.roll(64)).min(other.len())].to_vec();
            input.splice(at..until.max(at), part);
        }
        6 if !tokens.is_empty() => {
            let token = tokens[dice.roll(tokens.len())].to_vec();
            input.splice(at..at, token);
        }
        7 => {
            // Lengths and numbers that no buffer is made for.
            let number = [u64::MAX, 1 << 63, u64::from(u32::MAX), 0][dice.roll(4)];
            let bytes = number.to_le_bytes();
            let end = (at + 8).min(input.len());
            input.splice(at..end.max(at), bytes);
        }
        _ => input.insert(at, dice.roll(256) as u8),
    }
}
