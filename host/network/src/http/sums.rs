//! Sums of what all connections together hold of memory, of heads or of bodies, each with a limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The part of a limit that is for connections that hold little, and the part that one connection may have.
const FOR_SMALL: usize = 4;
const OF_CONNECTION: usize = 2;

/// A sum over a server's connections, and one connection's part of it. Relaxed atomics: nothing
/// else is read by them.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    of_all: Arc<AtomicUsize>,
    of_connection: Arc<AtomicUsize>,
}

/// One share in the sums, until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    sums: Sums,
    bytes: usize,
}

/// What may be held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    /// By all together.
    pub(super) limit: usize,
    /// A connection that holds up to so many bytes holds little: a part of the limit is for those.
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

    /// A share that holds nothing yet.
    pub(super) fn share(&self) -> Held {
        Held {
            sums: self.clone(),
            bytes: 0,
        }
    }
}

impl Held {
    /// The share holds so many bytes from now on, if it held fewer. Says whether there is room for
    /// them: a share by itself is never too large.
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
        // Who holds nothing else may hold any size.
        let fits = |sum: usize, most| sum == self.bytes || sum <= most;
        fits(all, most) && fits(connection, limit / OF_CONNECTION)
    }

    /// How many bytes the share holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds nothing any more.
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
        // One connection has half of it, and all that hold much have three quarters.
        let first = hold(0, 40).unwrap();
        assert!(hold(0, 1).is_none());
        let second = hold(1, 20).unwrap();
        assert!(hold(2, 5).is_none());
        let small: Vec<_> = (2..7).map(|one| hold(one, 4).unwrap()).collect();
        assert!(hold(7, 1).is_none());
        drop((first, small));
        // However small the shares of one connection are, they are no more than it holds.
        let third: Vec<_> = (0..10).map(|_| hold(2, 4).unwrap()).collect();
        assert!(hold(3, 5).is_none() && hold(1, 1).is_none());
        let small = hold(3, 4).unwrap();
        drop((second, small, third));
        assert_eq!(all.of_all.load(Ordering::Relaxed), 0);
        // By itself a share can be as large as it likes.
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
