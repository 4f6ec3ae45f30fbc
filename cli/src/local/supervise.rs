//! Keeps one process running: starts it, reports its death, starts it again with growing pauses,
//! stops it when told.

use super::program::{Program, Running};
use rustix::process::Signal;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// What a supervised process shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wish {
    /// Run.
    Run,
    /// End in order, by SIGTERM.
    Stop,
    /// End at once, by SIGKILL.
    Kill,
}

/// What happened to a supervised process.
#[derive(Debug)]
pub(crate) enum Event {
    /// It runs.
    Started { name: String, pid: u32 },
    /// It ended though nobody wished it.
    Died {
        name: String,
        /// How, in words.
        how: String,
        /// The last lines of its log.
        lines: Vec<String>,
        /// When it is started again; none if it is not.
        again: Option<Duration>,
    },
    /// It ended as wished, or is given up.
    Ended { name: String },
}

/// When to start a process again and how long to wait for its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// Whether to start it again at all.
    pub(crate) restart: bool,
    /// Pause before the first new start; doubles up to `longest_pause`.
    pub(crate) first_pause: Duration,
    /// Longest pause.
    pub(crate) longest_pause: Duration,
    /// A run as long as this counts as healthy: pauses begin small again.
    pub(crate) healthy: Duration,
    /// Time between SIGTERM and SIGKILL.
    pub(crate) grace: Duration,
}

impl Policy {
    /// The pause after one of `pause`.
    fn next(&self, pause: Duration) -> Duration {
        (pause * 2).min(self.longest_pause)
    }
}

/// Runs `program` until it is wished to end. The last event is [`Event::Ended`].
pub(crate) async fn supervise(
    program: Program,
    policy: Policy,
    mut wish: watch::Receiver<Wish>,
    events: mpsc::UnboundedSender<Event>,
) {
    let mut pause = policy.first_pause;
    // Nobody listens any more when `up` itself ends: then the process ends with it.
    while *wish.borrow() == Wish::Run {
        let begun = Instant::now();
        let (how, lines) = match program.start() {
            Err(error) => (
                format!("can't start {}: {error}", program.path.display()),
                Vec::new(),
            ),
            Ok(mut running) => {
                let _ = events.send(Event::Started {
                    name: program.name.clone(),
                    pid: running.pid,
                });
                let ended = tokio::select! {
                    status = running.wait() => Some(status),
                    _ = wish.wait_for(|wish| *wish > Wish::Run) => None,
                };
                let Some(status) = ended else {
                    stop(&mut running, &policy, &mut wish).await;
                    break;
                };
                let how = status.map_or_else(|error| error.to_string(), in_words);
                (how, running.last_lines().await)
            }
        };
        if begun.elapsed() >= policy.healthy {
            pause = policy.first_pause;
        }
        let again = policy.restart.then_some(pause);
        let _ = events.send(Event::Died {
            name: program.name.clone(),
            how,
            lines,
            again,
        });
        if again.is_none() {
            break;
        }
        let _ = tokio::time::timeout(pause, wish.wait_for(|wish| *wish > Wish::Run)).await;
        pause = policy.next(pause);
    }
    let _ = events.send(Event::Ended { name: program.name });
}

/// SIGTERM, time to end, SIGKILL.
async fn stop(running: &mut Running, policy: &Policy, wish: &mut watch::Receiver<Wish>) {
    running.signal(Signal::TERM);
    let in_time = tokio::select! {
        _ = running.wait() => true,
        () = tokio::time::sleep(policy.grace) => false,
        _ = wish.wait_for(|wish| *wish == Wish::Kill) => false,
    };
    if !in_time {
        running.signal(Signal::KILL);
        let _ = running.wait().await;
    }
    running.last_lines().await;
}

fn in_words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::sync::Arc;

    struct Bench {
        events: mpsc::UnboundedReceiver<Event>,
        wish: watch::Sender<Wish>,
        log: PathBuf,
        _folder: tempfile::TempDir,
    }

    /// Supervises a real shell that runs `script`.
    fn bench(script: &str, restart: bool) -> Bench {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = folder.path().join("log");
        let program = Program {
            name: "child".to_owned(),
            path: PathBuf::from("/bin/sh"),
            args: vec!["-c".into(), script.into()],
            log: log.clone(),
            sink: Arc::new(|_, _| {}),
        };
        let policy = Policy {
            restart,
            first_pause: Duration::from_millis(5),
            longest_pause: Duration::from_millis(20),
            healthy: Duration::from_secs(60),
            grace: Duration::from_secs(20),
        };
        let (wish, wishes) = watch::channel(Wish::Run);
        let (sender, events) = mpsc::unbounded_channel();
        tokio::spawn(supervise(program, policy, wishes, sender));
        Bench {
            events,
            wish,
            log,
            _folder: folder,
        }
    }

    impl Bench {
        async fn next(&mut self) -> Event {
            tokio::time::timeout(Duration::from_secs(30), self.events.recv())
                .await
                .expect("an event in time")
                .expect("an event")
        }

        /// Waits until the child has said something: then its traps are set.
        async fn until_logged(&self, word: &str) {
            let logged = async {
                while !std::fs::read_to_string(&self.log)
                    .unwrap_or_default()
                    .contains(word)
                {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), logged)
                .await
                .expect("logged in time");
        }
    }

    #[tokio::test]
    async fn a_death_is_told_with_code_and_last_words() {
        // A child that dies by itself is reported with exit code and last log lines.
        let mut bench = bench("echo one; echo two >&2; exit 7", false);
        assert!(matches!(bench.next().await, Event::Started { .. }));
        let Event::Died {
            how,
            mut lines,
            again,
            ..
        } = bench.next().await
        else {
            panic!("expected a death")
        };
        lines.sort();
        assert_eq!((how.as_str(), again), ("ended with exit code 7", None));
        assert_eq!(lines, ["one", "two"]);
        assert!(matches!(bench.next().await, Event::Ended { .. }));
    }

    #[tokio::test]
    async fn it_is_started_again_with_growing_pauses() {
        // Pauses between restarts grow to a limit; a wish to stop ends the series.
        let mut bench = bench("kill -KILL $$", true);
        let mut pauses = Vec::new();
        while pauses.len() < 4 {
            if let Event::Died { how, again, .. } = bench.next().await {
                assert_eq!(how, "was killed by signal 9");
                pauses.push(again.expect("started again").as_millis());
            }
        }
        assert_eq!(pauses, [5, 10, 20, 20]);
        bench.wish.send(Wish::Stop).expect("supervised");
        while !matches!(bench.next().await, Event::Ended { .. }) {}
    }

    #[tokio::test]
    async fn a_stop_lets_it_end_in_order() {
        // SIGTERM comes first, and what the child does then is waited for.
        let script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done";
        let mut bench = bench(script, true);
        bench.until_logged("up").await;
        bench.wish.send(Wish::Stop).expect("supervised");
        while !matches!(bench.next().await, Event::Ended { .. }) {}
        assert_eq!(
            std::fs::read_to_string(&bench.log).expect("a log"),
            "up\nbye\n"
        );
    }

    #[tokio::test]
    async fn one_that_will_not_stop_is_killed() {
        // A second wish ends a child that ignores SIGTERM, long before the grace time is over.
        let begun = std::time::Instant::now();
        let mut bench = bench("trap '' TERM; echo up; while :; do sleep 0.05; done", true);
        bench.until_logged("up").await;
        bench.wish.send(Wish::Stop).expect("supervised");
        bench.wish.send(Wish::Kill).expect("supervised");
        while !matches!(bench.next().await, Event::Ended { .. }) {}
        assert!(begun.elapsed() < Duration::from_secs(15));
    }

    #[tokio::test]
    async fn a_missing_binary_is_told() {
        // A program that can't be started is a death with a reason, not a hang.
        let mut bench = bench("", false);
        assert!(matches!(bench.next().await, Event::Started { .. }));
        let (_wish, wishes) = watch::channel(Wish::Run);
        let (sender, mut events) = mpsc::unbounded_channel();
        let program = Program {
            name: "none".to_owned(),
            path: PathBuf::from("/no/such/program"),
            args: Vec::new(),
            log: bench.log.clone(),
            sink: Arc::new(|_, _| {}),
        };
        let policy = Policy {
            restart: false,
            first_pause: Duration::ZERO,
            longest_pause: Duration::ZERO,
            healthy: Duration::ZERO,
            grace: Duration::ZERO,
        };
        supervise(program, policy, wishes, sender).await;
        let Some(Event::Died { how, .. }) = events.recv().await else {
            panic!("expected a death")
        };
        assert!(how.starts_with("can't start /no/such/program: "), "{how}");
    }
}
