//! The memory that a request's line and headers hold.

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Uri, Version, request};
use ostrakon_contract::headers;

use super::sums::Bound;

/// A head of up to this many bytes counts as small. Large heads cannot use the part of the limit
/// reserved for small ones.
const SMALL: usize = 16 * 1024;
/// Memory of the request and of the state that waits for its answer, which has a task of its own
/// in h2. An HTTP/1 connection has one request at a time, which the limit on connections accounts
/// for.
const REQUEST: usize = 512;
const REQUEST_HTTP2: usize = 10 * 1024;

/// The bound on the memory of all heads together.
pub(super) fn bound(limit: usize) -> Bound {
    Bound {
        limit,
        small: SMALL,
    }
}

/// The memory that a request holds until it is answered, without its body. A header of a few bytes
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
    request + path + authority + headers::held_by(&head.headers)
}

/// The length of a request's line and headers as clients write them in HTTP/1.
pub(super) fn length(head: &request::Parts) -> usize {
    const LINE: usize = "  HTTP/1.1\r\n".len();
    const END: usize = "\r\n".len();
    let scheme = head
        .uri
        .scheme_str()
        .map_or(0, |scheme| scheme.len() + "://".len());
    let authority = head.uri.authority().map_or(0, |name| name.as_str().len());
    let path = head
        .uri
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    let headers = head.headers.iter();
    let headers: usize = headers
        .map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len())
        .sum();
    head.method.as_str().len() + scheme + authority + path + LINE + headers + END
}

/// The most memory that an incomplete head of the largest permitted size can hold. In h2 each
/// header counts as 32 bytes more than it has; this is the bound for the shortest headers.
pub(super) const fn most_in_parts(max_header_bytes: usize) -> usize {
    const FRAMES: usize = 6 * 16 * 1024;
    8 * max_header_bytes + FRAMES
}

/// A copy of the URI in memory of its own. In h2 a URI arrives as a slice of the buffer into which
/// its frame was read.
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
    // The parts came from a valid URI, so this does not fail.
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, Request};

    use super::*;

    /// A head never takes more memory when complete than was counted before.
    #[test]
    fn what_may_come_in_parts_is_the_most_that_a_head_can_hold() {
        let (mut head, ()) = Request::get("/").body(()).unwrap().into_parts();
        assert!(held_by(&head) < 2 * REQUEST);
        // As h2 counts headers: 32 bytes each beside their content.
        for number in 0..900 {
            let name = HeaderName::try_from(format!("x-{number}")).unwrap();
            head.headers.append(name, HeaderValue::from_static(""));
        }
        assert!(held_by(&head) < most_in_parts(32 * 1024));
    }

    #[test]
    fn a_head_is_as_long_as_its_client_wrote_it() {
        for (target, host) in [("/a?b=c", "x"), ("http://x:1/a", "x:1"), ("*", "")] {
            let request = Request::options(target);
            let request = request.header("host", host).header("x-empty", "");
            let (head, ()) = request.body(()).unwrap().into_parts();
            let sent = format!("OPTIONS {target} HTTP/1.1\r\nhost: {host}\r\nx-empty: \r\n\r\n");
            assert_eq!(length(&head), sent.len(), "{target}");
        }
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
