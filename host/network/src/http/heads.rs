//! What a request's line and headers hold of memory.

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Uri, Version, request};

use super::sums::Bound;

/// A head that holds up to so many bytes is small: what is left for those cannot be taken by others.
const SMALL: usize = 16 * 1024;
/// A header's place in the map, with its part of the index; one more value of the same name; and
/// what an allocation costs beyond its bytes.
const PLACE: usize = 112;
const MORE: usize = 72;
const ALLOCATION: usize = 16;
/// The request and what waits for its answer; in h2 it has a task of its own. In HTTP/1 a connection
/// has one at a time, which is in the bound on connections.
const REQUEST: usize = 512;
const REQUEST_HTTP2: usize = 10 * 1024;

/// How much all heads together may hold.
pub(super) fn bound(limit: usize) -> Bound {
    Bound {
        limit,
        small: SMALL,
    }
}

/// How many bytes a request holds until it is answered, without its body: a header of a few bytes
/// takes many times as much in memory.
pub(super) fn held_by(head: &request::Parts) -> usize {
    let path = head
        .uri
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    let authority = head.uri.authority().map_or(0, |name| name.as_str().len());
    let request = if head.version == Version::HTTP_2 {
        REQUEST_HTTP2
    } else {
        REQUEST
    };
    request + path + authority + map(&head.headers)
}

fn map(headers: &HeaderMap) -> usize {
    let strings: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 2 * ALLOCATION)
        .sum();
    strings + headers.capacity() * PLACE + (headers.len() - headers.keys_len()) * MORE
}

/// The most that a head which is not whole yet can hold, of which the client says as much as it may.
/// In h2 a header counts as 32 bytes more than it has: this is for the shortest ones.
pub(super) const fn most_in_parts(max_header_bytes: usize) -> usize {
    const FRAMES: usize = 6 * 16 * 1024;
    8 * max_header_bytes + FRAMES
}

/// The same address, in memory of its own: in h2 it comes as a part of the buffer that its frame
/// was read into.
pub(super) fn own(uri: &Uri) -> Uri {
    let copy = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let mut parts = http::uri::Parts::default();
    parts.scheme = uri
        .scheme_str()
        .and_then(|text| Scheme::try_from(text).ok());
    parts.authority = uri
        .authority()
        .and_then(|text| Authority::from_maybe_shared(copy(text.as_str())).ok());
    parts.path_and_query = uri
        .path_and_query()
        .and_then(|text| PathAndQuery::from_maybe_shared(copy(text.as_str())).ok());
    // What was one is one again.
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, Request};

    use super::*;

    #[test]
    fn short_headers_count_as_what_they_hold_and_not_as_what_they_say() {
        let (mut head, ()) = Request::get("/").body(()).unwrap().into_parts();
        assert!(held_by(&head) < 2 * REQUEST);
        for number in 0..900 {
            let name = HeaderName::try_from(format!("x-{number}")).unwrap();
            head.headers.append(name, HeaderValue::from_static(""));
        }
        let held = held_by(&head);
        assert!(
            held > 900 * PLACE && held < most_in_parts(32 * 1024),
            "{held}"
        );
        let (mut head, ()) = Request::get("/").body(()).unwrap().into_parts();
        for _ in 0..900 {
            head.headers.append("x", HeaderValue::from_static(""));
        }
        assert!(held_by(&head) > 900 * MORE);
    }

    #[test]
    fn an_address_of_its_own_is_the_same() {
        for text in [
            "/",
            "/a?b=c",
            "*",
            "http://x/",
            "https://x:1/a?b",
            "ftp://x/y",
            "x:80",
        ] {
            let uri: Uri = text.parse().unwrap();
            assert_eq!(own(&uri), uri, "{text}");
        }
    }
}
