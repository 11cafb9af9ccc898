//! The last requests, kept for development: each new generation is tried with them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use ostrakon_contract::contract::Request;

use super::stage::copied;

/// The longest body of a request that is kept.
const MOST_BODY: usize = 64 << 10;

/// The last requests that this shard answered.
pub(super) struct Last {
    most: usize,
    /// A std mutex, because it is held only briefly.
    requests: Mutex<VecDeque<Arc<Request>>>,
}

impl Last {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            requests: Mutex::default(),
        }
    }

    pub(super) fn keep(&self, request: &Request) {
        if request.body.len() > MOST_BODY {
            return;
        }
        let request = Arc::new(copied(request));
        let mut requests = self.requests.lock().expect("no holder of this lock panics");
        if requests.len() >= self.most {
            requests.pop_front();
        }
        requests.push_back(request);
    }

    /// The requests, the oldest first.
    pub(super) fn all(&self) -> Vec<Arc<Request>> {
        let requests = self.requests.lock().expect("no holder of this lock panics");
        requests.iter().map(Arc::clone).collect()
    }
}
