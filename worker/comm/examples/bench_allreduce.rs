//! Times an all-reduce of 88 MB of f32 between two processes of this host, over shared memory and
//! over TCP: `cargo run -p espalier-comm --example bench_allreduce -- [--json] [--bytes N]
//! [--rounds N] [--mode MODE] [--plain] [--encrypted]`. Both processes start each round together, after a barrier.
//! Over shared memory the buffers are lent (`SharedMemory`), with `--plain` they are the heap's. With
//! `--encrypted` the ranks have a secret: what goes over sockets is sealed.
//!
//! Modes: `all_reduce`; `scatter`: a reduce-scatter and an all-gather; `exchange`: an all-to-all, the
//! owner's sum in rank order, and an all-gather; `lean`: the same, but an owner adds its own part from
//! where it is instead of sending it to itself; `move`: `lean` without the sum.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use espalier_comm::{
    Communicator, CommunicatorExt, CpuCommunicator, Listener, PeerAddr, Rendezvous, Secret,
    SharedMemory, connect, host_id,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Args {
    json: bool,
    bytes: usize,
    rounds: usize,
    mode: String,
    plain: bool,
    encrypted: bool,
    /// Set in the processes that this one starts: rank, and TCP or not.
    child: Option<(usize, bool)>,
}

fn main() -> Result<()> {
    let args = parse(std::env::args().skip(1))?;
    match args.child {
        Some((rank, tcp)) => rank_main(rank, tcp, &args),
        None => parent(&args),
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Args> {
    let mut args = Args {
        json: false,
        bytes: 88_000_000,
        rounds: 30,
        mode: "all_reduce".into(),
        plain: false,
        encrypted: false,
        child: None,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--json" => args.json = true,
            "--bytes" => args.bytes = value()?.parse()?,
            "--rounds" => args.rounds = value()?.parse::<usize>()?.max(1),
            "--plain" => args.plain = true,
            "--encrypted" => args.encrypted = true,
            "--mode" => args.mode = value()?,
            "--rank" => args.child = Some((value()?.parse()?, value()? == "tcp")),
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    Ok(args)
}

/// Starts both ranks per transport, tells them each other's address, prints what rank 0 says.
fn parent(args: &Args) -> Result<()> {
    let mut fields = vec![format!(
        "\"bytes\":{},\"rounds\":{},\"encrypted\":{}",
        args.bytes, args.rounds, args.encrypted
    )];
    for transport in ["shm", "tcp"] {
        let mut ranks: Vec<Child> = Vec::new();
        for rank in 0..2 {
            let child = Command::new(std::env::current_exe()?)
                .args(["--rank", &rank.to_string(), transport])
                .args(["--bytes", &args.bytes.to_string()])
                .args(["--rounds", &args.rounds.to_string()])
                .args(["--mode", &args.mode])
                .args(args.plain.then_some("--plain"))
                .args(args.encrypted.then_some("--encrypted"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            ranks.push(child);
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
            writeln!(
                rank.stdin.take().ok_or("no stdin")?,
                "{}",
                addresses.join(" ")
            )?;
        }
        let mut line = String::new();
        outputs[0].read_line(&mut line)?;
        for mut rank in ranks {
            if !rank.wait()?.success() {
                return Err("a rank failed".into());
            }
        }
        let numbers: Vec<f64> = line
            .split_whitespace()
            .map(str::parse)
            .collect::<std::result::Result<_, _>>()?;
        let [median, min, max, moved, lent] = numbers[..] else {
            return Err(format!("odd answer {line:?}").into());
        };
        if !args.json {
            println!(
                "{transport}: {} of {:.4} MB: median {median:.3} ms (min {min:.3}, max {max:.3}, {} rounds), {:.4} MB sent per rank and round, {:.4} MB of them lent",
                args.mode,
                args.bytes as f64 / 1e6,
                args.rounds,
                moved / 1e6,
                lent / 1e6,
            );
        }
        fields.push(format!(
            "\"{transport}\":{{\"median_ms\":{median:.3},\"min_ms\":{min:.3},\"max_ms\":{max:.3},\"sent_bytes\":{moved},\"lent_bytes\":{lent}}}"
        ));
    }
    if args.json {
        println!("{{{}}}", fields.join(","));
    }
    Ok(())
}

fn rank_main(rank: usize, tcp: bool, args: &Args) -> Result<()> {
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
                addr: addr.parse::<SocketAddr>()?,
                host_id: host_id(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let mut rendezvous = Rendezvous::new("bench", 1, rank, peers);
    rendezvous.shared_memory = !tcp;
    // Both sides of a measurement on one host may know it.
    rendezvous.secret = args.encrypted.then(|| Secret::new([7; 32]));
    let comm = connect(&listener, rendezvous)?;
    let (len, lends) = (args.bytes / 4, !tcp && !args.plain);
    let mut data = Memory::new(len, lends)?;
    let data = data.slice();
    let mut scratch = Memory::new(len + 2, lends)?;
    let scratch = scratch.slice();
    let mut times = Vec::new();
    let (mut moved, mut lent) = (0, 0);
    for round in 0..args.rounds + 3 {
        data.fill(rank as f32 + 1.0);
        comm.barrier()?;
        let before = comm.traffic().total();
        let began = Instant::now();
        once(&comm, &args.mode, data, scratch)?;
        let ms = began.elapsed().as_secs_f64() * 1e3;
        let after = comm.traffic().total();
        (moved, lent) = (after.sent - before.sent, after.lent - before.lent);
        if args.mode != "move" && data.iter().any(|&x| x != 3.0) {
            return Err("wrong sum".into());
        }
        // The first rounds touch fresh pages and grow socket buffers.
        if round >= 3 {
            times.push(ms);
        }
    }
    times.sort_by(f64::total_cmp);
    if rank == 0 {
        println!(
            "{} {} {} {} {}",
            times[times.len() / 2],
            times[0],
            times[times.len() - 1],
            moved,
            lent
        );
    }
    Ok(())
}

enum Memory {
    Lent(SharedMemory),
    Plain(Vec<f32>),
}

impl Memory {
    fn new(len: usize, lent: bool) -> Result<Memory> {
        Ok(match lent {
            true => Memory::Lent(SharedMemory::new(4 * len)?),
            false => Memory::Plain(vec![0.0; len]),
        })
    }

    fn slice(&mut self) -> &mut [f32] {
        match self {
            Memory::Lent(memory) => memory.as_mut_slice(),
            Memory::Plain(memory) => memory,
        }
    }
}

fn once(comm: &CpuCommunicator, mode: &str, data: &mut [f32], scratch: &mut [f32]) -> Result<()> {
    let half = data.len() / 2;
    let owners = [0..half, half..data.len()];
    let own = owners[comm.rank()].clone();
    match mode {
        "all_reduce" => comm.all_reduce(data)?,
        "scatter" => {
            comm.reduce_scatter(data, &owners)?;
            comm.all_gather(data, &owners)?;
        }
        "exchange" => {
            let len = own.len();
            let room = &mut scratch[..2 * len];
            comm.all_to_all(data, &owners, room, &[0..len, len..2 * len])?;
            let (first, second) = room.split_at(len);
            for ((sum, a), b) in data[own].iter_mut().zip(first).zip(second) {
                *sum = a + b;
            }
            comm.all_gather(data, &owners)?;
        }
        "lean" | "move" => {
            let len = own.len();
            let (mut out, mut back) = (owners.clone(), [0..len, 0..len]);
            (out[comm.rank()], back[comm.rank()]) = (0..0, 0..0);
            comm.all_to_all(data, &out, &mut scratch[..len], &back)?;
            if mode == "lean" {
                for (sum, theirs) in data[own].iter_mut().zip(&scratch[..len]) {
                    *sum += theirs;
                }
            }
            comm.all_gather(data, &owners)?;
        }
        other => return Err(format!("no mode {other}").into()),
    }
    Ok(())
}
