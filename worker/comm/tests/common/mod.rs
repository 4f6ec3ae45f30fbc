//! Worlds of ranks as threads, and data whose sum depends on the order of summation.
#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod suite;

use std::time::Duration;

use espalier_comm::{
    CpuCommunicator, Listener, PeerAddr, Rendezvous, Result, Secret, connect, host_id,
};

/// How the ranks of a test are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    Shm,
    Tcp,
    /// Shared memory between even ranks, TCP to and between odd ones.
    Mixed,
    /// As `Mixed`, with a secret: what goes over sockets is sealed.
    Sealed,
}

pub(crate) const ALL: [Via; 4] = [Via::Shm, Via::Tcp, Via::Mixed, Via::Sealed];

/// Runs `body` on `size` threads, one per rank, and gives the results in rank order.
pub(crate) fn world<R: Send>(
    size: usize,
    via: Via,
    timeout: Duration,
    body: impl Fn(CpuCommunicator) -> R + Sync,
) -> Vec<R> {
    let listeners: Vec<Listener> = (0..size).map(|_| listener()).collect();
    let peers = peers(&listeners);
    let body = &body;
    std::thread::scope(|scope| {
        let ranks: Vec<_> = listeners
            .iter()
            .enumerate()
            .map(|(rank, listener)| {
                let peers = peers.clone();
                scope.spawn(move || {
                    let mut rendezvous = rendezvous(1, rank, peers);
                    rendezvous.timeout = timeout;
                    rendezvous.shared_memory = match via {
                        Via::Shm => true,
                        Via::Tcp => false,
                        Via::Mixed | Via::Sealed => rank % 2 == 0,
                    };
                    rendezvous.secret = (via == Via::Sealed).then(|| secret(1));
                    body(connect(listener, rendezvous).expect("join"))
                })
            })
            .collect();
        ranks.into_iter().map(|r| r.join().expect("rank")).collect()
    })
}

pub(crate) fn listener() -> Listener {
    Listener::bind(([127, 0, 0, 1], 0).into()).expect("bind")
}

pub(crate) fn peers(listeners: &[Listener]) -> Vec<PeerAddr> {
    let peer = |(rank, l): (usize, &Listener)| PeerAddr {
        rank,
        addr: l.address(),
        host_id: host_id(),
    };
    listeners.iter().enumerate().map(peer).collect()
}

pub(crate) fn rendezvous(generation: u64, rank: usize, peers: Vec<PeerAddr>) -> Rendezvous {
    let mut rendezvous = Rendezvous::new("test", generation, rank, peers);
    rendezvous.connect_timeout = Duration::from_secs(20);
    rendezvous
}

/// One of several secrets.
pub(crate) fn secret(number: u8) -> Secret {
    Secret::new([number; 32])
}

/// Joins a list of results, for tests where nothing may fail.
pub(crate) fn all<T>(results: Vec<Result<T>>) -> Vec<T> {
    results
        .into_iter()
        .collect::<Result<_>>()
        .expect("every rank succeeds")
}

/// Values of wildly different size, so that another order of summation gives other bits.
pub(crate) fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..len)
        .map(|_| {
            let (mantissa, exponent) = (next(), next() % 24);
            ((mantissa >> 40) as f32 / 8_388_608.0 - 1.0) * (1u64 << exponent) as f32
        })
        .collect()
}

/// `((g0 + g1) + g2) + ...`, the order that the crate promises.
pub(crate) fn rank_order_sum(parts: &[Vec<f32>]) -> Vec<f32> {
    let mut sum = parts[0].clone();
    for part in &parts[1..] {
        for (a, b) in sum.iter_mut().zip(part) {
            *a += b;
        }
    }
    sum
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
