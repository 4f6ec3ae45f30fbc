//! Which numbered reports of workers have been taken: one that is sent again counts once.
//!
//! Known only as long as this coordinator leads. A report that the one before it took and did not come to
//! acknowledge is taken again; the machine makes nothing of it.

use espalier_core::record::Change;
use espalier_core::{Command, ConnId, Hello, Output, Record};
use espalier_spec::WorkerId;
use std::collections::BTreeMap;

/// The reports that were taken.
#[derive(Default)]
pub(super) struct Taken {
    /// Streams that the machine listens to: the worker's name and its instance.
    streams: BTreeMap<ConnId, (WorkerId, String)>,
    /// Of each worker the instance that reported last, and the number of its newest report.
    newest: BTreeMap<WorkerId, (String, u64)>,
}

impl Taken {
    /// A stream begins; if the machine does not want it, it ends it in the same step.
    pub(super) fn begin(&mut self, conn: ConnId, hello: &Hello) {
        let caller = (hello.name.clone(), hello.instance.clone());
        self.streams.insert(conn, caller);
    }

    /// A stream ended. What still comes of it is void: it must not count as taken.
    pub(super) fn end(&mut self, conn: ConnId) {
        self.streams.remove(&conn);
    }

    /// Forgets streams that the machine ends, and workers that it gives up.
    pub(super) fn follow(&mut self, output: &Output) {
        for command in &output.after {
            if let Command::CloseConnection { conn, .. } = command {
                self.end(*conn);
            }
        }
        for record in &output.records {
            if let Record::V1(Change::WorkerLeft { name }) = record {
                self.newest.remove(name);
            }
        }
    }

    /// Whether a report has not been taken yet; from now on it has. One of a stream that is void is left to
    /// the machine, which ignores it.
    pub(super) fn is_new(&mut self, conn: ConnId, sequence: u64) -> bool {
        let Some((name, instance)) = self.streams.get(&conn) else {
            return true;
        };
        let (known, newest) = self.newest.entry(name.clone()).or_default();
        if *known != *instance {
            known.clone_from(instance);
            *newest = 0;
        }
        let is_new = sequence > *newest;
        *newest = sequence.max(*newest);
        is_new
    }

    /// Number of the newest report that was taken of the worker of a stream: it sends them in order, so all up
    /// to this one were. None if the stream is void.
    pub(super) fn newest(&self, conn: ConnId) -> Option<u64> {
        let (name, instance) = self.streams.get(&conn)?;
        let (known, newest) = self.newest.get(name)?;
        (*known == *instance).then_some(*newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(instance: &str) -> Hello {
        Hello {
            name: "w".into(),
            version: "1.0.0".into(),
            host: "elsewhere".into(),
            devices: vec!["cpu".into()],
            instance: instance.into(),
            running: Vec::new(),
            preempted: false,
        }
    }

    fn closed(conn: ConnId) -> Output {
        let error = espalier_core::Error {
            kind: espalier_core::ErrorKind::FailedPrecondition,
            reason: "STREAM_REPLACED",
            message: String::new(),
        };
        Output {
            records: Vec::new(),
            after: vec![Command::CloseConnection { conn, error }],
        }
    }

    // Promise: of one process a report counts once over all its streams; another process of that name counts
    // from the beginning; what comes of a stream that is void counts when it comes again.
    #[test]
    fn a_report_counts_once() {
        let [one, two, three] = [ConnId(1), ConnId(2), ConnId(3)];
        let mut taken = Taken::default();
        taken.begin(one, &hello("a"));
        assert_eq!(taken.newest(one), None);
        assert!(taken.is_new(one, 1) && taken.is_new(one, 2));
        assert!(!taken.is_new(one, 1));
        assert_eq!(taken.newest(one), Some(2));

        taken.begin(two, &hello("a"));
        taken.follow(&closed(one));
        assert!(taken.is_new(one, 3), "the machine ignores it");
        assert_eq!(taken.newest(one), None);
        assert!(!taken.is_new(two, 2) && taken.is_new(two, 3));
        assert_eq!(taken.newest(two), Some(3));

        taken.end(two);
        taken.begin(three, &hello("b"));
        assert_eq!(taken.newest(three), None);
        assert!(taken.is_new(three, 1));
        assert_eq!(taken.newest(three), Some(1));
    }

    // Promise: nothing is kept of workers that are given up.
    #[test]
    fn who_is_gone_is_forgotten() {
        let (conn, name) = (ConnId(1), WorkerId::from("w"));
        let mut taken = Taken::default();
        taken.begin(conn, &hello("a"));
        assert!(taken.is_new(conn, 9));
        let mut output = closed(conn);
        output.records = vec![Record::V1(Change::WorkerLeft { name })];
        taken.follow(&output);
        assert!(taken.streams.is_empty() && taken.newest.is_empty());
    }
}
