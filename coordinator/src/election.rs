//! Who of a cluster's coordinators leads.
//!
//! The leader writes the key `lead/who` once and the key `lead/beat` again and again, as long as
//! `who` is as it wrote it. A follower that has looked without a gap and seen neither change for a
//! whole time to live takes over: one transaction that holds only if they are still as it saw them.
//! The **term** is the revision at which `who` was written: it grows with every election, and every
//! write to the store names it, so that a leader which was replaced can't write any more.
//!
//! No clocks are compared: the leader counts from before a beat is sent, followers from after they
//! saw it. etcd's own leases would do the same with whole seconds and bounds that depend on its
//! election timeout; a beat takes any time to live.

use crate::etcd::{Etcd, EtcdError, Keys, delete, put, written_at};
use crate::role::Lease;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tokio::time::sleep;
use uuid::Uuid;

/// Beats in a time to live.
const BEATS: u32 = 6;
/// Looks of a follower in a time to live.
const LOOKS: u32 = 15;
/// Longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often history of etcd's keys is forgotten, and how old it gets.
const COMPACT: Duration = Duration::from_secs(300);
/// Uid's form: the number of the format of all keys, and the cluster's UUID.
const FORMAT: &str = "1";

/// What the key `lead/who` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Who {
    /// Address that clients and workers reach the leader at.
    address: String,
    /// Tells elections apart.
    election: String,
}

/// What a look at etcd showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    who: Option<Who>,
    /// Revision of `who`; 0 if there is none.
    term: i64,
    /// Revision of the last beat; 0 if there is none.
    beat: i64,
}

/// How long the same was seen without a gap.
#[derive(Debug, Default)]
struct Watch {
    seen: Seen,
    /// When it was first seen, and when last.
    since: Option<(Instant, Instant)>,
}

impl Watch {
    /// Takes a look that began and ended then. True if nobody leads: there is no leader, or nothing
    /// was heard of it for `ttl`.
    fn look(&mut self, seen: Seen, (began, ended): (Instant, Instant), ttl: Duration) -> bool {
        let first = match self.since {
            // While nobody looked, the leader may have been unable to write, too.
            Some((first, last))
                if seen == self.seen && began.saturating_duration_since(last) < ttl / 3 =>
            {
                first
            }
            _ => ended,
        };
        self.since = Some((first, ended));
        self.seen = seen;
        self.seen.who.is_none() || began.saturating_duration_since(first) >= ttl
    }

    /// A look failed.
    fn gap(&mut self) {
        self.since = None;
    }
}

/// One coordinator's part in elections.
#[derive(Clone, Debug)]
pub(crate) struct Election {
    etcd: Etcd,
    keys: Keys,
    address: String,
    ttl: Duration,
}

/// An election that was won.
#[derive(Clone, Debug)]
pub(crate) struct Won {
    /// The term.
    pub(crate) term: i64,
    /// Until when.
    pub(crate) lease: Lease,
}

impl Election {
    /// For a coordinator that clients reach at `address`.
    pub(crate) fn new(etcd: Etcd, keys: Keys, address: String, ttl: Duration) -> Self {
        Self {
            etcd: etcd.waiting(ttl / 4),
            keys,
            address,
            ttl,
        }
    }

    /// Which cluster this is; a new one gets its UUID now.
    ///
    /// # Errors
    ///
    /// etcd does not answer, or holds what another version wrote.
    pub(crate) async fn cluster(&self) -> Result<String, EtcdError> {
        let key = self.keys.uid();
        let fresh = format!("{FORMAT} {}", Uuid::new_v4());
        let new = put(&key, fresh.into_bytes());
        self.etcd.txn(vec![written_at(&key, 0)], vec![new]).await?;
        let found = self.etcd.get(&key).await?.map(|found| found.value);
        let found = String::from_utf8(found.unwrap_or_default()).unwrap_or_default();
        match found.split_once(' ') {
            Some((FORMAT, uid)) => Ok(uid.to_owned()),
            _ => Err(EtcdError::Refused {
                endpoints: self.etcd.endpoints().to_owned(),
                detail: format!(
                    "the key {key} holds {found:?}, this coordinator knows format {FORMAT}; start the \
                     version that wrote it, or give another --cluster"
                ),
            }),
        }
    }

    /// Waits until this coordinator is elected; tells `leader` who leads meanwhile.
    ///
    /// # Errors
    ///
    /// etcd refuses; one that does not answer is asked again.
    pub(crate) async fn campaign(
        &self,
        mut leader: impl FnMut(Option<String>),
    ) -> Result<Won, EtcdError> {
        let mut watch = Watch::default();
        let mut away = false;
        loop {
            let began = Instant::now();
            match self.look().await {
                Ok(seen) => {
                    if away {
                        tracing::info!("etcd at {} is back", self.etcd.endpoints());
                    }
                    away = false;
                    leader(seen.who.as_ref().map(|who| who.address.clone()));
                    if watch.look(seen, (began, Instant::now()), self.ttl)
                        && let Some(won) = self.take(&watch.seen).await?
                    {
                        return Ok(won);
                    }
                }
                Err(error @ EtcdError::Away { .. }) => {
                    if !away {
                        tracing::warn!("{error}; jobs go on, tries again");
                    }
                    away = true;
                    leader(None);
                    watch.gap();
                }
                Err(error) => return Err(error),
            }
            sleep((self.ttl / LOOKS).min(LONGEST_PAUSE)).await;
        }
    }

    async fn look(&self) -> Result<Seen, EtcdError> {
        let (from, end) = self.keys.lead();
        let mut seen = Seen::default();
        for found in self.etcd.range(&from, &end).await? {
            if found.key == self.keys.who().as_bytes() {
                seen.term = found.mod_revision;
                // What can't be read leads nobody anywhere; its beat is looked at all the same.
                seen.who = serde_json::from_slice(&found.value).ok().or(Some(Who {
                    address: String::new(),
                    election: String::new(),
                }));
            } else if found.key == self.keys.beat().as_bytes() {
                seen.beat = found.mod_revision;
            }
        }
        Ok(seen)
    }

    /// Takes the lead if all is as it was seen. None: it is not, or nobody knows.
    async fn take(&self, seen: &Seen) -> Result<Option<Won>, EtcdError> {
        let start = Instant::now();
        let (who, beat) = (self.keys.who(), self.keys.beat());
        let me = Who {
            address: self.address.clone(),
            election: Uuid::new_v4().to_string(),
        };
        // Two texts: they can be written as JSON.
        let text = serde_json::to_vec(&me).unwrap_or_default();
        let compare = vec![written_at(&who, seen.term), written_at(&beat, seen.beat)];
        let ops = vec![put(&who, text), put(&beat, Vec::new())];
        let taken = self.etcd.txn(compare, ops).await;
        if let Err(error @ EtcdError::Refused { .. }) = taken {
            return Err(error);
        }
        // Also where it seems to have failed: the answer alone may be lost.
        let Ok(now) = self.look().await else {
            return Ok(None);
        };
        Ok((now.who.as_ref() == Some(&me)).then(|| Won {
            term: now.term,
            lease: Lease::new(start, self.ttl),
        }))
    }

    /// Says again and again that this coordinator leads. Returns when it does not any more: another
    /// one was elected, or etcd was not heard of for a whole time to live.
    pub(crate) async fn hold(self, won: Won) {
        let (who, beat) = (self.keys.who(), self.keys.beat());
        let mut compacted: Option<(Instant, i64)> = None;
        loop {
            sleep(self.ttl / BEATS).await;
            let start = Instant::now();
            let compare = vec![written_at(&who, won.term)];
            match self.etcd.txn(compare, vec![put(&beat, Vec::new())]).await {
                Ok(done) if done.succeeded => {
                    won.lease.renew(start, self.ttl);
                    let revision = done.header.map_or(0, |header| header.revision);
                    match compacted {
                        Some((at, _)) if at.elapsed() < COMPACT => {}
                        last => {
                            if let Some((_, old)) = last
                                && let Err(error) = self.etcd.compact(old).await
                            {
                                tracing::debug!("etcd's history was not compacted: {error}");
                            }
                            compacted = Some((start, revision));
                        }
                    }
                }
                Ok(_) => {
                    tracing::warn!(term = won.term, "another coordinator was elected");
                    return;
                }
                Err(error) if won.lease.holds() => {
                    tracing::warn!(term = won.term, "{error}; tries again");
                }
                Err(error) => {
                    tracing::warn!(term = won.term, "gives up the lead: {error}");
                    return;
                }
            }
        }
    }

    /// Lets the next one lead at once. Best effort: else it waits for the time to live.
    pub(crate) async fn resign(&self, term: i64) {
        let (from, end) = self.keys.lead();
        let compare = vec![written_at(&self.keys.who(), term)];
        if let Err(error) = self.etcd.txn(compare, vec![delete(&from, &end)]).await {
            tracing::debug!("could not resign: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(term: i64, beat: i64) -> Seen {
        let who = Who {
            address: "http://a:1".into(),
            election: "1".into(),
        };
        Seen {
            who: Some(who),
            term,
            beat,
        }
    }

    const TTL: Duration = Duration::from_secs(3600);

    // Promise: a leader is deposed only after it was seen still for a whole time to live; each beat
    // begins it anew.
    #[test]
    fn stillness() {
        let mut watch = Watch::default();
        let start = Instant::now();
        let mut look = |n: u32, beat: i64| {
            let at = start + TTL / 10 * n;
            watch.look(seen(1, beat), (at, at), TTL)
        };
        for n in 0..10 {
            assert!(!look(n, 1), "{n}");
        }
        for n in 10..20 {
            assert!(!look(n, 2), "{n}");
        }
        assert!(look(20, 2));
    }

    // Promise: time in which nobody looked does not count against the leader.
    #[test]
    fn gaps() {
        let mut watch = Watch::default();
        let start = Instant::now();
        let late = start + TTL * 2;
        assert!(!watch.look(seen(1, 1), (start, start), TTL));
        assert!(!watch.look(seen(1, 1), (late, late), TTL));
        watch.gap();
        assert!(!watch.look(seen(1, 1), (late, late), TTL));
        // Where there is no leader there is nothing to wait for.
        assert!(watch.look(Seen::default(), (late, late), TTL));
    }
}
