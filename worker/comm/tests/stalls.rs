//! A rank that stands still is told from one that is gone: what is waited for is on record, a process that
//! was stopped is noticed, one that only computes is not.

mod common;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use common::{ALL, listener, rendezvous, world};
use espalier_comm::{
    Communicator, CommunicatorExt, CpuCommunicator, Error, Listener, PeerAddr, Stage, connect,
    host_id,
};
use rustix::process::{Pid, Signal, kill_process};

/// Long enough that no test passes because of it.
const FOREVER: Duration = Duration::from_secs(120);
/// How long a peer's process may be silent here.
const SILENCE: Duration = Duration::from_millis(500);

#[test]
fn the_record_names_the_peer_and_the_operation() {
    // Promise: while a peer stays away, the record says which operation waits for whom; once it has come,
    // nothing waits, and the operation is on record as done.
    for via in ALL {
        let [seen, come] = [Barrier::new(2), Barrier::new(2)];
        world(3, via, FOREVER, |comm| {
            comm.barrier().expect("all are there");
            match comm.rank() {
                0 => {
                    let flight = comm.flight().clone();
                    let handle = comm.start_all_reduce(vec![1f32; 10]);
                    let began = Instant::now();
                    let waits = loop {
                        let waits = flight.record().waits.filter(|waits| waits.peer == 2);
                        if waits.is_some() || began.elapsed() > FOREVER {
                            break waits;
                        }
                        std::thread::yield_now();
                    };
                    let waits = waits.expect("it waits for rank 2");
                    assert_eq!(waits.op.to_string(), "all_reduce #1");
                    let last = flight.record().operations.pop().expect("recorded");
                    assert_eq!((last.op.seq, last.bytes), (1, 40));
                    assert_eq!((last.stage, last.ended), (Stage::Running, None));
                    seen.wait();
                    handle.wait().expect("rank 2 has come");
                    let record = flight.record();
                    assert_eq!((record.issued, record.waits), (2, None));
                    let stages = record.operations.iter().map(|o| o.stage);
                    assert_eq!(stages.collect::<Vec<_>>(), [Stage::Done; 2]);
                    come.wait();
                }
                1 => comm.all_reduce(&mut [1f32; 10]).expect("rank 2 has come"),
                _ => {
                    seen.wait();
                    comm.all_reduce(&mut [1f32; 10]).expect("it comes late");
                    come.wait();
                }
            }
        });
    }
}

#[test]
fn a_stopped_process_is_noticed_and_a_busy_one_is_not() {
    // Promise: a peer that takes part in nothing for longer than the limit of silence is waited for; one
    // whose process was stopped (SIGSTOP: its connections stay open) is lost soon after that limit.
    for via in ["shm", "tcp"] {
        let (mut child, comm) = with_child(via);
        comm.barrier().expect("the child is there");
        let handle = comm.start_all_reduce(vec![1f32; 100_000]);
        let began = Instant::now();
        while began.elapsed() < SILENCE + SILENCE / 2 {
            std::thread::yield_now();
        }
        assert!(!handle.is_done(), "{via}: it only computes");
        let stopped = Instant::now();
        kill_process(Pid::from_child(&child), Signal::STOP).expect("SIGSTOP");
        let error = handle.wait().expect_err("the child was stopped");
        assert!(
            matches!(error, Error::PeerLost { peer: 1, .. }),
            "{via}: {error}"
        );
        assert!(error.to_string().contains("no sign of life"), "{error}");
        assert!(stopped.elapsed() < 4 * SILENCE, "{:?}", stopped.elapsed());
        child.kill().expect("kill -9");
        child.wait().expect("reaped");
    }
}

/// Starts `stalling_child` as rank 1 and joins it as rank 0.
fn with_child(via: &str) -> (Child, CpuCommunicator) {
    let own = listener();
    let mut child = Command::new(std::env::current_exe().expect("test binary"))
        .args(["--exact", "stalling_child", "--nocapture"])
        .env("COMM_STALL_PEER", own.address().to_string())
        .env("COMM_STALL_VIA", via)
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

/// Not a test of its own: the process that the test above stops.
#[test]
fn stalling_child() {
    let Ok(parent) = std::env::var("COMM_STALL_PEER") else {
        return;
    };
    let via = std::env::var("COMM_STALL_VIA").expect("COMM_STALL_VIA");
    let own = listener();
    println!("address={}", own.address());
    let comm = join(1, own, parent.parse().expect("address"), &via);
    comm.barrier().expect("the parent is there");
    // Until killed; ends by itself when the parent dies, since stdin closes then.
    let _ = std::io::stdin().read_line(&mut String::new());
}

fn join(rank: usize, own: Listener, other: SocketAddr, via: &str) -> CpuCommunicator {
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
    rendezvous.silence = SILENCE;
    connect(&own, rendezvous).expect("join")
}
