//! How many files and connections this process may have open, and how they are shared out.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::Instant;

/// What the store, the volumes, the guests' cache, children and timers have open, with room to spare.
const FILES: usize = 64;
/// The most that the admin port is given.
const ADMIN: usize = 256;
/// The most that the peer port is given: its handshakes, and two connections with each of the most
/// shards there can be.
const PEERS: usize = 128 + 2 * 1024;
/// A share of what is left that is for connections which are being closed, and the most of those.
const CLOSING: (usize, usize) = (5, 128);
/// Where the system sets no limit.
const UNLIMITED: usize = 1 << 20;
/// How often a lack of descriptors is logged at most.
const EVERY: Duration = Duration::from_secs(10);

/// The limit on open files: as it was found, and as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The soft limit that the process was started with.
    pub found: usize,
    /// The soft limit now: the hard one, where that could be set.
    pub now: usize,
}

/// Open files and connections that each part of the host may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Connections of the public port.
    pub public: usize,
    /// Connections of the admin port.
    pub admin: usize,
    /// Handshakes of the peer port at a time.
    pub greeting: usize,
}

impl Limit {
    /// Raises the soft limit to the hard one. Container runtimes start processes with a soft limit
    /// of 1,024, for the sake of programs that use `select`; this one does not.
    pub fn raise() -> Self {
        let as_number = |limit: Option<u64>| {
            limit.map_or(UNLIMITED, |limit| {
                usize::try_from(limit).unwrap_or(UNLIMITED)
            })
        };
        let found = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: found.maximum,
            maximum: found.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit on open files cannot be raised");
        }
        Self {
            found: as_number(found.current),
            now: as_number(getrlimit(Resource::Nofile).current),
        }
    }

    /// Shares the descriptors out. What the ports for operators and peers get is not for clients.
    pub fn shares(self, has_peers: bool) -> Shares {
        let part = |most: usize| (self.now / 8).clamp(1, most);
        let admin = part(ADMIN);
        let peers = if has_peers { part(PEERS) } else { 0 };
        let left = self
            .now
            .saturating_sub(FILES.min(self.now / 4) + admin + peers);
        let closing = (left / CLOSING.0).min(CLOSING.1);
        Shares {
            public: (left - closing).max(1),
            admin,
            greeting: (peers / 2).clamp(1, 128),
        }
    }
}

/// Tells of connections that could not be accepted: at most every `EVERY`, with their number.
#[derive(Debug, Default)]
pub struct NotAccepted(Mutex<Untold>);

/// A std mutex: held for a look.
#[derive(Debug, Default)]
struct Untold {
    last: Option<Instant>,
    count: u64,
}

impl NotAccepted {
    /// Counts one. Some: how many it is time to tell of.
    pub fn count(&self) -> Option<u64> {
        let mut untold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        untold.count += 1;
        if untold.last.is_some_and(|last| last.elapsed() < EVERY) {
            return None;
        }
        untold.last = Some(Instant::now());
        Some(std::mem::take(&mut untold.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_share_whatever_the_limit() {
        for now in [64, 256, 1024, 20_000, 524_288, UNLIMITED] {
            for has_peers in [false, true] {
                let shares = Limit { found: 64, now }.shares(has_peers);
                // As many connections with peers as there may be handshakes, at the least.
                let peers = if has_peers { 2 * shares.greeting } else { 0 };
                let all = shares.public + shares.admin + peers;
                assert!(all + FILES.min(now / 4) <= now, "{now}: {shares:?}");
                assert!(
                    shares.public >= now / 4 && shares.admin >= now.min(2048) / 8,
                    "{now}: {shares:?}"
                );
            }
        }
        let containerd = Limit {
            found: 1024,
            now: 524_288,
        };
        assert!(containerd.shares(true).public > 500_000);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_to_accept_are_told_of_seldom_and_none_is_left_out() {
        let failures = NotAccepted::default();
        assert_eq!(failures.count(), Some(1));
        for _ in 0..200 {
            assert_eq!(failures.count(), None);
        }
        tokio::time::advance(EVERY).await;
        assert_eq!(failures.count(), Some(201));
    }
}
