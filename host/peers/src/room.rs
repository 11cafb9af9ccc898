//! The bounds on requests in flight.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::settings::Settings;

/// The bounds on one connection's requests in flight.
pub(super) struct Room {
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    most_bytes: u32,
}

/// The permits that one request holds.
pub(super) struct Permits {
    _request: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Room {
    pub(super) fn new(settings: &Settings) -> Self {
        let most_bytes = settings.max_in_flight_bytes.max(1);
        Self {
            requests: semaphore(settings.max_in_flight.max(1)),
            bytes: semaphore(most_bytes),
            most_bytes,
        }
    }

    /// Waits for room for a request. Returns `None` once the room is closed.
    pub(super) async fn place(&self, length: usize) -> Option<Permits> {
        let request = Arc::clone(&self.requests).acquire_owned().await.ok()?;
        let length = u32::try_from(length).map_or(self.most_bytes, |n| n.min(self.most_bytes));
        let bytes = Arc::clone(&self.bytes);
        let bytes = bytes.acquire_many_owned(length).await.ok()?;
        Some(Permits {
            _request: request,
            _bytes: bytes,
        })
    }

    /// Rejects all waiting and future requests.
    pub(super) fn close(&self) {
        self.requests.close();
        self.bytes.close();
    }
}

pub(super) fn semaphore(permits: u32) -> Arc<Semaphore> {
    let permits = usize::try_from(permits).expect("a usize has 32 bits or more");
    Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)))
}
