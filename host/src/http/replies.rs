//! What all replies together hold of memory, until their clients have taken them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::Caller;

/// A reply of at most so many bytes is small: what is left for those cannot be taken by others.
const SMALL: usize = 64 * 1024;
/// The part of all that is left for small ones, and the part that one connection may have.
const PART: usize = 4;

/// A sum of bytes. A relaxed atomic: nothing else is read by it.
#[derive(Clone, Debug, Default)]
pub(super) struct Sum(Arc<AtomicUsize>);

impl Sum {
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Gives what it was before.
    fn add(&self, bytes: usize) -> usize {
        self.0.fetch_add(bytes, Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What a server's replies hold, of all its connections.
#[derive(Clone, Debug, Default)]
pub struct Replies(Sum);

/// A reply's bytes, which count until the last of them is let go.
struct Held {
    reply: Bytes,
    sums: [Sum; 2],
}

impl Replies {
    /// Whether so much is held, by all or by a caller's connection, that it is to be asked nothing
    /// more: all hold `limit` bytes or more, or the connection its part of that.
    pub fn are_full(&self, caller: &Caller, limit: usize) -> bool {
        self.0.get() >= limit || caller.replies().get() >= limit / PART
    }

    /// The same bytes, which count from now on for as long as anybody has them; none where that
    /// would be more than `limit`, or than what a part of it is for. A reply by itself is never
    /// too large.
    pub fn hold(&self, caller: &Caller, reply: Bytes, limit: usize) -> Option<Bytes> {
        let length = reply.len();
        if length == 0 {
            return Some(reply);
        }
        let sums = [self.0.clone(), caller.replies().clone()];
        let [of_all, of_connection] = [&sums[0], &sums[1]].map(|sum| sum.add(length));
        let held = Held { reply, sums };
        let most = if length <= SMALL {
            limit
        } else {
            limit - limit / PART
        };
        let fits = |before: usize, most| before == 0 || before.saturating_add(length) <= most;
        let has_room = fits(of_all, most) && fits(of_connection, limit / PART);
        has_room.then(|| Bytes::from_owner(held))
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.reply
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for sum in &self.sums {
            sum.take(self.reply.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Caller {
        Caller::plain(([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into())
    }

    fn reply(length: usize) -> Bytes {
        vec![1; length].into()
    }

    #[test]
    fn replies_count_until_the_last_of_their_bytes_is_let_go() {
        let (replies, callers) = (Replies::default(), [(); 3].map(|()| caller()));
        let hold = |caller: usize, length| replies.hold(&callers[caller], reply(length), 10);
        let first = hold(0, 6).unwrap();
        let part = first.slice(5..);
        drop(first);
        let second = hold(1, 4).unwrap();
        assert_eq!((&*second, &*part), (&[1; 4][..], &[1][..]));
        assert!(hold(2, 1).is_none() && hold(2, 0).is_some());
        assert!(replies.are_full(&callers[2], 10));
        // What must be said is said.
        let third = replies.hold(&callers[2], reply(5), usize::MAX);
        drop((part, second));
        assert!(third.is_some() && !replies.are_full(&callers[0], 10));
        assert!(hold(0, 5).is_some() && hold(0, 6).is_none());
        drop(third);
        let sums = callers.each_ref().map(|caller| caller.replies().get());
        assert_eq!((replies.0.get(), sums), (0, [0; 3]));
    }

    #[test]
    fn a_connection_has_a_part_and_large_replies_leave_some_for_small_ones() {
        const LIMIT: usize = 16 * SMALL;
        let (replies, callers) = (Replies::default(), [(); 5].map(|()| caller()));
        let hold = |caller: usize, length| replies.hold(&callers[caller], reply(length), LIMIT);
        // One connection has a quarter, in as many replies as it likes.
        let mut held: Vec<_> = (0..4).map(|_| hold(0, SMALL).unwrap()).collect();
        assert!(hold(0, 1).is_none() && replies.are_full(&callers[0], LIMIT));
        assert!(!replies.are_full(&callers[1], LIMIT));
        // By itself a reply can be larger than that; large ones have three quarters in all.
        held.push(hold(1, 8 * SMALL).unwrap());
        assert!(hold(2, SMALL + 1).is_none());
        for caller in 2..4 {
            held.extend([hold(caller, SMALL).unwrap(), hold(caller, SMALL).unwrap()]);
        }
        assert!(hold(4, 1).is_none() && replies.are_full(&callers[4], LIMIT));
        held.clear();
        assert!(hold(4, LIMIT).is_some());
    }
}
