//! Nobody is let in who does not know the generation's secret, and nobody on the way can read or change
//! what ranks say.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Via, bits, listener, peers, rendezvous, secret, values, world};
use espalier_comm::{
    AbortHandle, CommunicatorExt, CpuCommunicator, Error, Flight, Listener, Result, Secret, connect,
};

/// Bytes that a caller says before its first record: introduction and proof.
const SAID: usize = INTRODUCTION + 32;
/// Bytes of the introduction for the job `test`; the last 32 are random.
const INTRODUCTION: usize = 74;
/// More than a few records.
const FLOATS: usize = 100_000;

/// What somebody between two ranks does to bytes that the caller sends, on the connection of this number,
/// from this offset on; says how many of them go on.
type Meddle = fn(usize, usize, &mut [u8]) -> usize;

/// Somebody between two ranks.
struct Between {
    address: SocketAddr,
    /// What callers have said, by connection.
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Between {
    fn new(target: SocketAddr, meddle: Meddle) -> Between {
        let door = TcpListener::bind(("127.0.0.1", 0)).expect("bind");
        let address = door.local_addr().expect("address");
        let heard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let keeps = Arc::clone(&heard);
        // Ends with the process, as those that it starts end with their connections.
        std::thread::spawn(move || {
            for (number, caller) in door.incoming().enumerate() {
                let (Ok(caller), Ok(called)) = (caller, TcpStream::connect(target)) else {
                    return;
                };
                keeps.lock().expect("heard").push(Vec::new());
                let mut back = (
                    called.try_clone().expect("clone"),
                    caller.try_clone().expect("clone"),
                );
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut back.0, &mut back.1);
                    let _ = back.1.shutdown(Shutdown::Write);
                });
                let keeps = Arc::clone(&keeps);
                std::thread::spawn(move || forward(number, caller, called, meddle, &keeps));
            }
        });
        Between { address, heard }
    }

    fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().expect("heard").clone()
    }
}

fn forward(
    number: usize,
    mut caller: TcpStream,
    mut called: TcpStream,
    meddle: Meddle,
    keeps: &Mutex<Vec<Vec<u8>>>,
) {
    let mut chunk = [0; 4096];
    let (mut offset, mut open) = (0, true);
    while let Ok(n) = caller.read(&mut chunk) {
        if n == 0 {
            break;
        }
        keeps.lock().expect("heard")[number].extend_from_slice(&chunk[..n]);
        let on = meddle(number, offset, &mut chunk[..n]);
        offset += n;
        // Once it has cut the connection it only listens.
        if open {
            let sent = called.write_all(&chunk[..on]);
            open = on == n && sent.is_ok();
            if !open {
                let _ = called.shutdown(Shutdown::Write);
            }
        }
    }
    let _ = called.shutdown(Shutdown::Write);
}

/// Two ranks over TCP of which the second one reaches the first one through somebody. Both ends of the
/// rendezvous, and what each has counted.
fn joined(
    secrets: [Option<Secret>; 2],
    meddle: Meddle,
) -> ([Result<CpuCommunicator>; 2], [Flight; 2], Between) {
    let listeners = [listener(), listener()];
    let between = Between::new(listeners[0].address(), meddle);
    let flights = [Flight::new(), Flight::new()];
    let [first, second] = secrets;
    let direct = peers(&listeners);
    let mut deceived = direct.clone();
    deceived[0].addr = between.address;
    let mut waits = rendezvous(1, 0, direct);
    let mut calls = rendezvous(1, 1, deceived);
    (waits.secret, calls.secret) = (first, second);
    (waits.flight, calls.flight) = (Some(flights[0].clone()), Some(flights[1].clone()));
    (waits.shared_memory, calls.shared_memory) = (false, false);
    let abort = AbortHandle::new().expect("handle");
    waits.abort = Some(abort.clone());
    let results = std::thread::scope(|scope| {
        let waits = scope.spawn(|| connect(&listeners[0], waits));
        let called = connect(&listeners[1], calls);
        if called.is_err() {
            abort.abort("rank 1 did not get in");
        }
        [waits.join().expect("thread"), called]
    });
    (results, flights, between)
}

fn untouched(_: usize, _: usize, chunk: &mut [u8]) -> usize {
    chunk.len()
}

/// Changes the byte at `at` of a stream, if it is among these.
fn flip(at: usize, offset: usize, chunk: &mut [u8]) -> usize {
    if let Some(byte) = at.checked_sub(offset).and_then(|at| chunk.get_mut(at)) {
        *byte ^= 1;
    }
    chunk.len()
}

/// Sums on both ranks; what rank 0 gets comes first.
fn sums(joined: [Result<CpuCommunicator>; 2]) -> [Result<Vec<f32>>; 2] {
    let [first, second] = joined.map(|comm| comm.expect("joined"));
    std::thread::scope(|scope| {
        // Where one failed, the other one shall hear that it has left; else it stays, or what is still on
        // its way would be lost with it.
        let sum = |comm: CpuCommunicator, mut mine: Vec<f32>| {
            let summed = comm.all_reduce(&mut mine).map(|()| mine);
            let kept = summed.is_ok().then_some(comm);
            (summed, kept)
        };
        let other = scope.spawn(move || sum(second, values(2, FLOATS)));
        let (ours, _kept) = sum(first, values(1, FLOATS));
        let (other, _stays) = other.join().expect("thread");
        [ours, other]
    })
}

/// Whether the bytes of one of the summed values can be seen among these.
fn shows(heard: &[Vec<u8>]) -> bool {
    let value = values(2, FLOATS)[10].to_ne_bytes();
    let next = values(2, FLOATS)[11].to_ne_bytes();
    let both = [value, next].concat();
    heard
        .iter()
        .any(|said| said.windows(8).any(|window| window == both))
}

#[test]
fn what_travels_is_hidden_and_sums_stay_the_same() {
    // Promise: with a secret nobody on the way sees what ranks exchange, and sums have the bits that they
    // have without; that values are seen where there is no secret shows that they would be.
    let (plain, _, between) = joined([None, None], untouched);
    let plain = sums(plain).map(|sum| bits(&sum.expect("sum")));
    assert!(shows(&between.heard()));
    let (sealed, flights, between) = joined([Some(secret(1)), Some(secret(1))], untouched);
    let sealed = sums(sealed).map(|sum| bits(&sum.expect("sum")));
    assert!(sealed == plain);
    assert!(!shows(&between.heard()));
    assert_eq!(flights.map(|flight| flight.rejected()), [0, 0]);
}

#[test]
fn another_secret_is_no_secret() {
    // Promise: a rank that was told another secret does not get in, and is told which peer does not know
    // its own; one with a secret and one without do not speak with each other.
    let (joined, flights, _) = self::joined([Some(secret(1)), Some(secret(2))], untouched);
    let [waited, error] = joined.map(|comm| comm.expect_err("another secret"));
    assert!(matches!(waited, Error::Aborted { .. }), "{waited}");
    let Error::Unauthenticated {
        peer: 0,
        generation: 1,
        ..
    } = error
    else {
        panic!("unexpected: {error}")
    };
    assert!(error.retryable(), "{error}");
    assert_eq!(flights[1].rejected(), 1);

    let (joined, ..) = self::joined([Some(secret(1)), None], untouched);
    let [_, error] = joined.map(|comm| comm.expect_err("no secret"));
    assert!(matches!(error, Error::Refused { peer: 0, .. }), "{error}");
    assert!(error.to_string().contains("speaks plain text"), "{error}");

    // Who refuses proves nothing: a rank with a secret is not sent away for good.
    let listeners = [listener(), listener()];
    let all = peers(&listeners);
    let abort = AbortHandle::new().expect("handle");
    let mut plain = rendezvous(1, 0, all.clone());
    plain.abort = Some(abort.clone());
    let mut sealed = rendezvous(1, 1, all);
    sealed.secret = Some(secret(1));
    sealed.connect_timeout = Duration::from_secs(1);
    std::thread::scope(|scope| {
        let plain = scope.spawn(|| connect(&listeners[0], plain).map(drop));
        let error = connect(&listeners[1], sealed).expect_err("no secret there");
        abort.abort("over");
        assert!(
            matches!(error, Error::Unreachable { peer: 0, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("speaks plain text"), "{error}");
        plain.join().expect("thread").expect_err("aborted");
    });
}

#[test]
fn what_was_changed_on_the_way_is_noticed() {
    // Promise: one changed byte of a record fails the operation, names the peer, says what happened, and is
    // counted once; one changed byte of an introduction, and nobody joins.
    let secrets = || [Some(secret(1)), Some(secret(1))];
    let meddle: [Meddle; 3] = [
        // A length, the inside, and the tag of a record.
        |number, offset, chunk| match number {
            1 => flip(SAID + 1, offset, chunk),
            _ => chunk.len(),
        },
        |number, offset, chunk| match number {
            1 => flip(SAID + 5_000, offset, chunk),
            _ => chunk.len(),
        },
        |number, offset, chunk| match number {
            1 => flip(SAID + 4 + 65_536 + 3, offset, chunk),
            _ => chunk.len(),
        },
    ];
    for (case, meddle) in meddle.into_iter().enumerate() {
        let (joined, flights, _) = joined(secrets(), meddle);
        let [ours, theirs] = sums(joined);
        let error = ours.expect_err("a byte was changed");
        assert!(
            matches!(error, Error::PeerLost { peer: 1, .. }),
            "{case}: {error}"
        );
        assert!(
            error.to_string().contains("is not what it sent"),
            "{case}: {error}"
        );
        assert!(error.retryable());
        theirs.expect_err("rank 0 has left");
        assert_eq!(flights[0].rejected(), 1, "{case}");
    }
    let (joined, flights, _) = joined(secrets(), |number, offset, chunk| match number {
        0 => flip(INTRODUCTION - 1, offset, chunk),
        _ => chunk.len(),
    });
    let [_, error] = joined.map(|comm| comm.expect_err("a byte was changed"));
    assert!(
        matches!(error, Error::Unauthenticated { peer: 0, .. }),
        "{error}"
    );
    assert_eq!(flights[1].rejected(), 1);
}

#[test]
fn what_was_cut_off_is_no_result() {
    // Promise: a stream that ends early, also where nobody says good-bye, is an error that names the peer.
    let (joined, ..) = joined(
        [Some(secret(1)), Some(secret(1))],
        |number, offset, chunk| match number {
            1 => chunk.len().min((SAID + 30_000).saturating_sub(offset)),
            _ => chunk.len(),
        },
    );
    let [ours, theirs] = sums(joined);
    let error = ours.expect_err("cut");
    assert!(matches!(error, Error::PeerLost { peer: 1, .. }), "{error}");
    assert!(
        error.to_string().contains("cut inside of a record"),
        "{error}"
    );
    theirs.expect_err("rank 0 has left");
}

#[test]
fn a_recorded_connection_opens_nothing() {
    // Promise: what a rank once said to get in gets nobody else in, is counted, and does not keep the right
    // rank out.
    let (joined, _, between) = joined([Some(secret(1)), Some(secret(1))], untouched);
    for sum in sums(joined) {
        sum.expect("sum");
    }
    let recorded = between.heard();
    assert_eq!(recorded.len(), 2, "control and data");
    let listeners = [listener(), listener()];
    let all = peers(&listeners);
    let flight = Flight::new();
    let mut waits = rendezvous(1, 0, all.clone());
    (waits.secret, waits.flight) = (Some(secret(1)), Some(flight.clone()));
    let mut calls = rendezvous(1, 1, all.clone());
    calls.secret = Some(secret(1));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| connect(&listeners[0], waits));
        let mut replayed = Vec::new();
        for said in &recorded {
            let mut stream = TcpStream::connect(all[0].addr).expect("connect");
            // It may be hung up on before all of it is said.
            let _ = stream.write_all(said);
            replayed.push(stream);
        }
        let began = Instant::now();
        while flight.rejected() < 2 && began.elapsed() < Duration::from_secs(20) {
            std::thread::yield_now();
        }
        assert_eq!(flight.rejected(), 2);
        let right = connect(&listeners[1], calls).expect("the right one");
        let left = waits.join().expect("thread").expect("joined");
        std::thread::scope(|scope| {
            scope.spawn(|| left.barrier().expect("barrier"));
            right.barrier().expect("barrier");
        });
        assert_eq!(flight.rejected(), 2);
    });
}

#[test]
fn a_stranger_that_guesses_is_turned_away() {
    // Promise: who only knows job, generation and ranks gets a random answer and no place, and learns
    // nothing by which it could try again; the right ranks still join.
    let listeners: [Listener; 2] = [listener(), listener()];
    let all = peers(&listeners);
    let flight = Flight::new();
    let mut waits = rendezvous(1, 0, all.clone());
    (waits.secret, waits.flight) = (Some(secret(1)), Some(flight.clone()));
    let mut calls = rendezvous(1, 1, all.clone());
    calls.secret = Some(secret(1));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| connect(&listeners[0], waits));
        let mut answers = Vec::new();
        for proof in [[0; 32], [255; 32]] {
            let mut stream = TcpStream::connect(all[0].addr).expect("connect");
            stream.write_all(&introduction()).expect("introduce");
            stream.write_all(&proof).expect("guess");
            let mut answer = Vec::new();
            stream
                .read_to_end(&mut answer)
                .expect("an answer and the end");
            answers.push(answer);
        }
        assert_ne!(
            answers[0], answers[1],
            "the same introduction, another answer"
        );
        assert_eq!(flight.rejected(), 2);
        let right = connect(&listeners[1], calls).expect("the right one");
        let left = waits.join().expect("thread").expect("joined");
        drop((left, right));
    });
}

/// What rank 1 would say first to rank 0.
fn introduction() -> Vec<u8> {
    let mut said = b"ESPALIER".to_vec();
    said.extend(3_u16.to_le_bytes());
    said.push(0);
    said.extend(1_u64.to_le_bytes());
    for number in [1_u32, 0, 2, 0] {
        said.extend(number.to_le_bytes());
    }
    said.extend(4_u16.to_le_bytes());
    said.extend(b"test");
    said.push(1);
    said.extend([9; 32]);
    assert_eq!(said.len(), INTRODUCTION);
    said
}

#[test]
fn messages_of_all_sizes_share_a_connection() {
    // Promise: whatever the order of sizes, and wherever a record ends, operations follow each other over
    // the same sealed connections.
    world(3, Via::Sealed, Duration::from_secs(30), |comm| {
        for len in [1, 0, 70_000, 3, 0, 16_384, 16_374, 1] {
            let mut mine = vec![1f32; len];
            comm.all_reduce(&mut mine).expect("sum");
            assert!(mine.iter().all(|&sum| sum == 3.0), "{len}");
            comm.barrier().expect("barrier");
        }
    });
}
