//! The client connections that requests come from, for fairness between them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::replies::Sum;

/// One client connection, to this shard or to another shard that forwards its requests. Clones
/// refer to the same connection.
#[derive(Clone, Debug)]
pub struct Client(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    number: u64,
    /// The turns of its requests; created by the first request.
    turns: OnceLock<Semaphore>,
    replies: Sum,
}

/// A request's turn, held until dropped.
#[derive(Debug)]
pub struct Turn<'a>(#[expect(dead_code, reason = "held until dropped")] SemaphorePermit<'a>);

impl Default for Client {
    /// A new connection, distinct from all others.
    fn default() -> Self {
        // Relaxed: no other memory depends on it.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(Arc::new(Connection {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            turns: OnceLock::new(),
            replies: Sum::default(),
        }))
    }
}

impl Client {
    /// The connection's number, unique in this process.
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// Waits until fewer than `most` of the connection's requests hold a turn, in order of
    /// arrival. `most` must be the same on each call.
    ///
    /// # Panics
    /// Never: the semaphore is not closed while the client exists.
    pub async fn turn(&self, most: usize) -> Turn<'_> {
        let turns = self.0.turns.get_or_init(|| Semaphore::new(most));
        Turn(turns.acquire().await.expect("turns are never closed"))
    }

    /// The memory that the connection's replies hold.
    pub fn replies(&self) -> &Sum {
        &self.0.replies
    }
}

/// The clients of other shards, whose requests those shards forward.
#[derive(Debug, Default)]
pub struct Clients(
    /// A std mutex: held only for a look-up.
    Mutex<Known>,
);

#[derive(Debug, Default)]
struct Known {
    /// By the shard and by the number that the shard assigned.
    clients: BTreeMap<(u32, u64), Weak<Connection>>,
    /// The number of clients at which closed connections are next removed.
    sweep_at: usize,
}

impl Clients {
    /// The client that `shard` knows by this number.
    ///
    /// # Panics
    /// Never: no holder of the lock panics.
    pub fn of(&self, shard: u32, number: u64) -> Client {
        let mut known = self.0.lock().expect("no holder of this lock panics");
        let found = known.clients.get(&(shard, number)).and_then(Weak::upgrade);
        if let Some(connection) = found {
            return Client(connection);
        }
        if known.clients.len() >= known.sweep_at {
            known.clients.retain(|_, client| client.strong_count() > 0);
            known.sweep_at = 2 * known.clients.len() + 64;
        }
        let client = Client::default();
        let connection = Arc::downgrade(&client.0);
        known.clients.insert((shard, number), connection);
        client
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn requests_take_turns_in_their_order_and_one_that_is_gone_leaves_its_place() {
        let (client, other) = (Client::default(), Client::default());
        assert_ne!(client.number(), other.number());
        let running = [(); 2].map(|()| client.turn(2).now_or_never().expect("a turn"));
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(client.turn(2))).collect();
        for turn in &mut waiting {
            assert!(turn.now_or_never().is_none());
        }
        assert!(other.turn(2).now_or_never().is_some(), "it has its own");
        drop(waiting.remove(0));
        let [first, second] = running;
        drop(first);
        assert!((&mut waiting[1]).now_or_never().is_none(), "it came later");
        let turn = (&mut waiting[0]).now_or_never().expect("a turn");
        drop((second, turn));
        assert!((&mut waiting[1]).now_or_never().is_some());
    }

    #[test]
    fn clients_of_other_shards_are_known_as_long_as_they_ask() {
        let clients = Clients::default();
        let first = clients.of(1, 7);
        assert_eq!(clients.of(1, 7).number(), first.number());
        assert_ne!(clients.of(2, 7).number(), first.number());
        for number in 0..10_000 {
            clients.of(3, number);
        }
        let known = clients.0.lock().unwrap().clients.len();
        assert!(known < 100, "{known}");
        assert_eq!(clients.of(1, 7).number(), first.number());
    }
}
