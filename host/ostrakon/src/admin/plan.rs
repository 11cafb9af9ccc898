//! `/plan`: what another number of shards or another guest would move.

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Method, Response, StatusCode, Uri, request};
use ostrakon_network::http::refusals;
use serde_json::Value;

use super::{JSON, LIMITS, TEXT, answer};

/// The longest body of every request without a component.
const SMALL: usize = 1024;
const USAGE: &str = "ask for /plan?shards=N, with the number of shards as N";

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoAnswer {
    pub status: StatusCode,
    /// The reason, and what to do.
    pub why: String,
}

/// The response to a request whose body must not be read, because only components may be long.
pub(super) fn refuse(head: &request::Parts) -> Option<Response<Bytes>> {
    if head.method == Method::POST && ["/plan", super::REHEARSE].contains(&head.uri.path()) {
        return None;
    }
    let length = head.headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    length
        .is_some_and(|length: usize| length > SMALL && length <= LIMITS.max_body_bytes)
        .then(|| refusals::BODY_SIZE.response())
}

/// The number of shards in the query.
pub(super) fn shards(uri: &Uri) -> Result<u32, NoAnswer> {
    let number = uri.query().and_then(|query| query.strip_prefix("shards="));
    let number = number.and_then(|number| number.parse().ok());
    number.ok_or_else(|| NoAnswer {
        status: StatusCode::BAD_REQUEST,
        why: USAGE.to_owned(),
    })
}

pub(super) fn told(found: Result<Value, NoAnswer>) -> Response<Bytes> {
    match found {
        Ok(plan) => answer(StatusCode::OK, JSON, format!("{plan:#}\n")),
        Err(NoAnswer { status, why }) => answer(status, TEXT, format!("{why}\n")),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn the_number_of_shards_is_the_whole_question() {
        let of = |path: &str| shards(&path.parse().unwrap());
        assert_eq!(of("/plan?shards=5"), Ok(5));
        for wrong in [
            "/plan",
            "/plan?",
            "/plan?shards=",
            "/plan?shards=-1",
            "/plan?shards=5&shards=6",
            "/plan?shard=5",
        ] {
            assert_eq!(of(wrong).unwrap_err().status, 400, "{wrong}");
        }
    }

    #[test]
    fn nothing_but_a_component_is_long() {
        let refused = |method: &str, path: &str, length: u64| {
            let request = Request::builder().method(method).uri(path);
            let request = request.header(CONTENT_LENGTH, length).body(()).unwrap();
            let refused = refuse(&request.into_parts().0);
            refused.map(|response| response.status().as_u16())
        };
        assert_eq!(refused("POST", "/plan?shards=5", 1 << 20), None);
        assert_eq!(refused("GET", "/plan?shards=5", 0), None);
        assert_eq!(refused("POST", "/drain", 1 << 20), Some(413));
        assert_eq!(refused("GET", "/status", 1024), None);
    }
}
