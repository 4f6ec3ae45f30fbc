//! Nothing hangs: every failure ends every wait soon, and says who is to blame.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use common::{ALL, Via, listener, peers, rendezvous, world};
use espalier_comm::fault::{Fault, FaultAt, Faulty};
use espalier_comm::{
    AbortHandle, Communicator, CommunicatorExt, CpuCommunicator, Error, Listener, PeerAddr,
    SharedMemory, connect, host_id,
};

/// Long enough that no test passes because of it.
const FOREVER: Duration = Duration::from_secs(120);
/// What "at once" means on a busy machine.
const SOON: Duration = Duration::from_millis(900);

#[test]
fn abort_ends_the_running_the_queued_and_all_later_operations() {
    // Promise: an abort from another thread ends everything on this rank with the reason, and
    // whatever its peers issue afterwards.
    for via in ALL {
        let over = Barrier::new(3);
        world(3, via, FOREVER, |comm| {
            comm.barrier().expect("all are there");
            if comm.rank() == 2 {
                let abort = comm.abort_handle();
                let blocked = comm.start_all_reduce(vec![1f64; 100_000]);
                let queued = comm.start_all_reduce(vec![1f64; 10]);
                std::thread::scope(|scope| {
                    scope.spawn(move || abort.abort("the coordinator said so"));
                });
                let began = Instant::now();
                for result in [
                    blocked.wait().map(drop),
                    queued.wait().map(drop),
                    comm.barrier(),
                ] {
                    let error = result.expect_err("aborted");
                    assert!(matches!(error, Error::Aborted { .. }), "{error}");
                    assert!(
                        error.to_string().contains("the coordinator said so"),
                        "{error}"
                    );
                    assert!(error.retryable());
                }
                assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
                over.wait();
            } else {
                over.wait();
                let error = comm
                    .all_reduce(&mut [1f64; 100_000])
                    .expect_err("rank 2 left");
                assert!(matches!(error, Error::PeerLost { peer: 2, .. }), "{error}");
                assert!(
                    error.to_string().contains("the coordinator said so"),
                    "{error}"
                );
            }
        });
    }
}

#[test]
fn who_is_lost_is_known_without_an_operation() {
    // Promise: a rank that only computes knows soon that a peer is gone, and who; and so it does
    // when an operation found out.
    for via in ALL {
        for waits in [true, false] {
            world(2, via, FOREVER, |comm| {
                comm.barrier().expect("both are there");
                if comm.rank() == 1 {
                    comm.abort_handle().abort("draining");
                    return;
                }
                if waits {
                    comm.barrier().expect_err("rank 1 left");
                }
                let began = Instant::now();
                while comm.lost().is_none() && began.elapsed() < SOON {
                    std::thread::yield_now();
                }
                let (peer, reason) = comm.lost().expect("noticed");
                assert_eq!(peer, 1);
                assert!(reason.contains("draining"), "{reason}");
            });
        }
    }
}

#[test]
fn peers_of_an_aborted_rank_hear_why() {
    // Promise: who waits for a rank that leaves gets `PeerLost` with its number and last words.
    for via in ALL {
        let together = Barrier::new(2);
        world(2, via, FOREVER, |comm| {
            comm.barrier().expect("both are there");
            if comm.rank() == 0 {
                let handle = comm.start_all_reduce(vec![0f32; 1_000_000]);
                together.wait();
                let began = Instant::now();
                let error = handle.wait().expect_err("rank 1 left");
                assert!(matches!(error, Error::PeerLost { peer: 1, .. }), "{error}");
                assert!(error.to_string().contains("draining"), "{error}");
                assert!(error.to_string().contains("all_reduce #1"), "{error}");
                assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
            } else {
                together.wait();
                comm.abort_handle().abort("draining");
            }
        });
    }
}

#[test]
fn a_silent_peer_runs_into_the_deadline() {
    // Promise: a wait ends after the timeout without progress; the error names peer and operation.
    for via in ALL {
        let limit = Duration::from_millis(150);
        let done = Barrier::new(2);
        world(2, via, limit, |comm| {
            if comm.rank() == 0 {
                comm.barrier().expect_err("alone");
                let began = Instant::now();
                let error = comm.barrier().expect_err("the same failure again");
                assert!(began.elapsed() < SOON);
                let Error::Deadline {
                    peer: 1,
                    op,
                    waited,
                    ..
                } = &error
                else {
                    panic!("unexpected: {error}")
                };
                assert_eq!(op.to_string(), "barrier #0");
                assert!(*waited >= limit && error.retryable(), "{error}");
            }
            done.wait();
        });
    }
}

#[test]
fn different_operations_are_noticed_on_both_sides() {
    // Promise: ranks that disagree about what comes next fail, and both calls are named.
    for via in ALL {
        let errors = world(2, via, FOREVER, |comm| {
            comm.barrier().expect("in step");
            let result = match comm.rank() {
                0 => comm.all_reduce(&mut [0f32; 100]),
                _ => comm.broadcast(&mut [0f64; 64], 1),
            };
            result.expect_err("out of step").to_string()
        });
        for error in errors {
            assert!(
                error.contains("all_reduce #1 over 100 f32"),
                "{via:?}: {error}"
            );
            assert!(
                error.contains("broadcast #1 over 64 f64 from root 1"),
                "{via:?}: {error}"
            );
        }
    }
}

#[test]
fn bad_arguments_touch_nobody() {
    // Promise: a call that makes no sense is an error here, and the next one still works.
    world(2, Via::Shm, FOREVER, |comm| {
        let mut buf = [1f32; 10];
        for (ranges, said) in [
            (vec![0..4, 3..10], "overlap"),
            (vec![0..4, 4..11], "outside the 10 elements"),
            (vec![0..1, 1..2, 2..3], "one per rank"),
        ] {
            let error = comm.reduce_scatter(&mut buf, &ranges).expect_err("invalid");
            assert!(error.to_string().contains(said), "{error}");
            assert!(!error.retryable());
        }
        let error = comm.broadcast(&mut buf, 2).expect_err("no such root");
        assert!(error.to_string().contains("only 2 ranks"), "{error}");
        comm.all_reduce(&mut buf).expect("still in step");
        assert_eq!(buf, [2.0; 10]);
    });
}

#[test]
fn strangers_and_stale_generations_do_not_disturb() {
    // Promise: a rank of an older generation or another job is told why it is refused, but not which job
    // it has called; noise is turned away, and the right ranks still join.
    let listeners = [listener(), listener()];
    let all = peers(&listeners);
    std::thread::scope(|scope| {
        let good = scope.spawn(|| connect(&listeners[0], rendezvous(5, 0, all.clone())));

        let stale = connect(&listener(), rendezvous(4, 1, all.clone())).expect_err("stale");
        assert!(matches!(stale, Error::Refused { peer: 0, .. }), "{stale}");
        assert!(stale.to_string().contains("stale generation"), "{stale}");
        assert!(!stale.retryable());

        let mut other = rendezvous(5, 1, all.clone());
        other.job = "another".into();
        let other = connect(&listener(), other).expect_err("other job");
        assert!(other.to_string().contains("\"another\""), "{other}");
        assert!(!other.to_string().contains("\"test\""), "{other}");

        // Silent, then noisy; the silent one stays open to the end.
        let _silent = TcpStream::connect(all[0].addr).expect("connect");
        let mut noise = TcpStream::connect(all[0].addr).expect("connect");
        noise
            .write_all(b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n")
            .expect("write");

        // A rank of a newer generation is put off, not refused: it gives up by its own time.
        let mut early = rendezvous(6, 1, all.clone());
        early.connect_timeout = Duration::from_secs(1);
        let early = connect(&listener(), early).expect_err("too early");
        assert!(
            matches!(early, Error::Unreachable { peer: 0, .. }),
            "{early}"
        );
        assert!(
            early.to_string().contains("still at generation 5"),
            "{early}"
        );

        let right = connect(&listeners[1], rendezvous(5, 1, all.clone())).expect("join");
        let left = good.join().expect("thread").expect("join");
        std::thread::scope(|scope| {
            scope.spawn(|| left.barrier().expect("barrier"));
            right.barrier().expect("barrier");
        });
    });
}

#[test]
fn a_rendezvous_can_be_given_up() {
    // Promise: waiting for peers ends by abort and by deadline, and the missing rank is named.
    let listeners = [listener(), listener()];
    let abort = AbortHandle::new().expect("handle");
    let mut waiting = rendezvous(1, 0, peers(&listeners));
    waiting.abort = Some(abort.clone());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| connect(&listeners[0], waiting).expect_err("aborted"));
        abort.abort("next generation");
        let error = waiting.join().expect("thread");
        assert!(matches!(error, Error::Aborted { .. }), "{error}");
    });
    let mut alone = rendezvous(2, 0, peers(&listeners));
    alone.connect_timeout = Duration::from_millis(100);
    let error = connect(&listeners[0], alone).expect_err("alone");
    assert!(
        matches!(error, Error::Unreachable { peer: 1, .. }),
        "{error}"
    );
    assert!(error.retryable());
}

#[test]
fn injected_faults_show_as_real_ones_do() {
    // Promise: the decorator fails one rank at one operation; peers see what a real loss looks like.
    for via in ALL {
        for fault in [Fault::Fail, Fault::DropLinks, Fault::Hang] {
            let plan = [FaultAt {
                rank: 1,
                seq: 2,
                fault,
            }];
            let limit = if fault == Fault::Hang {
                Duration::from_millis(200)
            } else {
                FOREVER
            };
            let together = Barrier::new(2);
            world(2, via, limit, |comm| {
                let comm = Faulty::new(comm, &plan);
                comm.barrier().expect("0");
                comm.barrier().expect("1");
                if comm.rank() == 0 {
                    let error = comm.all_reduce(&mut [0f32; 5000]).expect_err("2");
                    assert_eq!(error.peer(), Some(1), "{error}");
                    assert_eq!(
                        matches!(error, Error::Deadline { .. }),
                        fault == Fault::Hang
                    );
                    together.wait();
                } else {
                    let handle = comm.start_all_reduce(vec![0f32; 5000]);
                    if fault == Fault::Hang {
                        together.wait();
                        comm.abort_handle().abort("end of test");
                    }
                    assert!(handle.wait().expect_err("2").retryable());
                    if fault != Fault::Hang {
                        together.wait();
                    }
                }
            });
        }
        let plan = [FaultAt {
            rank: 0,
            seq: 0,
            fault: Fault::Delay(Duration::from_millis(30)),
        }];
        world(2, via, FOREVER, |comm| {
            Faulty::new(comm, &plan)
                .all_reduce(&mut [0f32; 5000])
                .expect("only late");
        });
    }
}

#[test]
fn a_killed_process_is_noticed_at_once() {
    // Promise: kill -9 of a peer process ends this rank's wait, asleep on a ring or on a socket,
    // well under a second, and the error names the peer.
    for via in ["shm", "tcp"] {
        let (mut child, comm) = with_child(via);
        comm.barrier().expect("the child is there");
        let handle = comm.start_all_reduce(vec![1f32; 1_000_000]);
        child.kill().expect("kill -9");
        let began = Instant::now();
        let error = handle.wait().expect_err("the child is dead");
        let took = began.elapsed();
        assert!(
            matches!(error, Error::PeerLost { peer: 1, .. }),
            "{via}: {error}"
        );
        assert!(took < SOON, "{via}: noticed after {took:?}");
        child.wait().expect("reaped");
    }
}

#[test]
fn a_process_killed_while_memory_is_lent_is_noticed_at_once() {
    // Promise: kill -9 of a process in the middle of operations on memory that both lend each other
    // ends this rank's operation soon with an error that names it, never with a crash; the memory
    // can be used again.
    for _ in 0..10 {
        let (mut child, comm) = with_child("lent");
        comm.barrier().expect("the child is there");
        let mut memory = SharedMemory::new(4 * LENT).expect("memory");
        for _ in 0..3 {
            comm.all_reduce(memory.as_mut_slice::<f32>())
                .expect("it still lives");
        }
        assert!(comm.traffic().total().lent > 0, "peers read it in place");
        let began = std::thread::scope(|scope| {
            let killed = scope.spawn(|| {
                child.kill().expect("kill -9");
                Instant::now()
            });
            let error = loop {
                if let Err(error) = comm.all_reduce(memory.as_mut_slice::<f32>()) {
                    break error;
                }
            };
            assert!(matches!(error, Error::PeerLost { peer: 1, .. }), "{error}");
            killed.join().expect("thread")
        });
        assert!(
            began.elapsed() < SOON,
            "noticed after {:?}",
            began.elapsed()
        );
        memory.as_mut_slice::<f32>().fill(1.0);
        assert!(memory.as_slice::<f32>().iter().all(|&x| x == 1.0));
        child.wait().expect("reaped");
    }
}

#[test]
fn lent_memory_is_given_back_by_an_abort() {
    // Promise: an abort ends an operation on memory that a peer knows and has not read, all of the
    // memory or a part; the memory can be used again, and the peer's operation fails.
    for skip in [0, 1] {
        let over = Barrier::new(2);
        world(2, Via::Shm, FOREVER, |comm| {
            let mut memory = SharedMemory::new(4 * LENT).expect("memory");
            let values = memory.as_mut_slice::<f32>();
            for _ in 0..3 {
                comm.all_reduce(values).expect("both are there");
            }
            assert!(comm.traffic().total().lent > 0, "peers read it in place");
            if comm.rank() == 1 {
                let abort = comm.abort_handle();
                std::thread::scope(|scope| {
                    scope.spawn(|| abort.abort("draining"));
                    let error = comm.all_reduce(&mut values[skip..]).expect_err("aborted");
                    assert!(matches!(error, Error::Aborted { .. }), "{error}");
                });
                values.fill(7.0);
                over.wait();
                assert!(values.iter().all(|&x| x == 7.0));
            } else {
                over.wait();
                let error = comm
                    .all_reduce(&mut values[skip..])
                    .expect_err("rank 1 left");
                assert!(matches!(error, Error::PeerLost { peer: 1, .. }), "{error}");
                assert!(error.to_string().contains("draining"), "{error}");
            }
        });
    }
}

/// Floats that both sides lend each other.
const LENT: usize = 2_000_000;

/// Starts `child_rank` as rank 1 and joins it as rank 0.
fn with_child(via: &str) -> (Child, CpuCommunicator) {
    let own = listener();
    let mut child = Command::new(std::env::current_exe().expect("test binary"))
        .args(["--exact", "child_rank", "--nocapture"])
        .env("COMM_TEST_PEER", own.address().to_string())
        .env("COMM_TEST_VIA", via)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start child");
    let output = BufReader::new(child.stdout.take().expect("stdout"));
    let address = output
        .lines()
        .map_while(|line| line.ok())
        .find_map(|line| line.split_once("address=").map(|(_, a)| a.to_string()))
        .expect("the child prints its address");
    let comm = join(0, own, address.parse().expect("address"), via);
    (child, comm)
}

/// Not a test of its own: the process that the tests above kill.
#[test]
fn child_rank() {
    let Ok(parent) = std::env::var("COMM_TEST_PEER") else {
        return;
    };
    let via = std::env::var("COMM_TEST_VIA").expect("COMM_TEST_VIA");
    let own = listener();
    println!("address={}", own.address());
    let comm = join(1, own, parent.parse().expect("address"), &via);
    comm.barrier().expect("the parent is there");
    if via == "lent" {
        let mut memory = SharedMemory::new(4 * LENT).expect("memory");
        while comm.all_reduce(memory.as_mut_slice::<f32>()).is_ok() {}
        return;
    }
    // Until killed; ends by itself when the parent dies, since stdin closes then.
    let _ = std::io::stdin().read_line(&mut String::new());
}

fn join(rank: usize, own: Listener, other: std::net::SocketAddr, via: &str) -> CpuCommunicator {
    let mut addrs = [own.address(), other];
    if rank == 1 {
        addrs.reverse();
    }
    let peer = |(rank, &addr)| PeerAddr {
        rank,
        addr,
        host_id: host_id(),
    };
    let mut rendezvous = rendezvous(1, rank, addrs.iter().enumerate().map(peer).collect());
    rendezvous.shared_memory = via != "tcp";
    rendezvous.timeout = FOREVER;
    connect(&own, rendezvous).expect("join")
}
