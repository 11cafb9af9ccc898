//! What all replies together hold of memory, until their clients, or the shards that ask for
//! them, have taken them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// A reply of at most so many bytes is small: what is left for those cannot be taken by others.
const SMALL: usize = 64 * 1024;
/// The part of all that is left for small ones, and the part that one connection may have.
const PART: usize = 4;

/// A sum of bytes, of all or of one connection. A relaxed atomic: nothing else is read by it.
/// Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Sum(Arc<AtomicUsize>);

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

/// What a shard's replies hold, of all its connections. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Replies(Sum);

/// Bytes that count until it is dropped.
#[derive(Debug)]
pub struct Counted {
    bytes: usize,
    /// Of all, and of one connection.
    sums: [Sum; 2],
}

/// A reply's bytes, which count until the last of them is let go.
struct Held {
    reply: Bytes,
    _counted: Counted,
}

impl Replies {
    /// Whether so much is held, by all or by the connection whose sum `of_one` is, that it is to be asked nothing
    /// more: all hold `limit` bytes or more, or the connection its part of that.
    pub fn are_full(&self, of_one: &Sum, limit: usize) -> bool {
        self.0.get() >= limit || of_one.get() >= limit / PART
    }

    /// Counts so many bytes that must be told, whatever is held already. Gives what all and the connection held
    /// before, too.
    fn add(&self, of_one: &Sum, bytes: usize) -> (Counted, [usize; 2]) {
        let sums = [self.0.clone(), of_one.clone()];
        let before = [&sums[0], &sums[1]].map(|sum| sum.add(bytes));
        (Counted { bytes, sums }, before)
    }

    /// Counts a reply of so many bytes that is to be told, whatever is held already.
    pub fn count(&self, of_one: &Sum, bytes: usize) -> Counted {
        self.add(of_one, bytes).0
    }

    /// The same bytes of a reply that should be told, as it is of a write that was run: none only where
    /// all hold `limit` bytes or more.
    pub fn hold_as_told(&self, of_one: &Sum, reply: Bytes, limit: usize) -> Option<Bytes> {
        if reply.is_empty() {
            return Some(reply);
        }
        let (counted, [of_all, _]) = self.add(of_one, reply.len());
        let held = counted.with(reply);
        (of_all < limit).then_some(held)
    }

    /// The same bytes, which count from now on for as long as anybody has them; none where that
    /// would be more than `limit`, or than what a part of it is for. A reply by itself is never
    /// too large.
    pub fn hold(&self, of_one: &Sum, reply: Bytes, limit: usize) -> Option<Bytes> {
        let length = reply.len();
        if length == 0 {
            return Some(reply);
        }
        let (counted, [of_all, of_connection]) = self.add(of_one, length);
        let held = counted.with(reply);
        let most = if length <= SMALL {
            limit
        } else {
            limit - limit / PART
        };
        let fits = |before: usize, most| before == 0 || before.saturating_add(length) <= most;
        let has_room = fits(of_all, most) && fits(of_connection, limit / PART);
        has_room.then_some(held)
    }
}

impl Counted {
    fn with(self, reply: Bytes) -> Bytes {
        Bytes::from_owner(Held {
            reply,
            _counted: self,
        })
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.reply
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        for sum in &self.sums {
            sum.take(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(length: usize) -> Bytes {
        vec![1; length].into()
    }

    #[test]
    fn replies_count_until_the_last_of_their_bytes_is_let_go() {
        let (replies, clients) = (Replies::default(), [(); 3].map(|()| Sum::default()));
        let hold = |client: usize, length| replies.hold(&clients[client], reply(length), 10);
        let first = hold(0, 6).unwrap();
        let part = first.slice(5..);
        drop(first);
        let second = hold(1, 4).unwrap();
        assert_eq!((&*second, &*part), (&[1; 4][..], &[1][..]));
        assert!(hold(2, 1).is_none() && hold(2, 0).is_some());
        assert!(replies.are_full(&clients[2], 10));
        // What must be said is said.
        let third = replies.hold(&clients[2], reply(5), usize::MAX);
        drop((part, second));
        assert!(third.is_some() && !replies.are_full(&clients[0], 10));
        assert!(hold(0, 5).is_some() && hold(0, 6).is_none());
        drop(third);
        let sums = clients.each_ref().map(Sum::get);
        assert_eq!((replies.0.get(), sums), (0, [0; 3]));
    }

    #[test]
    fn a_connection_has_a_part_and_large_replies_leave_some_for_small_ones() {
        const LIMIT: usize = 16 * SMALL;
        let (replies, clients) = (Replies::default(), [(); 5].map(|()| Sum::default()));
        let hold = |client: usize, length| replies.hold(&clients[client], reply(length), LIMIT);
        // One connection has a quarter, in as many replies as it likes.
        let mut held: Vec<_> = (0..4).map(|_| hold(0, SMALL).unwrap()).collect();
        assert!(hold(0, 1).is_none() && replies.are_full(&clients[0], LIMIT));
        assert!(!replies.are_full(&clients[1], LIMIT));
        // By itself a reply can be larger than that; large ones have three quarters in all.
        held.push(hold(1, 8 * SMALL).unwrap());
        assert!(hold(2, SMALL + 1).is_none());
        for client in 2..4 {
            held.extend([hold(client, SMALL).unwrap(), hold(client, SMALL).unwrap()]);
        }
        assert!(hold(4, 1).is_none() && replies.are_full(&clients[4], LIMIT));
        held.clear();
        assert!(hold(4, LIMIT).is_some());
    }

    #[test]
    fn a_writes_reply_is_held_as_long_as_all_hold_less_than_the_limit() {
        let (replies, client) = (Replies::default(), Sum::default());
        let hold = || replies.hold_as_told(&client, reply(6), 10);
        let held = [hold().unwrap(), hold().unwrap()];
        assert!(hold().is_none() && replies.hold_as_told(&client, reply(0), 10).is_some());
        drop(held);
        assert_eq!((replies.0.get(), client.get()), (0, 0));
        let counted = replies.count(&client, 10);
        assert!(hold().is_none() && replies.are_full(&client, 10));
        drop(counted);
        assert!(hold().is_some());
    }
}
