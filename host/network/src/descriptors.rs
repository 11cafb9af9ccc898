//! The limit on open files and connections of this process, and each port's share of it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::Instant;

/// Descriptors for the store, the volumes, the guests' cache, children and timers, with room to
/// spare.
const FILES: usize = 64;
/// The largest share of the admin port.
const ADMIN: usize = 256;
/// The largest share of the peer port: its handshakes, and two connections to each of the largest
/// number of shards.
const PEERS: usize = 128 + 2 * 1024;
/// Of the remaining descriptors, one in so many is for connections that are being closed, up to
/// the second number.
const CLOSING: (usize, usize) = (5, 128);
/// Assumed where the system sets no limit.
const UNLIMITED: usize = 1 << 20;
/// The shortest time between two log messages about a lack of descriptors.
const EVERY: Duration = Duration::from_secs(10);

/// The limit on open files, at the start and now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The soft limit that the process was started with.
    pub found: usize,
    /// The soft limit now: equal to the hard limit, if it could be raised.
    pub now: usize,
}

/// The number of connections that each port may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    pub public: usize,
    pub admin: usize,
    /// Concurrent handshakes on the peer port.
    pub greeting: usize,
}

impl Limit {
    /// Raises the soft limit to the hard limit. Container runtimes start processes with a soft
    /// limit of 1,024 for the sake of programs that use `select`; this host does not use it.
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

    /// Divides the descriptors among the ports. Clients cannot use the shares of the admin and
    /// peer ports.
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

/// Rate-limits the log message about connections that could not be accepted: at most one every
/// `EVERY`, with their number.
#[derive(Debug, Default)]
pub struct NotAccepted(Mutex<Untold>);

/// Guarded by a std mutex, which is held only briefly.
#[derive(Debug, Default)]
struct Untold {
    last: Option<Instant>,
    count: u64,
}

impl NotAccepted {
    /// Counts a failed accept. Returns the number to log if a message is due.
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
                // At least as many connections with peers as there are handshakes.
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
