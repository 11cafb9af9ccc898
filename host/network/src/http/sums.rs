//! Sums of the memory that all connections hold together, for heads and for bodies, each with a
//! limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The fraction of a limit, as a divisor, that is reserved for connections that hold little, and
/// the fraction that one connection may have.
const FOR_SMALL: usize = 4;
const OF_CONNECTION: usize = 2;

/// A sum over a server's connections, and one connection's part of it. Relaxed atomics: no other
/// data is published through them.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    of_all: Arc<AtomicUsize>,
    of_connection: Arc<AtomicUsize>,
}

/// One share in the sums, released when dropped.
#[derive(Debug)]
pub(super) struct Held {
    sums: Sums,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    /// The bound on the sum of all connections.
    pub(super) limit: usize,
    /// A connection that holds up to this many bytes counts as small; a part of the limit is
    /// reserved for small ones.
    pub(super) small: usize,
}

impl Sums {
    /// The same sum, with one more connection in it.
    pub(super) fn connect(&self) -> Self {
        Self {
            of_all: Arc::clone(&self.of_all),
            of_connection: Arc::default(),
        }
    }

    /// A new share, which holds nothing yet.
    pub(super) fn share(&self) -> Held {
        Held {
            sums: self.clone(),
            bytes: 0,
        }
    }
}

impl Held {
    /// Raises the share to this many bytes, if it held fewer. Returns whether there is room; a
    /// share is never too large on its own.
    pub(super) fn grow(&mut self, bytes: usize, bound: Bound) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        self.bytes += more;
        let Bound { limit, small } = bound;
        let add = |sum: &AtomicUsize| sum.fetch_add(more, Ordering::Relaxed) + more;
        let (all, connection) = (add(&self.sums.of_all), add(&self.sums.of_connection));
        let most = if connection <= small {
            limit
        } else {
            limit - limit / FOR_SMALL
        };
        // A share may have any size if nothing else is held.
        let fits = |sum: usize, most| sum == self.bytes || sum <= most;
        fits(all, most) && fits(connection, limit / OF_CONNECTION)
    }

    /// The number of bytes that the share holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sets the share to zero bytes.
    pub(super) fn release(&mut self) {
        for sum in [&self.sums.of_all, &self.sums.of_connection] {
            sum.fetch_sub(self.bytes, Ordering::Relaxed);
        }
        self.bytes = 0;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Bound = Bound {
        limit: 80,
        small: 4,
    };

    #[test]
    fn shares_count_until_they_are_dropped_and_leave_a_part_for_small_ones_and_for_others() {
        let all = Sums::default();
        let connections = [(); 8].map(|()| all.connect());
        let hold = |connection: usize, bytes| {
            let mut held = connections[connection].share();
            held.grow(bytes, BOUND).then_some(held)
        };
        // One connection may have half of the limit, and all connections that hold much three
        // quarters.
        let first = hold(0, 40).unwrap();
        assert!(hold(0, 1).is_none());
        let second = hold(1, 20).unwrap();
        assert!(hold(2, 5).is_none());
        let small: Vec<_> = (2..7).map(|one| hold(one, 4).unwrap()).collect();
        assert!(hold(7, 1).is_none());
        drop((first, small));
        // Many small shares of one connection count as one connection's total.
        let third: Vec<_> = (0..10).map(|_| hold(2, 4).unwrap()).collect();
        assert!(hold(3, 5).is_none() && hold(1, 1).is_none());
        let small = hold(3, 4).unwrap();
        drop((second, small, third));
        assert_eq!(all.of_all.load(Ordering::Relaxed), 0);
        // A single share may have any size.
        assert!(hold(2, 1000).is_some());
    }

    #[test]
    fn a_share_that_grows_counts_once() {
        let sums = Sums::default().connect();
        let mut held = sums.share();
        for bytes in [10, 30, 20, 40] {
            assert!(held.grow(bytes, BOUND));
        }
        assert_eq!(sums.of_all.load(Ordering::Relaxed), 40);
        held.release();
        assert!(held.grow(5, BOUND));
        drop(held);
        assert_eq!(sums.of_connection.load(Ordering::Relaxed), 0);
    }
}
