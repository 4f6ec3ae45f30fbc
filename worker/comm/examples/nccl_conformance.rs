//! Compares every operation of the NCCL communicator with the CPU communicator's on the same input:
//! `nccl_conformance [--ranks N] [--device D]`; `--report` only says what this machine has; `--kill`
//! kills the last rank and times how soon the others say so. One process per rank, all on one device
//! unless `--spread` gives each its own; ranks on one device pose as ranks of different hosts, so
//! that NCCL accepts them and talks over loopback sockets.
//!
//! Prints a table, and ends with 0 if all is equal, 1 if not, 3 where there is nothing to run on.
#![allow(clippy::print_stdout)]

#[path = "../tests/common/suite.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod suite;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use espalier_comm::{
    CommunicatorExt, DeviceBuffer, Error, Listener, Memory, NcclCommunicator, NcclOptions,
    PeerAddr, Rendezvous, connect, host_id, nccl_report,
};
use suite::{Arena, Case, Host, Op};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Exit code where there is no GPU, driver or NCCL.
const NOTHING: u8 = 3;

#[derive(Clone)]
struct Args {
    ranks: usize,
    device: usize,
    spread: bool,
    report: bool,
    kill: bool,
    /// Set in the processes that this one starts.
    rank: Option<usize>,
}

/// Memory of one device.
struct Device(usize);

impl Arena for Device {
    // Eight-byte words, as in host memory; at least one, so that there is an address.
    type Held = (DeviceBuffer<f64>, usize);

    fn put(&self, bytes: &[u8]) -> espalier_comm::Result<Self::Held> {
        let (words, len) = Host.put(bytes)?;
        let words: Vec<f64> = words.into_iter().map(f64::from_bits).collect();
        Ok((DeviceBuffer::new(self.0, &words)?, len))
    }

    fn address(&self, held: &mut Self::Held) -> (*mut u8, Memory) {
        let region = espalier_comm::Buffer::region(&mut held.0);
        (region.as_ptr(), region.memory())
    }

    fn get(&self, held: &Self::Held) -> espalier_comm::Result<Vec<u8>> {
        let words = held.0.read()?;
        let mut bytes: Vec<u8> = words
            .iter()
            .flat_map(|w| w.to_bits().to_ne_bytes())
            .collect();
        bytes.truncate(held.1);
        Ok(bytes)
    }
}

fn main() -> ExitCode {
    match work() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("nccl_conformance: {error}");
            match error.downcast_ref::<Error>() {
                Some(Error::Unavailable { .. }) => ExitCode::from(NOTHING),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn work() -> Result<bool> {
    let args = parse(std::env::args().skip(1))?;
    if let Some(rank) = args.rank {
        return rank_main(rank, &args);
    }
    println!("{}", nccl_report(args.device)?);
    if args.report {
        return Ok(true);
    }
    parent(&args)
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Args> {
    let mut args = Args {
        ranks: 2,
        device: 0,
        spread: false,
        report: false,
        kill: false,
        rank: None,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--ranks" => args.ranks = value()?.parse::<usize>()?.max(1),
            "--device" => args.device = value()?.parse()?,
            "--rank" => args.rank = Some(value()?.parse()?),
            "--spread" => args.spread = true,
            "--report" => args.report = true,
            "--kill" => args.kill = true,
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    Ok(args)
}

/// Starts the ranks, tells them each other's address, and passes on what rank 0 says.
fn parent(args: &Args) -> Result<bool> {
    let mut ranks: Vec<Child> = Vec::new();
    for rank in 0..args.ranks {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["--rank", &rank.to_string()])
            .args(["--ranks", &args.ranks.to_string()])
            .args(["--device", &args.device.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if args.spread {
            command.arg("--spread");
        } else {
            command
                .env("NCCL_HOSTID", format!("espalier-rank-{rank}"))
                .env("NCCL_SOCKET_IFNAME", "lo");
        }
        if args.kill {
            command.arg("--kill");
        }
        ranks.push(command.spawn()?);
    }
    let mut outputs = Vec::new();
    let mut addresses = Vec::new();
    for rank in &mut ranks {
        let mut output = BufReader::new(rank.stdout.take().ok_or("no stdout")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        addresses.push(line.trim().to_string());
        outputs.push(output);
    }
    for rank in &mut ranks {
        // Left open: a rank ends when its input does.
        let input = rank.stdin.as_mut().ok_or("no stdin")?;
        writeln!(input, "{}", addresses.join(" "))?;
    }
    if args.kill {
        let mut line = String::new();
        outputs[0].read_line(&mut line)?;
        if line.trim() == "waiting" {
            ranks[args.ranks - 1].kill()?;
        } else {
            print!("{line}");
        }
    }
    for line in outputs.remove(0).lines() {
        println!("{}", line?);
    }
    // Read to their ends, so that nobody blocks on a full pipe.
    for line in outputs.into_iter().flat_map(BufRead::lines) {
        let _ = line?;
    }
    let mut good = true;
    for (rank, mut child) in ranks.into_iter().enumerate() {
        let killed = args.kill && rank == args.ranks - 1;
        good &= child.wait()?.success() || killed;
    }
    Ok(good)
}

fn rank_main(rank: usize, args: &Args) -> Result<bool> {
    let listener = Listener::bind(([127, 0, 0, 1], 0).into())?;
    println!("{}", listener.address());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let peers = line
        .split_whitespace()
        .enumerate()
        .map(|(rank, addr)| {
            Ok(PeerAddr {
                rank,
                addr: addr.parse()?,
                host_id: host_id(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let mut rendezvous = Rendezvous::new("nccl-conformance", 1, rank, peers);
    rendezvous.timeout = Duration::from_secs(60);
    let device = args.device + if args.spread { rank } else { 0 };
    let options = NcclOptions::new(1, device).timeout(Duration::from_secs(60));
    let began = Instant::now();
    let comm = NcclCommunicator::new(connect(&listener, rendezvous)?, options)?;
    let took = began.elapsed();
    if args.kill {
        return kill(rank, args, &comm);
    }
    let mut rows = vec![("set-up".to_string(), true, took)];
    for case in suite::cases(args.ranks) {
        let (good, took) = compare(&comm, &case, device)?;
        // All ranks know the result of each, so that they go on or stop together.
        let words = comm.all_gather_bytes(vec![u8::from(good)])?;
        rows.push((case.to_string(), words.iter().all(|w| w[..] == [1]), took));
    }
    let (good, took) = mean(&comm, device)?;
    let words = comm.all_gather_bytes(vec![u8::from(good)])?;
    let name = "all_to_all and a sum in rank order equals all_reduce over the CPU".to_string();
    rows.push((name, words.iter().all(|w| w[..] == [1]), took));
    let all = rows.iter().all(|(_, good, _)| *good);
    if rank == 0 {
        for (name, good, took) in &rows {
            let word = if *good { "equal" } else { "DIFFERENT" };
            println!("{word:<10}{:>9.2} ms  {name}", took.as_secs_f64() * 1e3);
        }
        println!(
            "{} of {} equal, {} ranks",
            rows.iter().filter(|r| r.1).count(),
            rows.len(),
            args.ranks
        );
    }
    comm.barrier()?;
    Ok(all)
}

/// The same case in the memory of the device and in that of the host, which goes over the CPU mesh.
fn compare(comm: &NcclCommunicator, case: &Case, device: usize) -> Result<(bool, Duration)> {
    let began = Instant::now();
    let ours = suite::run(comm, case, &Device(device))?;
    let took = began.elapsed();
    Ok((ours == suite::run(comm, case, &Host)?, took))
}

/// What owners do with gradients: every slice to its owner, unsummed, then a sum in rank order.
/// The data are such that another order gives other bits.
fn mean(comm: &NcclCommunicator, device: usize) -> Result<(bool, Duration)> {
    use espalier_comm::Communicator;
    let (rank, size, each) = (comm.rank(), comm.size(), 10_007);
    let value = |r: usize, i: usize| {
        let scale = (1u64 << ((i * 7 + r * 11) % 24)) as f32;
        ((i * 2_654_435_761 + r * 40_503) % 65_536) as f32 / 65_536.0 * scale
    };
    let mine: Vec<f32> = (0..each * size).map(|i| value(rank, i)).collect();
    let ranges: Vec<_> = (0..size).map(|r| r * each..(r + 1) * each).collect();
    let began = Instant::now();
    let send = DeviceBuffer::new(device, &mine)?;
    let recv = DeviceBuffer::new(device, &vec![0f32; each * size])?;
    let (_, recv) = comm.start_all_to_all(send, &ranges, recv, &ranges).wait()?;
    let parts = recv.read()?;
    let took = began.elapsed();
    let mut sum = parts[..each].to_vec();
    for part in parts[each..].chunks(each) {
        sum.iter_mut().zip(part).for_each(|(a, b)| *a += b);
    }
    let mut whole = mine;
    comm.all_reduce(&mut whole)?;
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
    Ok((sum.iter().zip(&whole[ranges[rank].clone()]).all(same), took))
}

/// The last rank waits to be killed; the others must fail soon, naming it.
fn kill(rank: usize, args: &Args, comm: &NcclCommunicator) -> Result<bool> {
    let (last, device) = (args.ranks - 1, args.device);
    let buffer = DeviceBuffer::new(device, &vec![1f32; 1 << 20])?;
    let buffer = comm.start_broadcast(buffer, 0).wait()?;
    comm.barrier()?;
    if rank == last {
        // Ends by itself when its parent does.
        let _ = std::io::stdin().read_line(&mut String::new());
        return Ok(true);
    }
    let case = Case {
        op: Op::AllToAll,
        dtype: espalier_comm::DType::F32,
        len: 1,
    };
    let handle = comm.start_broadcast(buffer, last);
    if rank == 0 {
        println!("waiting");
    }
    let began = Instant::now();
    let Err(first) = handle.wait() else {
        return Err("an operation with a dead rank succeeded".into());
    };
    let took = began.elapsed();
    let later = suite::run(comm, &case, &Device(device)).map(drop);
    let good = took < Duration::from_secs(1) && first.peer() == Some(last) && later.is_err();
    let word = if good { "good" } else { "BAD" };
    println!("{word}: after {:.0} ms: {first}", took.as_secs_f64() * 1e3);
    Ok(good)
}
