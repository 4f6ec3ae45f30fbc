//! The watchdog: a thread beside the ranks of a job that notices one that trains and makes no progress. It
//! writes down what the rank was doing, into the log and as `flight/gen-G-rank-R-N.json` in the job's
//! directory; after three times as long it gives the job up on this worker, so that it is tried again. A rank that
//! does not even end then takes the process along (`host/hang`).
//!
//! Most waits end before: the communicator's own limits find peers that are lost. What is left is what nobody
//! expected, and that is what the record is for.

use super::control::{Control, Told};
use super::log::{self, Author};
use super::watched::Watched;
use espalier_comm::{Operation, Stage, Wait};
use espalier_spec::Rank;
use espalier_spec::report::Failure;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Directory of a job's records.
const DIR: &str = "flight";
/// How long a rank that others do not wait for may write before it is given up: a large model to a slow disk.
const WRITING: Duration = Duration::from_secs(1800);
/// How long the disk may take for a record: it may be why the rank stands still.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is done about a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It makes progress, or has not stood still for long enough, or nothing new is to be said.
    Fine,
    /// It has made none for this long: write down what it was doing.
    Stalled(Duration),
    /// For so long that there is no hope.
    Hopeless(Duration),
}

/// What was last seen of a rank.
#[derive(Debug)]
struct Seen {
    signs: (u64, u64),
    since: Instant,
    told: bool,
    /// Records written.
    records: u32,
}

impl Seen {
    fn new(now: Instant) -> Self {
        Self {
            signs: (0, 0),
            since: now,
            told: false,
            records: 0,
        }
    }

    fn look(
        &mut self,
        signs: (u64, u64),
        now: Instant,
        (stalled, hopeless): (Duration, Duration),
    ) -> Verdict {
        if signs != self.signs {
            (self.signs, self.since, self.told) = (signs, now, false);
            return Verdict::Fine;
        }
        let still = now.saturating_duration_since(self.since);
        if still >= hopeless {
            return Verdict::Hopeless(still);
        }
        if still < stalled || self.told {
            return Verdict::Fine;
        }
        self.told = true;
        Verdict::Stalled(still)
    }
}

/// Watches until it is dropped.
#[derive(Debug)]
pub(super) struct Watchdog {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts to watch a job's ranks on this worker, of `ranks` in all; does nothing if the limits say so or
    /// the system gives no thread.
    pub(super) fn start(dir: &Path, ranks: usize, control: Arc<Control>, author: Author) -> Self {
        let limits = control.limits();
        let mut watchdog = Self {
            stop: None,
            thread: None,
        };
        if limits.stall_after.is_zero() {
            return watchdog;
        }
        // The communicator's limit comes first: it knows best whom to blame.
        let hopeless = limits.peer_timeout.saturating_add(limits.stall_after);
        let hopeless = hopeless.max(limits.stall_after.saturating_mul(3));
        let (stop, stopped) = mpsc::channel();
        let watch = Watch {
            dir: dir.join(DIR),
            ranks,
            control,
            author,
            limits: (limits.stall_after, hopeless),
        };
        let spawned = thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || watch.run(&stopped));
        match spawned {
            Ok(thread) => (watchdog.stop, watchdog.thread) = (Some(stop), Some(thread)),
            Err(error) => tracing::warn!("nobody watches for stalls: {error}"),
        }
        watchdog
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

struct Watch {
    dir: PathBuf,
    ranks: usize,
    control: Arc<Control>,
    author: Author,
    limits: (Duration, Duration),
}

impl Watch {
    fn run(&self, stopped: &mpsc::Receiver<()>) {
        let every = (self.limits.0 / 4).clamp(Duration::from_millis(10), Duration::from_secs(5));
        let mut seen: Vec<Seen> = Vec::new();
        while stopped.recv_timeout(every) == Err(mpsc::RecvTimeoutError::Timeout) {
            let now = Instant::now();
            for (index, watched) in self.control.watched().iter().enumerate() {
                if seen.len() <= index {
                    seen.push(Seen::new(now));
                }
                let verdict = seen[index].look(watched.signs(), now, self.limits(watched));
                // What comes before training has limits of its own, and so has a checkpoint or a snapshot that was
                // ordered: the coordinator's, and then comes an abort.
                let is_watched = matches!(self.control.told(), Told::GoOn | Told::Abort);
                if !watched.phase().trains() || !is_watched {
                    continue;
                }
                match verdict {
                    Verdict::Fine => {}
                    Verdict::Stalled(still) => {
                        seen[index].records += 1;
                        self.tell(watched, still, seen[index].records);
                    }
                    Verdict::Hopeless(still) => {
                        self.tell(watched, still, seen[index].records + 1);
                        self.give_up(watched, still);
                        return;
                    }
                }
            }
        }
    }

    /// After what time a rank stands still, and when there is no hope.
    fn limits(&self, watched: &Watched) -> (Duration, Duration) {
        let (stalled, hopeless) = self.limits;
        match self.ranks == 1 && watched.phase().writes() {
            true => (stalled, hopeless.max(WRITING)),
            false => (stalled, hopeless),
        }
    }

    /// Writes down what a rank was doing.
    fn tell(&self, watched: &Watched, still: Duration, number: u32) {
        let rank = watched.rank();
        let _signed = log::sign(Author {
            rank: Some(rank),
            ..self.author.clone()
        });
        self.control.telemetry().metrics.stalled();
        let sentence = sentence(watched, still);
        let record = record(watched, still, &self.author);
        let name = format!(
            "gen-{}-rank-{}-{number}.json",
            self.author.generation.0, rank.0
        );
        let path = self.dir.join(name);
        match write(&path, format!("{record:#}\n")) {
            Ok(()) => tracing::warn!(%rank, "{sentence}; written down in {}", path.display()),
            Err(error) => {
                let path = path.display();
                tracing::warn!(%rank, "{sentence}; cannot write {path}: {error}; {record}");
            }
        }
    }

    fn give_up(&self, watched: &Watched, still: Duration) {
        let own: Vec<Rank> = self.control.watched().iter().map(|w| w.rank()).collect();
        let peer = watched.flight().record().waits.map(|waits| waits.peer);
        let peer = peer.and_then(|peer| u32::try_from(peer).ok()).map(Rank);
        self.control.give_up(Failure {
            code: "stalled".to_owned(),
            message: format!("{}: {}", watched.rank(), sentence(watched, still)),
            retryable: true,
            lost: peer.filter(|peer| !own.contains(peer)),
        });
    }
}

/// Writes a record, in a thread of its own: the disk may never answer.
fn write(path: &Path, text: String) -> std::io::Result<()> {
    let (done, written) = mpsc::channel();
    let path = path.to_owned();
    thread::Builder::new()
        .name("flight".to_owned())
        .spawn(move || {
            let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
            // Nobody hears of what took too long.
            let _ = done.send(folder.and_then(|()| std::fs::write(&path, text)));
        })?;
    let silent = |_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut));
    written.recv_timeout(PATIENCE).unwrap_or_else(silent)
}

/// What a rank waits for, in words.
fn sentence(watched: &Watched, still: Duration) -> String {
    let (step, phase) = (watched.step(), watched.phase());
    let mut text = format!(
        "no progress for {:.1} s with {step} steps done, {phase}",
        still.as_secs_f64()
    );
    if let Some(Wait { op, peer, waited }) = watched.flight().record().waits {
        let waited = waited.as_secs_f64();
        text.push_str(&format!("; {op} waits for rank {peer} since {waited:.1} s"));
    }
    text
}

/// All that is known of a rank.
fn record(watched: &Watched, still: Duration, author: &Author) -> Value {
    let flight = watched.flight().record();
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    let ago = |moment: Duration| flight.now.saturating_sub(moment).as_secs_f64();
    let operation = |operation: &Operation| {
        json!({
            "seq": operation.op.seq,
            "kind": operation.op.kind.to_string(),
            "bytes": operation.bytes,
            "begun_seconds_ago": ago(operation.begun),
            "ended_seconds_ago": operation.ended.map(ago),
            "state": match operation.stage {
                Stage::Running => "running",
                Stage::Done => "done",
                Stage::Failed => "failed",
            },
        })
    };
    let waits = flight.waits.map(|waits| {
        json!({
            "operation": waits.op.to_string(),
            "rank": waits.peer,
            "seconds": waits.waited.as_secs_f64(),
        })
    });
    json!({
        "job": author.job.as_str(),
        "generation": author.generation.0,
        "rank": watched.rank().0,
        "unix_time": time.map_or(0.0, |time| time.as_secs_f64()),
        "seconds_without_progress": still.as_secs_f64(),
        "steps_done": watched.step(),
        "phase": watched.phase().to_string(),
        "waits": waits,
        "operations_issued": flight.issued,
        "operations": flight.operations.iter().map(operation).collect::<Vec<Value>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::limits::Limits;
    use super::super::report::Report;
    use super::super::watched::Phase;
    use super::*;
    use espalier_comm::{CommunicatorExt, Listener, PeerAddr, Rendezvous, connect, host_id};
    use espalier_spec::Generation;

    const LIMITS: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(180));

    // Promise: a stall is told once, again after progress, and given up when it lasts; progress of any kind
    // resets it.
    #[test]
    fn a_stall_is_told_once() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut seen = Seen::new(start);
        assert_eq!(seen.look((1, 0), after(1), LIMITS), Verdict::Fine);
        assert_eq!(seen.look((1, 0), after(60), LIMITS), Verdict::Fine);
        let stalled = Verdict::Stalled(Duration::from_secs(60));
        assert_eq!(seen.look((1, 0), after(61), LIMITS), stalled);
        assert_eq!(seen.look((1, 0), after(120), LIMITS), Verdict::Fine);
        assert_eq!(seen.look((1, 1), after(121), LIMITS), Verdict::Fine);
        assert_eq!(seen.look((1, 1), after(181), LIMITS), stalled);
        let hopeless = Verdict::Hopeless(Duration::from_secs(180));
        assert_eq!(seen.look((1, 1), after(301), LIMITS), hopeless);
    }

    fn author() -> Author {
        Author {
            job: "packages".into(),
            generation: Generation(4),
            rank: None,
            // Nobody reads them.
            reports: tokio::sync::mpsc::unbounded_channel::<Report>().0,
        }
    }

    // Promise: a rank that only computes, or reads, is given up as well, also after an abort that it does not hear; what
    // comes before training, and a stop at the next step, is left alone.
    #[test]
    fn a_rank_alone_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let begin = |phase| {
            let control = Arc::new(Control::with(Limits {
                peer_timeout: Duration::from_millis(20),
                stall_after: Duration::from_millis(20),
                ..Limits::default()
            }));
            control.watch(Rank(0)).enter(phase);
            let watchdog = Watchdog::start(dir.path(), 1, Arc::clone(&control), author());
            (control, watchdog)
        };
        let (waits, _waits) = begin(Phase::Fetching);
        let (aborted, _aborted) = begin(Phase::Forward(1));
        aborted.abort();
        let (loads, _loads) = begin(Phase::Loading);
        let (stops, _stops) = begin(Phase::Evaluating);
        stops.stop_at_boundary();
        let (writes, _writes) = begin(Phase::Exporting);
        let patience = Instant::now();
        while [&waits, &aborted].iter().any(|c| c.given_up().is_none()) {
            assert!(patience.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(5));
        }
        let failure = waits.given_up().unwrap();
        assert_eq!((failure.retryable, failure.lost), (true, None));
        assert!(failure.message.contains("fetching samples"), "{failure:?}");
        for control in [&loads, &stops, &writes] {
            assert_eq!(control.given_up(), None);
        }
    }

    // Promise: a rank whose peer stays away is written down with phase, operation and peer; then its wait is
    // ended, with a failure that names them, may be tried again and blames the peer.
    #[test]
    fn a_stall_is_written_down_and_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let control = Arc::new(Control::with(Limits {
            peer_timeout: Duration::from_millis(100),
            stall_after: Duration::from_millis(100),
            ..Limits::default()
        }));
        let any = ([127, 0, 0, 1], 0).into();
        let listeners = [Listener::bind(any).unwrap(), Listener::bind(any).unwrap()];
        let peers: Vec<PeerAddr> = listeners
            .iter()
            .enumerate()
            .map(|(rank, listener)| PeerAddr {
                rank,
                addr: listener.address(),
                host_id: host_id(),
            })
            .collect();
        let watched = control.watch(Rank(0));
        thread::scope(|scope| {
            let (leave, left) = mpsc::channel::<()>();
            let [here, there] = &listeners;
            let away = Rendezvous::new("packages", 4, 1, peers.clone());
            scope.spawn(move || {
                let comm = connect(there, away).unwrap();
                // Takes part in nothing until the other one is done.
                let _ = left.recv();
                drop(comm);
            });
            let mut rendezvous = Rendezvous::new("packages", 4, 0, peers.clone());
            let abort = espalier_comm::AbortHandle::new().unwrap();
            watched.stops_by(abort.clone());
            rendezvous.abort = Some(abort);
            rendezvous.flight = Some(watched.flight().clone());
            let comm = connect(here, rendezvous).unwrap();
            watched.set_step(12);
            watched.enter(Phase::Backward(3));
            let watchdog = Watchdog::start(dir.path(), 2, Arc::clone(&control), author());
            let error = comm.all_reduce(&mut [1f32; 4]).unwrap_err().to_string();
            assert!(
                error.contains("12 steps done, backward of block 3"),
                "{error}"
            );
            drop(watchdog);
            drop(leave);
        });
        let failure = control.given_up().unwrap();
        assert_eq!(
            (failure.code.as_str(), failure.retryable),
            ("stalled", true)
        );
        assert_eq!(failure.lost, Some(Rank(1)));
        let words = "all_reduce #0 waits for rank 1 since";
        assert!(failure.message.contains(words), "{failure:?}");
        assert_eq!(control.told(), Told::Abort);
        let path = dir.path().join("flight/gen-4-rank-0-1.json");
        let record: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(record["phase"], "backward of block 3");
        assert_eq!(record["steps_done"], 12);
        assert_eq!(record["waits"]["operation"], "all_reduce #0");
        assert_eq!(record["waits"]["rank"], 1);
        assert_eq!(record["operations"][0]["state"], "running");
        assert_eq!(record["operations"][0]["bytes"], 16);
    }
}
