//! The bodies of refused requests, which are discarded.

use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::request;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use super::wire::Activity;

/// How much of such a body is read in HTTP/1 before the refusal is sent, and for how long. If it
/// ends within these bounds, its connection continues.
const SMALL: usize = 64 * 1024;
const MOMENT: Duration = Duration::from_millis(100);
/// How much of such a body is read in h2 after the refusal was sent, and for how long. Then the
/// stream is reset. A client that receives the reset together with the answer may not see the
/// answer (curl 7.88).
const BYTES: usize = 64 * 1024 * 1024;
const TIME: Duration = Duration::from_secs(2);

/// Whether an HTTP/1 request's body is complete, or completes in a moment.
pub(super) async fn is_over(
    head: &request::Parts,
    body: &mut Incoming,
    activity: &Activity,
) -> bool {
    if body.is_end_stream() {
        return true;
    }
    // A client that waits for `100 Continue` gets the answer instead.
    if head.headers.contains_key(EXPECT) || body.size_hint().lower() > SMALL as u64 {
        return false;
    }
    // The bytes of the body do not count as part of a head.
    let mut reading = activity.reading();
    let skipped = skip(body, SMALL, MOMENT).await;
    if let Some(bytes) = skipped {
        reading.is_read(bytes);
    }
    skipped.is_some()
}

/// Reads the rest of an h2 stream whose request is answered. Only this stream is affected: other
/// streams get back the connection's window as it is read.
pub(super) fn discard(mut body: Incoming) {
    if !body.is_end_stream() {
        tokio::spawn(async move { skip(&mut body, BYTES, TIME).await });
    }
}

/// Reads until the body has ended. Returns its length, or `None` if a bound is reached.
async fn skip(body: &mut Incoming, most: usize, within: Duration) -> Option<usize> {
    let rest = async {
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            read += frame.ok()?.data_ref().map_or(0, Bytes::len);
            if read > most {
                return None;
            }
        }
        Some(read)
    };
    tokio::time::timeout(within, rest).await.ok()?
}
