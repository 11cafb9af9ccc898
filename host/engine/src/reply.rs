//! Checks a guest's response; the result can be sent unchanged.

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ostrakon_contract::contract::Reply;

use super::bindings::ostrakon::shard::types::ResponseResult as Response;
use super::failure::Failure;

/// Headers that describe the connection, or the message as the host sends it.
const HOST_ONLY: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::DATE,
    HeaderName::from_static("keep-alive"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The limit on the size of all headers together, in bytes: as large as clients may send by
/// default, and larger than most proxies accept. Each header counts 32 bytes more than its length
/// (RFC 9113, 6.5.2), which also limits their number.
const MAX_HEADERS: usize = 32 * 1024;
const HEADER: usize = 32;

/// The headers that the host adds to most replies: a map that grows is allocated again and hashed
/// again.
const OF_THE_HOST: usize = 3;

/// The prefix of the host's own headers.
const OSTRAKON: &str = "ostrakon-";

pub(super) fn check(response: Response, max_bytes: usize) -> Result<Reply, Failure> {
    let status = StatusCode::from_u16(response.status)
        .ok()
        .filter(|status| (200..=599).contains(&status.as_u16()))
        .ok_or_else(|| {
            Failure::Reply(format!(
                "status {} is not within 200..=599",
                response.status
            ))
        })?;
    let said = response.headers.iter();
    let said: usize = said.map(|given| given.name.len() + given.value.len()).sum();
    let counted = said + response.headers.len() * HEADER;
    if counted > MAX_HEADERS {
        return Err(Failure::Reply(format!(
            "headers have {counted} bytes, each with {HEADER} beside what it says: more than {MAX_HEADERS}"
        )));
    }
    let bytes = response.body.len() + said;
    let mut headers = HeaderMap::with_capacity(response.headers.len() + OF_THE_HOST);
    for given in response.headers {
        let name = HeaderName::from_bytes(given.name.as_bytes()).map_err(|_| {
            Failure::Reply(format!("{:?} is not a header name", shown(&given.name)))
        })?;
        if HOST_ONLY.contains(&name) || name.as_str().starts_with(OSTRAKON) {
            return Err(Failure::Reply(format!(
                "only the host can set header {name}"
            )));
        }
        // Without a copy.
        let value = HeaderValue::from_maybe_shared(Bytes::from(given.value)).map_err(|_| {
            Failure::Reply(format!(
                "header {name} has a value with a byte that HTTP does not allow"
            ))
        })?;
        headers.append(name, value);
    }
    if bytes > max_bytes {
        return Err(Failure::Reply(format!(
            "headers and body have {bytes} bytes, more than {max_bytes} (`max_reply_bytes`)"
        )));
    }
    Ok(Reply {
        status,
        headers,
        body: response.body.into(),
        discard: response.discard,
    })
}

/// The beginning of a name that the guest chose.
fn shown(name: &str) -> &str {
    &name[..name.floor_char_boundary(64)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::ostrakon::shard::types::HeaderResult as Header;

    #[track_caller]
    fn refused(change: impl FnOnce(&mut Response)) -> String {
        let mut response = Response {
            status: 200,
            headers: vec![],
            body: b"body".to_vec(),
            discard: false,
        };
        check(response.clone(), 100).expect("it is good before the change");
        change(&mut response);
        check(response, 100).expect_err("it is refused").to_string()
    }

    fn with(name: &str, value: &[u8]) -> impl FnOnce(&mut Response) {
        let header = Header {
            name: name.to_owned(),
            value: value.to_vec(),
        };
        move |response| response.headers.push(header)
    }

    #[test]
    fn a_reply_that_cannot_be_sent_is_refused_with_its_reason() {
        assert!(refused(|response| response.status = 42).contains("42"));
        assert!(refused(|response| response.status = 100).contains("100"));
        assert!(refused(|response| response.status = 600).contains("600"));
        assert!(refused(with("a b", b"")).contains("not a header name"));
        assert!(refused(with("", b"")).contains("not a header name"));
        assert!(refused(with("x", b"a\r\nset-cookie: b")).contains("does not allow"));
        assert!(refused(with("Content-Length", b"1")).contains("only the host"));
        assert!(refused(with("Ostrakon-Shard", b"1")).contains("only the host"));
        assert!(refused(|response| response.body = vec![0; 101]).contains("101"));
        assert!(refused(with("x", &[b'a'; 96])).contains("101"));
        let large = vec![b'a'; MAX_HEADERS - HEADER];
        assert!(refused(with("x", &large)).contains("headers have 32769 bytes"));
        let many = |response: &mut Response| {
            let all = (0..=MAX_HEADERS / (HEADER + 1)).map(|_| ("x", b""));
            all.for_each(|(name, value)| with(name, value)(response));
        };
        assert!(refused(many).contains("headers have 32769 bytes"));
    }

    #[test]
    fn names_are_taken_in_any_case_and_repeated_headers_stay() {
        let mut response = Response {
            status: 599,
            headers: vec![],
            body: vec![],
            discard: true,
        };
        with("Set-Cookie", b"a")(&mut response);
        with("set-cookie", b"\xff")(&mut response);
        let reply = check(response, 100).expect("it is good");
        let values: Vec<_> = reply.headers.get_all("set-cookie").iter().collect();
        assert_eq!(values, [b"a".as_slice(), b"\xff"]);
        assert!(reply.discard);
    }
}
