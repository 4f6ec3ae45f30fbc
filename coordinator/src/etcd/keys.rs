//! The keys of one cluster in etcd.
//!
//! ```text
//! /espalier/CLUSTER/uid                      which cluster this is, and the format of all of it
//! /espalier/CLUSTER/data-key                 what secrets of generations are made from
//! /espalier/CLUSTER/lead/who                 who leads; the revision of its last write is the term
//! /espalier/CLUSTER/lead/beat                written again and again by who leads
//! /espalier/CLUSTER/head                     number of the newest record
//! /espalier/CLUSTER/records/NUMBER           records that were written as one, from NUMBER on
//! /espalier/CLUSTER/snapshot                 the newest snapshot
//! /espalier/CLUSTER/parts/WHOSE/INDEX        pieces of a value that is larger than a request
//! ```
//!
//! Numbers have 20 digits, so that their order as text is their order.

/// The keys of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Keys of the cluster with this name.
    #[must_use]
    pub fn new(cluster: &str) -> Self {
        Self {
            prefix: format!("/espalier/{cluster}/"),
        }
    }

    /// What all of them begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Which cluster this is.
    #[must_use]
    pub fn uid(&self) -> String {
        self.key("uid")
    }

    /// What secrets of generations are made from.
    #[must_use]
    pub fn data_key(&self) -> String {
        self.key("data-key")
    }

    /// Who leads.
    #[must_use]
    pub fn who(&self) -> String {
        self.key("lead/who")
    }

    /// The leader's sign of life.
    #[must_use]
    pub fn beat(&self) -> String {
        self.key("lead/beat")
    }

    /// From and end of `who` and `beat`.
    #[must_use]
    pub fn lead(&self) -> (String, String) {
        self.under("lead/")
    }

    /// Number of the newest record.
    #[must_use]
    pub fn head(&self) -> String {
        self.key("head")
    }

    /// Records that were written as one, the first of which has this number.
    #[must_use]
    pub fn record(&self, first: u64) -> String {
        self.key(&format!("records/{first:020}"))
    }

    /// From and end of all records.
    #[must_use]
    pub fn records(&self) -> (String, String) {
        self.under("records/")
    }

    /// The number in the key of records.
    #[must_use]
    pub fn first_of(&self, key: &[u8]) -> Option<u64> {
        let (from, _) = self.records();
        let number = std::str::from_utf8(key).ok()?.strip_prefix(&from)?;
        number.parse().ok()
    }

    /// The newest snapshot.
    #[must_use]
    pub fn snapshot(&self) -> String {
        self.key("snapshot")
    }

    /// A piece of a large value.
    #[must_use]
    pub fn part(&self, whose: &str, index: usize) -> String {
        self.key(&format!("parts/{whose}/{index:06}"))
    }

    /// From and end of all pieces of a large value.
    #[must_use]
    pub fn parts(&self, whose: &str) -> (String, String) {
        self.under(&format!("parts/{whose}/"))
    }

    /// From and end of the pieces of all large values whose names begin so.
    #[must_use]
    pub fn parts_of(&self, begin: &str) -> (String, String) {
        self.under(&format!("parts/{begin}"))
    }

    /// Name of the value of the records from `first` on that is written in this term.
    #[must_use]
    pub fn records_name(first: u64, term: i64) -> String {
        format!("records-{first:020}-{term:020}")
    }

    /// Name of the value of the snapshot at `applied` that is written in this term.
    #[must_use]
    pub fn snapshot_name(applied: u64, term: i64) -> String {
        format!("snapshot-{applied:020}-{term:020}")
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn under(&self, begin: &str) -> (String, String) {
        let from = self.key(begin);
        let end = after(&from);
        (from, end)
    }
}

/// The least text after all that begin with `begin`, which ends with an ASCII letter, digit or sign.
fn after(begin: &str) -> String {
    let mut end = begin.to_owned();
    if let Some(last) = end.pop() {
        end.push(char::from_u32(u32::from(last) + 1).unwrap_or(last));
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: the order of keys is the order of numbers, also where they get longer, and the range
    // of all records holds them and nothing else.
    #[test]
    fn order() {
        let keys = Keys::new("test");
        let numbers = [1, 9, 10, 99, 1 << 40, u64::MAX];
        let sorted: Vec<String> = numbers.iter().map(|n| keys.record(*n)).collect();
        assert!(sorted.is_sorted());
        let (from, end) = keys.records();
        for (number, key) in numbers.iter().zip(&sorted) {
            assert!(from < *key && *key < end, "{key}");
            assert_eq!(keys.first_of(key.as_bytes()), Some(*number));
        }
        for other in [
            keys.head(),
            keys.snapshot(),
            keys.who(),
            keys.uid(),
            keys.data_key(),
        ] {
            assert!(other < from || other >= end, "{other}");
            assert_eq!(keys.first_of(other.as_bytes()), None);
        }
    }

    // Promise: clusters share an etcd without seeing each other, also where one name begins with
    // the other.
    #[test]
    fn clusters() {
        let (one, two) = (Keys::new("a"), Keys::new("ab"));
        let (from, end) = (one.prefix().to_owned(), after(one.prefix()));
        assert!(one.head() > from && one.head() < end);
        assert!(two.head() < from || two.head() >= end);
    }

    // Promise: pieces of one value are found apart from those of another term.
    #[test]
    fn parts() {
        let keys = Keys::new("a");
        let (old, new) = (Keys::snapshot_name(7, 1), Keys::snapshot_name(7, 2));
        let (from, end) = keys.parts(&new);
        assert!(keys.part(&new, 0) >= from && keys.part(&new, 999_999) < end);
        assert!(keys.part(&old, 0) < from);
    }
}
