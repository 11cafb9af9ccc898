//! Checks of a request's head beyond those of hyper.

use http::header::{HOST, HeaderValue, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{Method, Version, request};

use super::{Refusal, refusals};

/// Rejects a head that a server must not accept. If the target names a host, that host replaces
/// the `host` header; h2 requests are treated the same way.
pub(super) fn check(head: &mut request::Parts) -> Result<(), Refusal> {
    check_coding(head)?;
    let named = check_host(head)?;
    if let Some(host) = named {
        head.headers.insert(HOST, host);
    }
    if head.method == Method::CONNECT {
        return Err(refusals::NOT_IMPLEMENTED);
    }
    Ok(())
}

/// Accepts the `chunked` transfer coding only. hyper looks only at the end of the last coding, and
/// would pass compressed bodies on as they came (RFC 9112, 6.1).
fn check_coding(head: &request::Parts) -> Result<(), Refusal> {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).into_iter();
    let is_chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if is_chunked(coding.as_bytes()) => Ok(()),
        _ => {
            let codings = head.headers.get_all(TRANSFER_ENCODING).into_iter();
            let mut codings = codings.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
            // `chunked` was applied twice, or the value is not a list.
            if codings.all(|coding| is_chunked(coding) || coding.trim_ascii().is_empty()) {
                Err(refusals::BAD_REQUEST)
            } else {
                Err(refusals::NOT_IMPLEMENTED)
            }
        }
    }
}

/// The host that the target names (RFC 9112, 3.2; RFC 9113, 8.3.1).
fn check_host(head: &request::Parts) -> Result<Option<HeaderValue>, Refusal> {
    let mut hosts = head.headers.get_all(HOST).into_iter();
    let (host, second) = (hosts.next(), hosts.next());
    let is_valid = host.is_none_or(|host| is_host(host.as_bytes()));
    if second.is_some() || !is_valid {
        return Err(refusals::BAD_REQUEST);
    }
    let named = head.uri.authority().map(Authority::as_str);
    if named.is_some_and(|named| !is_host(named.as_bytes())) {
        return Err(refusals::BAD_REQUEST);
    }
    match (head.version, host, named) {
        (Version::HTTP_11 | Version::HTTP_2, None, None) | (Version::HTTP_11, None, Some(_)) => {
            Err(refusals::BAD_REQUEST)
        }
        (Version::HTTP_2, Some(host), Some(named))
            if !host.as_bytes().eq_ignore_ascii_case(named.as_bytes()) =>
        {
            Err(refusals::BAD_REQUEST)
        }
        (_, _, None) => Ok(None),
        (_, _, Some(named)) => {
            let named = HeaderValue::from_str(named).map_err(|_| refusals::BAD_REQUEST)?;
            Ok(Some(named))
        }
    }
}

/// Whether the value is a host with an optional port, and without a user. An empty value states
/// that there is no host.
fn is_host(value: &[u8]) -> bool {
    if value.is_empty() {
        return true;
    }
    // Most values are a name or an IPv4 address: they need no parser, which copies.
    let end = value.iter().position(|byte| *byte == b':');
    let (name, port) = value.split_at(end.unwrap_or(value.len()));
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b".-".contains(byte);
    let is_name = !name.is_empty() && name.iter().all(is_of_name);
    if is_name && port.iter().skip(1).all(u8::is_ascii_digit) {
        return true;
    }
    let Ok(authority) = Authority::try_from(value) else {
        return false;
    };
    let after = authority.as_str().strip_prefix(authority.host());
    let port = after.map_or("@", |after| after.strip_prefix(':').unwrap_or(after));
    port.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for host in [
            "",
            "x",
            "x:80",
            "x:",
            "a.b-c_d.example:8080",
            "127.0.0.1",
            "[::1]",
            "[::1]:8080",
            "a,b",
        ] {
            assert!(is_host(host.as_bytes()), "{host:?}");
        }
        for host in [
            "a b", "a, b", "user@x", "@x", "@", "x:80:80", "x:http", "x:-1", "[::1]x", "[::1",
            "::1", "x/y", "x?y", "x#y", "http://x", "a\tb", "\u{e4}", "x:80 ", "\"x\"", "<x>",
        ] {
            assert!(!is_host(host.as_bytes()), "{host:?}");
        }
    }
}
