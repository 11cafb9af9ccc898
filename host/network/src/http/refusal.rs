//! The answers that the host makes itself.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};

use super::date::date;

/// Names the refusal in an answer, for programs.
const ERROR: HeaderName = HeaderName::from_static("ostrakon-error");

/// Declares refusals as constants, and `ALL` of them: each with a name, a status, a code and
/// the text for people.
#[macro_export]
macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident: $status:ident $code:literal $text:literal,)+) => {
        $(
            $(#[$doc])*
            pub const $name: $crate::http::Refusal =
                $crate::http::Refusal::new(::http::StatusCode::$status, $code, $text);
        )+
        /// Each of these refusals.
        pub const ALL: &[$crate::http::Refusal] = &[$($name),+];
    };
}

/// Why the host answers a request itself: a status, one line of text for people, and a header
/// `ostrakon-error` with a code for programs. Those that HTTP and its callers need are here;
/// layers above have their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    status: StatusCode,
    code: &'static str,
    text: &'static str,
}

impl Refusal {
    /// A refusal with a code in kebab case, and a text that is one line in lower case.
    pub const fn new(status: StatusCode, code: &'static str, text: &'static str) -> Self {
        Self { status, code, text }
    }

    pub const fn status(self) -> StatusCode {
        self.status
    }

    /// The code for programs, in kebab case.
    pub const fn code(self) -> &'static str {
        self.code
    }

    /// The answer's body.
    pub const fn text(self) -> &'static str {
        self.text
    }
}

/// Refusals of HTTP and of authentication.
pub mod refusals {
    crate::refusals! {
        /// The request is not valid HTTP.
        BAD_REQUEST: BAD_REQUEST "bad-request"
            "the request is not valid http: check its request line, headers and body framing\n",
        /// The connection does not use TLS.
        HTTPS_ONLY: BAD_REQUEST "https-only"
            "this port speaks https only: use https:// instead of http://\n",
        /// The request has no token.
        NO_TOKEN: UNAUTHORIZED "no-token"
            "a token is required: send one with the header authorization: bearer <token>\n",
        /// The request's token is not accepted, or no longer accepted.
        WRONG_TOKEN: UNAUTHORIZED "wrong-token"
            "the token is not accepted, or no longer accepted: send a valid one\n",
        /// The client's certificate is not accepted, or no longer accepted.
        CLIENT_CERTIFICATE: FORBIDDEN "client-certificate"
            "this connection's client certificate is missing, or no longer accepted: reconnect with a certificate of an accepted authority\n",
        /// The operation is not for this caller.
        FORBIDDEN: FORBIDDEN "forbidden"
            "this is allowed only from the same machine, except from web pages there, or with a token: call it from within the pod, or put admin-token into the secret\n",
        /// There is nothing at this path.
        NOT_FOUND: NOT_FOUND "not-found"
            "there is nothing at this path: check the url\n",
        /// The path has no such method.
        METHOD_NOT_ALLOWED: METHOD_NOT_ALLOWED "method-not-allowed"
            "this path does not support this method: use one in the allow header\n",
        /// The headers came too slowly.
        HEADER_TIME: REQUEST_TIMEOUT "header-time"
            "the headers did not arrive in time: send the request again, faster\n",
        /// The body came too slowly.
        BODY_TIME: REQUEST_TIMEOUT "body-time"
            "the body did not arrive in time: send the request again, faster or in smaller parts\n",
        /// The body is too large.
        BODY_SIZE: PAYLOAD_TOO_LARGE "body-size"
            "the body is too large: send less; on the public port, http.max_body_bytes is the limit\n",
        /// The request target is too long.
        URI_SIZE: URI_TOO_LONG "uri-size"
            "the request's target is too long: send a shorter path and query\n",
        /// The headers are too large.
        HEADER_SIZE: REQUEST_HEADER_FIELDS_TOO_LARGE "header-size"
            "the request line and headers are too large, or there are more than 100 headers: send less; on the public port, http.max_header_bytes is the limit\n",
        /// The host failed: our bug.
        INTERNAL: INTERNAL_SERVER_ERROR "internal"
            "the host failed to answer: see its log\n",
        /// The request uses an unsupported feature.
        NOT_IMPLEMENTED: NOT_IMPLEMENTED "not-implemented"
            "this is not supported: use no transfer coding except chunked, and do not ask for a tunnel\n",
        /// There are too many connections.
        CONNECTIONS: SERVICE_UNAVAILABLE "connections"
            "there are too many connections: try again later, or raise max_connections\n",
        /// All heads together are too large.
        HEADS: SERVICE_UNAVAILABLE "heads"
            "the lines and headers of all requests together, or of this connection's requests, take too much memory: try again later, or raise max_heads_bytes\n",
        /// All bodies together are too large.
        BODIES: SERVICE_UNAVAILABLE "bodies"
            "the bodies of all requests together are too large: try again later, or raise max_bodies_bytes\n",
    }
}

impl Refusal {
    /// The answer. A 503 says to try again after a second, a 401 what is to be shown.
    pub fn response(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from_static(self.text().as_bytes()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(ERROR, HeaderValue::from_static(self.code()));
        match self {
            refusals::NO_TOKEN => {
                let scheme = "Bearer realm=\"ostrakon\"";
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
            }
            refusals::WRONG_TOKEN => {
                let scheme = "Bearer realm=\"ostrakon\", error=\"invalid_token\"";
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
            }
            _ if self.status() == StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }

    /// The answer, with the reason at the end of its line.
    pub fn explained(self, why: &str) -> Response<Bytes> {
        let line = format!("{} ({why})\n", self.text().trim_end());
        self.response().map(|_| line.into())
    }

    /// The answer, after which an HTTP/1 connection is closed.
    pub(super) fn closing(self) -> Response<Bytes> {
        let mut response = self.response();
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }

    /// The closing answer as HTTP/1 sends it, for where there is no request to answer.
    pub(super) fn http1(self) -> Vec<u8> {
        let response = self.closing();
        let mut wire = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
        for (name, value) in response.headers() {
            wire.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        let date = date(SystemTime::now());
        wire.extend([b"date: ", date.as_bytes(), b"\r\n"].concat());
        let length = response.body().len();
        wire.extend(format!("content-length: {length}\r\n\r\n").as_bytes());
        wire.extend_from_slice(response.body());
        wire
    }
}
