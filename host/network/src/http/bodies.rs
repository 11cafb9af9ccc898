//! Reads request bodies, as long as all bodies together stay within their limit.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;

use super::sums::{Bound, Held};

/// A body of up to this many bytes counts as small. Large bodies cannot use the part of the limit
/// reserved for small ones.
const SMALL: usize = 64 * 1024;
/// The first allocation for a body whose announced length is at least this.
const FIRST: usize = 16 * 1024;

/// Why a body was not read.
#[derive(Debug)]
pub(super) enum Unread<E> {
    /// All bodies together exceed the limit.
    Full,
    Body(E),
}

/// Reads a body, as long as all bodies together hold at most `limit` bytes. Its bytes are copied,
/// because the chunks that arrive are slices of buffers that can be many times as large.
pub(super) async fn read<B: Body<Data = Bytes> + Unpin>(
    mut body: B,
    held: &mut Held,
    limit: usize,
) -> Result<Bytes, Unread<B::Error>> {
    let bound = Bound {
        limit,
        small: SMALL,
    };
    let said = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Unread::Body)?.into_data() else {
            continue;
        };
        let length = whole.len() + data.len();
        if length > whole.capacity() {
            // Doubles the capacity, up to the announced length.
            let doubled = (2 * whole.capacity()).max(FIRST).min(said);
            let capacity = length.max(doubled);
            if !held.grow(capacity, bound) {
                return Err(Unread::Full);
            }
            whole.reserve_exact(capacity - whole.len());
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.into())
}
