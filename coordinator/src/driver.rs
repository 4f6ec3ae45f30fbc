//! The one task that owns the machine: step, make durable, act.
//!
//! Messages that wait together are taken together: each is a step of the machine, their records
//! are one write of the store, and only then their commands are run, in order. Reads wait for that
//! write too, so nobody is shown what could still be lost.

mod clock;
mod error;
mod persist;
mod taken;

use self::clock::Clock;
use self::error::refusal;
use self::taken::Taken;
use crate::metrics::Observer;
use crate::notices::Notices;
use crate::role::Lease;
use crate::store::{Store, codec};
use espalier_core::{Answer, Command, ConnId, Event, Hello, Machine, Order, Record, ReplyId, Time};
use espalier_proto::ApiError;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::error::DriverError;
pub(crate) use self::error::stopped;

/// Messages taken together at most.
const BATCH: usize = 256;
/// Messages that may wait; then callers wait.
const QUEUE: usize = 1024;
/// Orders that may wait for a worker to read them; one more and its stream is ended.
const ORDERS: usize = 64;
/// Least pause between two ticks, so that a deadline that does not move can't spin.
const TICK: Duration = Duration::from_millis(5);
type Make = Box<dyn FnOnce(&Machine, ReplyId) -> Result<Event, espalier_core::Error> + Send>;
type Reply = oneshot::Sender<Result<Answer, espalier_core::Error>>;
type Read = Box<dyn FnOnce(&Machine) + Send>;
/// What goes out on a worker's stream; an error ends it.
pub(crate) type Orders = mpsc::Receiver<Result<Order, ApiError>>;

enum Message {
    Request {
        make: Make,
        reply: Reply,
    },
    Connect {
        conn: ConnId,
        hello: Hello,
        stream: Stream,
    },
    Report(Event),
    /// A report that is acknowledged and may come again.
    Numbered {
        conn: ConnId,
        sequence: u64,
        event: Event,
    },
    Read(Read),
}

/// The driver's end of a worker's stream.
struct Stream {
    orders: mpsc::Sender<Result<Order, ApiError>>,
    /// Number of the newest report that is durable with all before it. Not among the orders: it needs no
    /// room there, and the newest number says all.
    acknowledged: watch::Sender<u64>,
    /// Dropped with the stream: tells its reader to end.
    _open: oneshot::Sender<()>,
}

/// A worker's stream as its reader sees it.
pub(crate) struct Connection {
    /// Its number.
    pub(crate) conn: ConnId,
    /// Resolves when the driver has ended the stream.
    pub(crate) ended: oneshot::Receiver<()>,
    /// Changes when reports up to another number are durable.
    pub(crate) acknowledged: watch::Receiver<u64>,
}

/// How the API talks to the driver. Every call fails with `UNAVAILABLE` once the driver stopped.
#[derive(Clone)]
pub(crate) struct Handle {
    messages: mpsc::Sender<(Time, Message)>,
    clock: Clock,
    notices: Arc<Notices>,
    conns: Arc<AtomicU64>,
}

impl Handle {
    /// Makes an event of a request and waits for its answer.
    pub(crate) async fn request(
        &self,
        make: impl FnOnce(ReplyId) -> Event + Send + 'static,
    ) -> Result<Answer, ApiError> {
        self.request_if(move |_, reply| Ok(make(reply))).await
    }

    /// Makes an event of a request if the state allows it, in one go, and waits for its answer.
    pub(crate) async fn request_if(
        &self,
        make: impl FnOnce(&Machine, ReplyId) -> Result<Event, espalier_core::Error> + Send + 'static,
    ) -> Result<Answer, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Request {
            make: Box::new(make),
            reply,
        })
        .await?;
        let result = answer.await.map_err(|_| stopped())?;
        result.map_err(refusal)
    }

    /// Reads durable state.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Machine) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        let read = move |machine: &Machine| {
            // Nobody waits any longer: nothing to do.
            let _ = reply.send(look(machine));
        };
        self.send(Message::Read(Box::new(read))).await?;
        answer.await.map_err(|_| stopped())
    }

    /// Reports a worker's Hello. The answer comes as the first of its orders, or as an error there.
    pub(crate) async fn connect(&self, hello: Hello) -> Result<(Connection, Orders), ApiError> {
        let conn = ConnId(self.conns.fetch_add(1, Ordering::Relaxed));
        let (orders, outbound) = mpsc::channel(ORDERS);
        let (open, ended) = oneshot::channel();
        let (acknowledge, acknowledged) = watch::channel(0);
        let stream = Stream {
            orders,
            acknowledged: acknowledge,
            _open: open,
        };
        self.send(Message::Connect {
            conn,
            hello,
            stream,
        })
        .await?;
        let connection = Connection {
            conn,
            ended,
            acknowledged,
        };
        Ok((connection, outbound))
    }

    /// Reports what a worker said.
    pub(crate) async fn report(&self, event: Event) -> Result<(), ApiError> {
        self.send(Message::Report(event)).await
    }

    /// Reports what a worker said under a number: it is acknowledged once it is durable, and counts once if it
    /// comes again. 0 is no number.
    pub(crate) async fn deliver(
        &self,
        conn: ConnId,
        sequence: u64,
        event: Event,
    ) -> Result<(), ApiError> {
        if sequence == 0 {
            return self.report(event).await;
        }
        self.send(Message::Numbered {
            conn,
            sequence,
            event,
        })
        .await
    }

    /// Who is told when something changed.
    pub(crate) fn notices(&self) -> &Notices {
        &self.notices
    }

    async fn send(&self, message: Message) -> Result<(), ApiError> {
        // Its time is that of its coming: what waits behind a slow write is not late.
        let message = (self.clock.now(), message);
        self.messages.send(message).await.map_err(|_| stopped())
    }
}

/// What to do once a batch is durable, in order.
enum Action {
    Command(Command),
    Read(Read),
    /// A worker's stream has ended on its side.
    Forget(ConnId),
    /// A worker's reports up to this number are durable.
    Acknowledge(ConnId, u64),
}

#[derive(Default)]
struct Batch {
    first: u64,
    records: Vec<Record>,
    actions: Vec<Action>,
}

/// Owns the machine and the store.
pub(crate) struct Driver {
    machine: Machine,
    store: Option<Box<dyn Store>>,
    clock: Clock,
    messages: mpsc::Receiver<(Time, Message)>,
    /// When the newest message came.
    now: Time,
    notices: Arc<Notices>,
    replies: BTreeMap<ReplyId, Reply>,
    next_reply: u64,
    streams: BTreeMap<ConnId, Stream>,
    taken: Taken,
    /// Events that follow from running commands.
    found: VecDeque<Event>,
    snapshot_every: u64,
    /// Newest record that the store's snapshot contains.
    snapshot_at: u64,
    /// Until when it may act; none: for ever.
    lease: Option<Lease>,
    observer: Observer,
}

impl Driver {
    /// Loads the store and replays it.
    ///
    /// # Errors
    ///
    /// The store can't be read, or what it holds makes no sense.
    pub(crate) fn open(
        config: espalier_core::Config,
        snapshot_every: u64,
        mut store: Box<dyn Store>,
    ) -> Result<(Self, Handle), DriverError> {
        let log = store.load()?;
        let snapshot_at = log.snapshot.as_ref().map_or(0, |(applied, _)| *applied);
        let decoded = codec::decode_all(&log)?;
        let clock = Clock::new();
        let machine = Machine::replay(config, clock.now(), decoded.snapshot, decoded.records)?;
        let (sender, messages) = mpsc::channel(QUEUE);
        let notices = Arc::new(Notices::default());
        let handle = Handle {
            messages: sender,
            clock: clock.clone(),
            notices: notices.clone(),
            conns: Arc::new(AtomicU64::new(1)),
        };
        let driver = Self {
            machine,
            store: Some(store),
            now: clock.now(),
            clock,
            messages,
            notices,
            replies: BTreeMap::new(),
            next_reply: 1,
            streams: BTreeMap::new(),
            taken: Taken::default(),
            found: VecDeque::new(),
            snapshot_every,
            snapshot_at,
            lease: None,
            observer: Observer::default(),
        };
        Ok((driver, handle))
    }

    /// Lets it act only while the lease holds.
    pub(crate) fn bound_by(mut self, lease: Lease) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Tells of what happens.
    pub(crate) fn observed_by(mut self, observer: Observer) -> Self {
        self.observer = observer;
        self
    }

    /// Looks at the machine before it runs.
    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Drives until `stop` turns true. Then, and if the store fails, every worker's stream is ended
    /// with `UNAVAILABLE` and every waiting caller is told the same.
    ///
    /// # Errors
    ///
    /// The store failed: nothing that it did not hold was acknowledged.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), DriverError> {
        let result = self.drive(&mut stop).await;
        for stream in std::mem::take(&mut self.streams).into_values() {
            // A full or closed stream needs no word: it ends here.
            let _ = stream.orders.try_send(Err(stopped()));
        }
        result
    }

    async fn drive(&mut self, stop: &mut watch::Receiver<bool>) -> Result<(), DriverError> {
        loop {
            let mut batch = Batch {
                first: self.machine.applied() + 1,
                ..Batch::default()
            };
            if self.found.is_empty() {
                let wait = self.until_deadline();
                tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => return Ok(()),
                    message = self.messages.recv() => match message {
                        Some(message) => self.take(message, &mut batch),
                        None => return Ok(()),
                    },
                    // Nothing waits: time passes.
                    () = sleep(wait) => {
                        self.now = self.clock.now();
                        self.step(Event::Tick, &mut batch);
                    }
                }
            }
            while let Some(event) = self.found.pop_front() {
                self.step(event, &mut batch);
            }
            for _ in 1..BATCH {
                match self.messages.try_recv() {
                    Ok(message) => self.take(message, &mut batch),
                    Err(_) => break,
                }
            }
            self.persist(batch.first, batch.records).await?;
            // Also where nothing was to be written: nobody is told what another one may have changed.
            if self.lease.as_ref().is_some_and(|lease| !lease.holds()) {
                return Err(DriverError::Lapsed);
            }
            for action in batch.actions {
                match action {
                    Action::Command(command) => self.run_command(command),
                    Action::Read(read) => read(&self.machine),
                    Action::Forget(conn) => drop(self.streams.remove(&conn)),
                    Action::Acknowledge(conn, sequence) => {
                        if let Some(stream) = self.streams.get(&conn) {
                            stream.acknowledged.send_replace(sequence);
                        }
                    }
                }
            }
        }
    }

    fn take(&mut self, (came, message): (Time, Message), batch: &mut Batch) {
        self.now = self.now.max(came);
        match message {
            Message::Request { make, reply } => {
                let id = ReplyId(self.next_reply);
                self.next_reply += 1;
                match make(&self.machine, id) {
                    Ok(event) => {
                        self.replies.insert(id, reply);
                        self.step(event, batch);
                    }
                    // The caller may have gone.
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Message::Connect {
                conn,
                hello,
                stream,
            } => {
                self.streams.insert(conn, stream);
                self.taken.begin(conn, &hello);
                self.step(Event::WorkerConnected { conn, hello }, batch);
            }
            Message::Report(event) => {
                let gone = match &event {
                    Event::WorkerDisconnected { conn } => Some(*conn),
                    _ => None,
                };
                self.step(event, batch);
                // After what was decided before it: a refused worker that has said all it wanted
                // to say still reads the reason.
                batch.actions.extend(gone.map(Action::Forget));
            }
            Message::Numbered {
                conn,
                sequence,
                event,
            } => {
                if self.taken.is_new(conn, sequence) {
                    self.step(event, batch);
                }
                // Also of one that came again: what was said the first time may have been lost.
                let newest = self.taken.newest(conn);
                let acknowledge = newest.map(|newest| Action::Acknowledge(conn, newest));
                batch.actions.extend(acknowledge);
            }
            Message::Read(read) => batch.actions.push(Action::Read(read)),
        }
    }

    fn step(&mut self, event: Event, batch: &mut Batch) {
        if let Event::WorkerDisconnected { conn } = &event {
            self.taken.end(*conn);
        }
        let output = self.machine.step(self.now, event);
        self.taken.follow(&output);
        batch.records.extend(output.records);
        batch
            .actions
            .extend(output.after.into_iter().map(Action::Command));
    }

    fn run_command(&mut self, command: Command) {
        match command {
            Command::Reply { reply, result } => {
                if let Some(waiting) = self.replies.remove(&reply) {
                    // The caller may have gone; what was decided stands.
                    let _ = waiting.send(result);
                }
            }
            Command::Send { conn, order } => {
                let Some(stream) = self.streams.get(&conn) else {
                    return;
                };
                if let Err(error) = stream.orders.try_send(Ok(order)) {
                    tracing::warn!(%conn, "ends a worker's stream that takes no orders: {error}");
                    self.streams.remove(&conn);
                    self.found.push_back(Event::WorkerDisconnected { conn });
                }
            }
            Command::CloseConnection { conn, error } => {
                if let Some(stream) = self.streams.remove(&conn) {
                    tracing::info!(%conn, reason = error.reason, "ends a worker's stream: {error}");
                    let _ = stream.orders.try_send(Err(refusal(error)));
                }
            }
            Command::Notify { job } => {
                self.observer.job(&self.machine, &job);
                self.notices.job(&job);
            }
            Command::NotifyWorker { worker: _ } => self.notices.worker(),
        }
    }

    fn until_deadline(&self) -> Option<Duration> {
        let deadline = self.machine.next_tick()?;
        Some(Duration::from_millis(deadline.since(self.clock.now())).max(TICK))
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
