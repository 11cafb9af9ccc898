//! Limits the memory of all replies that their clients, or the shards that asked for them, have
//! not yet taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::HeaderMap;

use crate::headers;

/// A reply of at most this many bytes is small. The memory reserved for small replies is not
/// given to others.
const SMALL: usize = 64 * 1024;
/// One part in `PART` of the limit is reserved for small replies.
const PART: usize = 4;

/// A sum of bytes, of all connections or of one. A relaxed atomic: no other memory depends on it.
/// Clones share the sum.
#[derive(Clone, Debug, Default)]
pub struct Sum(Arc<AtomicUsize>);

impl Sum {
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds to the sum and returns its previous value.
    fn add(&self, bytes: usize) -> usize {
        self.0.fetch_add(bytes, Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The memory that a shard's replies hold, of all its connections. Clones share the sum.
///
/// One connection may hold as many bytes as are left for all others: half of the limit if it is
/// the only one, as a proxy's can be, and less the more the others hold, so that something is
/// always left for one more. (Choudhury and Hahne, "Dynamic queue length thresholds in a shared
/// memory ATM switch", 1996, with alpha 1.)
#[derive(Clone, Debug, Default)]
pub struct Replies(Sum);

/// Bytes that are counted until this is dropped.
#[derive(Debug)]
pub struct Counted {
    bytes: usize,
    /// The sum of all connections, and the sum of one.
    sums: [Sum; 2],
}

/// A reply's bytes, counted until the last of them is dropped.
struct Held {
    reply: Bytes,
    _counted: Counted,
}

impl Replies {
    /// Whether a connection must not be served further requests: all connections hold `limit`
    /// bytes or more, or this one, whose sum is `of_one`, holds as many as are left.
    pub fn are_full(&self, of_one: &Sum, limit: usize) -> bool {
        let left = limit.saturating_sub(self.0.get());
        left == 0 || of_one.get() >= left
    }

    /// Counts the bytes of a reply that must be sent, regardless of the limit. Also returns the
    /// sums of all connections and of this one before the addition.
    fn add(&self, of_one: &Sum, bytes: usize) -> (Counted, [usize; 2]) {
        let sums = [self.0.clone(), of_one.clone()];
        let before = [&sums[0], &sums[1]].map(|sum| sum.add(bytes));
        (Counted { bytes, sums }, before)
    }

    /// Counts the bytes of a reply that must be sent, regardless of the limit.
    pub fn count(&self, of_one: &Sum, bytes: usize) -> Counted {
        self.add(of_one, bytes).0
    }

    /// Counts the reply to a write that was already run, and returns its body. Such a reply
    /// should be sent, so there is none only if all connections hold `limit` bytes or more. It
    /// counts, with its headers, as in [`Replies::hold`].
    pub fn hold_as_told(
        &self,
        of_one: &Sum,
        reply: (&HeaderMap, Bytes),
        limit: usize,
    ) -> Option<Bytes> {
        self.hold_if(of_one, reply, |_, [of_all, _]| of_all < limit)
    }

    /// Counts a reply, and returns its body. The body and the headers count until the last
    /// reference to the body's bytes is dropped; an empty body counts until it is dropped itself.
    /// There is none if the sum would exceed `limit`, or the part of it that the reply may use. A
    /// reply on its own is never too large.
    pub fn hold(&self, of_one: &Sum, reply: (&HeaderMap, Bytes), limit: usize) -> Option<Bytes> {
        self.hold_if(of_one, reply, |length, [of_all, of_connection]| {
            let most = if length <= SMALL {
                limit
            } else {
                limit - limit / PART
            };
            let fits = |before: usize, most| before == 0 || before.saturating_add(length) <= most;
            let left = limit.saturating_sub(of_all.saturating_add(length));
            fits(of_all, most) && fits(of_connection, left)
        })
    }

    /// Counts a reply, and returns its body if there is room by its length and by the sums of all
    /// connections and of this one before it.
    fn hold_if(
        &self,
        of_one: &Sum,
        (headers, body): (&HeaderMap, Bytes),
        has_room: impl FnOnce(usize, [usize; 2]) -> bool,
    ) -> Option<Bytes> {
        let length = held_by(headers, &body);
        if length == 0 {
            return Some(body);
        }
        let (counted, before) = self.add(of_one, length);
        let held = counted.with(body);
        has_room(length, before).then_some(held)
    }
}

/// The number of bytes that a reply holds.
pub fn held_by(headers: &HeaderMap, body: &Bytes) -> usize {
    headers::held_by(headers) + body.len()
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
    use http::HeaderValue;

    use super::*;

    fn body(length: usize) -> Bytes {
        vec![1; length].into()
    }

    /// Holds a reply without headers.
    fn hold(replies: &Replies, of_one: &Sum, length: usize, limit: usize) -> Option<Bytes> {
        replies.hold(of_one, (&HeaderMap::new(), body(length)), limit)
    }

    fn tell(replies: &Replies, of_one: &Sum, length: usize, limit: usize) -> Option<Bytes> {
        replies.hold_as_told(of_one, (&HeaderMap::new(), body(length)), limit)
    }

    #[test]
    fn replies_count_until_the_last_of_their_bytes_is_let_go() {
        let (replies, clients) = (Replies::default(), [(); 3].map(|()| Sum::default()));
        let hold = |client: usize, length| hold(&replies, &clients[client], length, 10);
        let first = hold(0, 6).unwrap();
        let part = first.slice(5..);
        drop(first);
        let second = hold(1, 4).unwrap();
        assert_eq!((&*second, &*part), (&[1; 4][..], &[1][..]));
        assert!(hold(2, 1).is_none() && hold(2, 0).is_some());
        assert!(replies.are_full(&clients[2], 10));
        // A reply that must be sent is sent.
        let told = (&HeaderMap::new(), body(5));
        let third = replies.hold(&clients[2], told, usize::MAX);
        drop((part, second));
        assert!(third.is_some() && !replies.are_full(&clients[0], 10));
        assert!(hold(0, 5).is_some() && hold(0, 6).is_none());
        drop(third);
        let sums = clients.each_ref().map(Sum::get);
        assert_eq!((replies.0.get(), sums), (0, [0; 3]));
    }

    /// Regression: these headers were not counted, and an h2 client that reads nothing can have a
    /// hundred replies waiting.
    #[test]
    fn headers_count_with_their_body_also_where_that_is_empty() {
        let (replies, client) = (Replies::default(), Sum::default());
        let mut headers = HeaderMap::new();
        headers.insert("x-large", HeaderValue::from_bytes(&[b'x'; 1000]).unwrap());
        let bytes = headers::held_by(&headers);
        assert!(bytes > 1000);
        for length in [0, 10] {
            for limit in [usize::MAX, bytes + length] {
                let held = replies.hold(&client, (&headers, body(length)), limit);
                let held = held.expect("there is room");
                assert_eq!((held.len(), replies.0.get()), (length, bytes + length));
                // No room for another connection.
                let other = Sum::default();
                let told = replies.hold_as_told(&other, (&headers, body(0)), bytes);
                assert!(told.is_none());
                drop(held);
                assert_eq!((replies.0.get(), client.get()), (0, 0));
            }
        }
    }

    #[test]
    fn a_connection_has_as_much_as_is_left_and_large_replies_leave_some_for_small_ones() {
        const LIMIT: usize = 16 * SMALL;
        let (replies, clients) = (Replies::default(), [(); 9].map(|()| Sum::default()));
        let hold = |client: usize, length| hold(&replies, &clients[client], length, LIMIT);
        // The first connection may hold half of the limit, in any number of replies; each further
        // one half of what is left.
        let mut held = Vec::new();
        for (client, most) in [8, 4, 2, 1].into_iter().enumerate() {
            held.extend((0..most).map(|_| hold(client, SMALL).unwrap()));
            assert!(hold(client, SMALL).is_none(), "{client}");
            assert!(replies.are_full(&clients[client], LIMIT), "{client}");
            assert!(!replies.are_full(&clients[client + 1], LIMIT), "{client}");
        }
        held.push(hold(5, SMALL).unwrap());
        assert!(hold(6, 1).is_none() && replies.are_full(&clients[6], LIMIT));
        held.clear();
        // Connections that want equal amounts get equal amounts.
        loop {
            let more: Vec<_> = (0..3).filter_map(|client| hold(client, SMALL)).collect();
            if more.is_empty() {
                break;
            }
            held.extend(more);
        }
        assert_eq!(
            [0, 1, 2].map(|client: usize| clients[client].get() / SMALL),
            [4; 3]
        );
        held.clear();
        // A single reply can exceed that; large replies together may use three quarters.
        held.push(hold(1, 10 * SMALL).unwrap());
        assert!(hold(2, 2 * SMALL + 1).is_none());
        held.push(hold(2, 2 * SMALL).unwrap());
        assert!(hold(3, SMALL + 1).is_none());
        held.extend((3..7).map(|client| hold(client, SMALL).unwrap()));
        assert!(hold(7, 1).is_none() && replies.are_full(&clients[7], LIMIT));
        held.clear();
        assert!(hold(4, LIMIT).is_some());
    }

    #[test]
    fn a_writes_reply_is_held_as_long_as_all_hold_less_than_the_limit() {
        let (replies, client) = (Replies::default(), Sum::default());
        let tell = |length| tell(&replies, &client, length, 10);
        let held = [tell(6).unwrap(), tell(6).unwrap()];
        assert!(tell(6).is_none() && tell(0).is_some());
        drop(held);
        assert_eq!((replies.0.get(), client.get()), (0, 0));
        let counted = replies.count(&client, 10);
        assert!(tell(6).is_none() && replies.are_full(&client, 10));
        drop(counted);
        assert!(tell(6).is_some());
    }
}
