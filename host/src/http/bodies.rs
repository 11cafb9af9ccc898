//! What all request bodies together hold of memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;

/// The sum over a server's connections. A relaxed atomic: nothing else is read by it.
#[derive(Clone, Debug, Default)]
pub(super) struct Bodies(Arc<AtomicUsize>);

/// One request's share of the sum, until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    bodies: Bodies,
    bytes: usize,
}

/// Why a body was not read.
#[derive(Debug)]
pub(super) enum Unread<E> {
    /// All bodies together are over the limit.
    Full,
    /// It did not arrive.
    Body(E),
}

impl Bodies {
    /// Reads a body as long as all bodies together have at most `limit` bytes.
    pub(super) async fn read<B: Body<Data = Bytes> + Unpin>(
        &self,
        mut body: B,
        limit: usize,
    ) -> Result<(Bytes, Held), Unread<B::Error>> {
        let mut held = Held {
            bodies: self.clone(),
            bytes: 0,
        };
        // Most bodies are one frame: those are not copied.
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(Unread::Body)?.into_data() else {
                continue;
            };
            if !held.add(data.len(), limit) {
                return Err(Unread::Full);
            }
            if first.is_empty() {
                first = data;
            } else {
                if all.is_empty() {
                    all.extend_from_slice(&first);
                }
                all.extend_from_slice(&data);
            }
        }
        let whole = if all.is_empty() { first } else { all.freeze() };
        Ok((whole, held))
    }
}

impl Held {
    fn add(&mut self, bytes: usize, limit: usize) -> bool {
        self.bytes += bytes;
        let before = self.bodies.0.fetch_add(bytes, Ordering::Relaxed);
        before + bytes <= limit
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.bodies.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
