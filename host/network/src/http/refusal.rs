//! The answers that the host gives itself.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};

use super::date::date;

/// The header that names the refusal, for programs.
const ERROR: HeaderName = HeaderName::from_static("ostrakon-error");

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident: $status:ident $code:literal $text:literal,)+) => {
        /// Why the host answers a request itself, in the guest's place.
        ///
        /// Each refusal has a status, one line of text for people, and a code for programs in the
        /// header `ostrakon-error`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Refusal {
            $($(#[$doc])* $variant,)+
        }

        impl Refusal {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)+ }
            }

            /// The code for programs, in kebab case.
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The answer's body: one line of text.
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

refusals! {
    /// Another shard has the partition, and the client is to send the request there.
    Redirected: TEMPORARY_REDIRECT "redirected"
        "another shard has this partition: send the same request to the address in the location header\n",
    /// The request is not valid HTTP.
    BadRequest: BAD_REQUEST "bad-request"
        "the request is not valid http: check its request line, headers and body framing\n",
    /// The partition's key is empty or too long.
    BadPartitionKey: BAD_REQUEST "bad-partition-key"
        "the partition key is empty or too long: use 1 byte to store.max_partition_key_bytes\n",
    /// A plain request arrived on a TLS port.
    HttpsOnly: BAD_REQUEST "https-only"
        "this port speaks https only: ask again with https:// in place of http://\n",
    /// The request has no token.
    NoToken: UNAUTHORIZED "no-token"
        "a token is required: send one that is accepted here as authorization: bearer <token>\n",
    /// The request's token is not, or no longer, accepted.
    WrongToken: UNAUTHORIZED "wrong-token"
        "the token is not, or no longer, accepted here: send an accepted one\n",
    /// The client's certificate is missing, or not, or no longer, accepted.
    ClientCertificate: FORBIDDEN "client-certificate"
        "this connection's client certificate is missing or no longer accepted: connect again with one from an authority that is known here\n",
    /// The caller may not use this operation.
    Forbidden: FORBIDDEN "forbidden"
        "this is allowed with a token, or from the same machine but not from a web page there: call it from within the pod, or put admin-token into the secret\n",
    NotFound: NOT_FOUND "not-found"
        "there is nothing at this path: check the url\n",
    /// The path does not offer this method.
    MethodNotAllowed: METHOD_NOT_ALLOWED "method-not-allowed"
        "this path does not offer this method: see the allow header\n",
    /// The headers came too slowly.
    HeaderTime: REQUEST_TIMEOUT "header-time"
        "the headers did not arrive in time: send the request again, faster\n",
    /// The body came too slowly.
    BodyTime: REQUEST_TIMEOUT "body-time"
        "the body did not arrive in time: send the request again, faster or in smaller parts\n",
    BodySize: PAYLOAD_TOO_LARGE "body-size"
        "the body is too large: send less, or raise max_body_bytes\n",
    /// The request target is too long.
    UriSize: URI_TOO_LONG "uri-size"
        "the request's target is too long: send a shorter path and query\n",
    /// Another shard has the partition, and nothing was written.
    Misplaced: MISDIRECTED_REQUEST "misplaced"
        "another shard has this partition, and nothing was written: send the request to the shard that the ostrakon-shard header names\n",
    /// The headers are too large.
    HeaderSize: REQUEST_HEADER_FIELDS_TOO_LARGE "header-size"
        "the request line and headers are too large, or more than 100: send less, or raise max_header_bytes\n",
    /// The host failed, which is a bug in the host.
    Internal: INTERNAL_SERVER_ERROR "internal"
        "the host failed to answer: see its log\n",
    /// The host does not offer the requested feature at all.
    NotImplemented: NOT_IMPLEMENTED "not-implemented"
        "this is not offered: use no transfer coding but chunked, and do not ask for a tunnel\n",
    GuestTrapped: INTERNAL_SERVER_ERROR "guest-trapped"
        "the guest trapped and nothing was stored: see the host's log\n",
    /// The guest's reply cannot be sent.
    GuestReply: INTERNAL_SERVER_ERROR "guest-reply"
        "the guest's reply is not valid and nothing was stored: see the host's log\n",
    /// The guest used more memory than its limit.
    GuestMemory: INTERNAL_SERVER_ERROR "guest-memory"
        "the guest ran out of memory and nothing was stored: ask for less, or raise the limit\n",
    /// A part of the data is damaged.
    StoreDamaged: INTERNAL_SERVER_ERROR "store-damaged"
        "a part of the data is damaged and nothing was stored: see the shard's status and log, and restore a backup\n",
    /// The guest missed its deadline.
    GuestDeadline: GATEWAY_TIMEOUT "guest-deadline"
        "the guest missed its deadline and nothing was stored: ask for less, or raise the deadline\n",
    /// There are too many connections.
    Connections: SERVICE_UNAVAILABLE "connections"
        "there are too many connections: try again later, or raise max_connections\n",
    /// The heads of all requests together take too much memory.
    Heads: SERVICE_UNAVAILABLE "heads"
        "the lines and headers of all requests together, or of this connection's, take too much memory: try again later, or raise max_heads_bytes\n",
    /// The bodies of all requests together are too large.
    Bodies: SERVICE_UNAVAILABLE "bodies"
        "the bodies of all requests together are too large: try again later, or raise max_bodies_bytes\n",
    /// The replies that clients have not taken yet are too large together.
    Replies: SERVICE_UNAVAILABLE "replies"
        "the replies that clients, or this one, have not taken yet are too large together: take them, try again later, or raise max_replies_bytes\n",
    /// The writer's queue is full.
    WriterFull: SERVICE_UNAVAILABLE "writer-full"
        "too many writes are waiting: try again later\n",
    /// The request waited too long for the writer; it did not run.
    WriterWait: SERVICE_UNAVAILABLE "writer-wait"
        "the write waited too long for its turn and did not run: try again later\n",
    /// Too many slow reads are running.
    SlowReads: SERVICE_UNAVAILABLE "too-many-slow-reads"
        "too many slow reads are running: try again later\n",
    /// The shard that has the partition, or one of the shards that must answer, is away; nothing
    /// was run.
    ShardAway: SERVICE_UNAVAILABLE "shard-away"
        "a shard that must answer is away, and nothing was run: try again later\n",
    /// The shard that has the partition received the write and did not answer.
    OutcomeUnknown: BAD_GATEWAY "outcome-unknown"
        "the shard that has this partition did not answer: it may or may not have written; read before you try again\n",
    /// Another shard ran the write, but there is no room here for its reply.
    ReplyDropped: BAD_GATEWAY "reply-dropped"
        "the write was run, but its reply was dropped, because the replies that clients have not taken yet are too large together: read before you try again\n",
    /// There is no live generation yet.
    NoGeneration: SERVICE_UNAVAILABLE "no-generation"
        "the shard has no live guest yet: try again later, and see its status\n",
    ShuttingDown: SERVICE_UNAVAILABLE "shutting-down"
        "_shutting_down_",
    /// The store cannot be read or written.
    StoreFailed: SERVICE_UNAVAILABLE "store-failed"
        "the store failed and the request's outcome was not acknowledged: try again, and see the host's log\n",
    /// The data file is no longer where it was opened.
    StoreMissing: SERVICE_UNAVAILABLE "store-missing"
        "the shard's data file was moved or removed and nothing was stored: put it back, and see the shard's status\n",
    StoreFull: INSUFFICIENT_STORAGE "store-full"
        "the disk is full and nothing was stored: free some space, or enlarge the volume\n",
}

impl Refusal {
    /// The answer. A 503 carries a `retry-after` of one second, a 401 names the scheme to
    /// authenticate with.
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
            Self::NoToken => {
                let scheme = "Bearer realm=\"ostrakon\"";
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
            }
            Self::WrongToken => {
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

    /// The answer, with a reason appended to its line.
    pub fn explained(self, why: &str) -> Response<Bytes> {
        let line = format!("{} ({why})\n", self.text().trim_end());
        self.response().map(|_| line.into())
    }

    /// The answer, with the header that closes an HTTP/1 connection.
    pub(super) fn closing(self) -> Response<Bytes> {
        let mut response = self.response();
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }

    /// The closing answer in HTTP/1 wire format, for use where there is no request to answer.
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_reference_has_exactly_these_codes_with_their_status() {
        let readme = include_str!("../../../README.md");
        let rows = readme
            .lines()
            .skip_while(|line| !line.starts_with("| code | status | cause |"))
            .skip(2)
            .take_while(|line| line.starts_with('|'));
        let shown: HashSet<_> = rows
            .map(|row| {
                let cells: Vec<_> = row.split('|').map(str::trim).collect();
                (cells[1].trim_matches('`').to_owned(), cells[2].to_owned())
            })
            .collect();
        let all = Refusal::ALL.iter();
        let all: HashSet<_> = all
            .map(|refusal| {
                (
                    refusal.code().to_owned(),
                    refusal.status().as_str().to_owned(),
                )
            })
            .collect();
        assert_eq!(shown, all, "host/README.md, and the refusals");
    }

    #[test]
    fn every_refusal_is_one_lower_case_line_with_a_code_of_its_own() {
        let mut codes = HashSet::new();
        for refusal in Refusal::ALL {
            let (code, text) = (refusal.code(), refusal.text());
            assert!(codes.insert(code), "{code} twice");
            assert!(
                code.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-'),
                "{code}"
            );
            assert_eq!(text, text.to_lowercase());
            assert_eq!(text.trim_end_matches('\n').lines().count(), 1, "{text}");
            assert!(!text.trim_end().ends_with('.'), "{text}");
            let response = refusal.response();
            assert_eq!(response.headers()["ostrakon-error"], code);
            assert_eq!(
                response.headers().contains_key(RETRY_AFTER),
                response.status() == 503
            );
            assert_eq!(
                response.headers().contains_key(WWW_AUTHENTICATE),
                response.status() == 401
            );
        }
    }

    #[test]
    fn shutting_down_is_said_as_the_courses_store_says_it() {
        let response = Refusal::ShuttingDown.response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.body(), "_shutting_down_");
        assert_eq!(response.headers()[RETRY_AFTER], "1");
    }
}
