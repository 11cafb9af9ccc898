//! What all replies together hold of memory, until their clients have taken them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// The sum over a server's connections. A relaxed atomic: nothing else is read by it.
#[derive(Clone, Debug, Default)]
pub struct Replies(Arc<AtomicUsize>);

/// A reply's bytes, which count until the last of them is let go.
struct Held {
    reply: Bytes,
    replies: Replies,
}

impl Replies {
    /// The same bytes, which count from now on for as long as anybody has them; none where all
    /// together would then be more than `limit`.
    pub fn hold(&self, reply: Bytes, limit: usize) -> Option<Bytes> {
        if reply.is_empty() {
            return Some(reply);
        }
        let length = reply.len();
        let before = self.0.fetch_add(length, Ordering::Relaxed);
        let held = Held {
            reply,
            replies: self.clone(),
        };
        (before.saturating_add(length) <= limit).then(|| Bytes::from_owner(held))
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.reply
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let length = self.reply.len();
        self.replies.0.fetch_sub(length, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_count_until_the_last_of_their_bytes_is_let_go() {
        let replies = Replies::default();
        let reply = || Bytes::from_static(b"12345");
        let first = replies.hold(reply(), 10).unwrap();
        let part = first.slice(4..);
        drop(first);
        let second = replies.hold(reply(), 10).unwrap();
        assert_eq!((&*second, &*part), (&b"12345"[..], &b"5"[..]));
        assert!(replies.hold(reply(), 10).is_none());
        assert!(replies.hold(Bytes::new(), 10).is_some());
        // What must be said is said.
        let third = replies.hold(reply(), usize::MAX);
        drop((part, second));
        assert!(third.is_some() && replies.hold(reply(), 10).is_some());
        drop(third);
        assert_eq!(replies.0.load(Ordering::Relaxed), 0);
    }
}
