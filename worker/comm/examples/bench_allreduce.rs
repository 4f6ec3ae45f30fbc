//! Times an all-reduce of 88 MB of f32 between two processes of this host, over shared memory and
//! over TCP: `cargo run -p espalier-comm --example bench_allreduce -- [--json] [--bytes N]
//! [--rounds N]`. Both processes start each round together, after a barrier.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use espalier_comm::{
    Communicator, CommunicatorExt, Kind, Listener, PeerAddr, Rendezvous, connect, host_id,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Args {
    json: bool,
    bytes: usize,
    rounds: usize,
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
        child: None,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--json" => args.json = true,
            "--bytes" => args.bytes = value()?.parse()?,
            "--rounds" => args.rounds = value()?.parse::<usize>()?.max(1),
            "--rank" => args.child = Some((value()?.parse()?, value()? == "tcp")),
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    Ok(args)
}

/// Starts both ranks per transport, tells them each other's address, prints what rank 0 says.
fn parent(args: &Args) -> Result<()> {
    let mut fields = vec![format!(
        "\"bytes\":{},\"rounds\":{}",
        args.bytes, args.rounds
    )];
    for transport in ["shm", "tcp"] {
        let mut ranks: Vec<Child> = Vec::new();
        for rank in 0..2 {
            let child = Command::new(std::env::current_exe()?)
                .args(["--rank", &rank.to_string(), transport])
                .args(["--bytes", &args.bytes.to_string()])
                .args(["--rounds", &args.rounds.to_string()])
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
        let [median, min, max, moved] = numbers[..] else {
            return Err(format!("odd answer {line:?}").into());
        };
        if !args.json {
            println!(
                "{transport}: all-reduce of {:.4} MB: median {median:.3} ms (min {min:.3}, max {max:.3}, {} rounds), {:.4} MB sent per rank and round",
                args.bytes as f64 / 1e6,
                args.rounds,
                moved / 1e6,
            );
        }
        fields.push(format!(
            "\"{transport}\":{{\"median_ms\":{median:.3},\"min_ms\":{min:.3},\"max_ms\":{max:.3},\"sent_bytes\":{moved}}}"
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
    let comm = connect(&listener, rendezvous)?;
    let mut data = vec![1f32; args.bytes / 4];
    let mut times = Vec::new();
    for round in 0..args.rounds + 3 {
        data.fill(rank as f32 + 1.0);
        comm.barrier()?;
        let began = Instant::now();
        comm.all_reduce(&mut data)?;
        let ms = began.elapsed().as_secs_f64() * 1e3;
        if data.iter().any(|&x| x != 3.0) {
            return Err("wrong sum".into());
        }
        // The first rounds touch fresh pages and grow socket buffers.
        if round >= 3 {
            times.push(ms);
        }
    }
    times.sort_by(f64::total_cmp);
    let moved = comm.traffic().of(Kind::AllReduce);
    if rank == 0 {
        println!(
            "{} {} {} {}",
            times[times.len() / 2],
            times[0],
            times[times.len() - 1],
            moved.sent / moved.calls
        );
    }
    Ok(())
}
