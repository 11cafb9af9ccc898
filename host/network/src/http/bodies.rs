//! Reading requests' bodies, as long as all of them together fit.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;

use super::sums::{Bound, Held};

/// A body of up to so many bytes is small: what is left for those cannot be taken by others.
const SMALL: usize = 64 * 1024;
/// What is made room for at first, of a body that is said to be at least as long.
const FIRST: usize = 16 * 1024;

/// Why a body was not read.
#[derive(Debug)]
pub(super) enum Unread<E> {
    /// All bodies together are over the limit.
    Full,
    /// It did not arrive.
    Body(E),
}

/// Reads a body as long as all bodies together have at most `limit` bytes. Its bytes are copied:
/// those that come are parts of buffers that can be many times as long.
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
            // Twice as much each time, but not more than it is said to be.
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
