//! A request: its head, which determines the route, and the rest.

use std::{ops::Deref, time::Duration};

use serde::de::DeserializeOwned;

use crate::{Error, Header, Result, Shard, Store, imports, paths};

/// The method, path and query of a request and, on demand, its headers: everything that
/// [`Guest::route`](crate::Guest::route) knows.
#[derive(Clone, Debug)]
pub struct RequestHead {
    method: String,
    path_with_query: String,
}

impl RequestHead {
    /// A head with this method, and this path and query, percent-encoded as sent.
    pub fn new(method: impl Into<String>, path_with_query: impl Into<String>) -> Self {
        Self {
            method: method.into(),
            path_with_query: path_with_query.into(),
        }
    }

    /// The method as sent, such as `GET`.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The path without the query, percent-encoded as sent.
    pub fn path(&self) -> &str {
        self.path_with_query.split('?').next().unwrap_or_default()
    }

    /// The path's segments between its slashes, decoded: `/a/b%2Fc` has `a` and `b/c`.
    ///
    /// # Errors
    /// A malformed or non-UTF-8 percent-encoding, as status 400.
    pub fn segments(&self) -> Result<Vec<String>> {
        let path = self.path();
        path.strip_prefix('/')
            .unwrap_or(path)
            .split('/')
            .map(|segment| Ok(paths::decode(segment)?))
            .collect()
    }

    /// The first value of a name in the query, decoded as in HTML forms (`+` is a space).
    ///
    /// # Errors
    /// A malformed or non-UTF-8 percent-encoding, as status 400.
    pub fn query(&self, name: &str) -> Result<Option<String>> {
        let Some((_, query)) = self.path_with_query.split_once('?') else {
            return Ok(None);
        };
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if paths::decode_form(key)? == name {
                return Ok(Some(paths::decode_form(value)?));
            }
        }
        Ok(None)
    }

    /// The values of the headers with this name, in any case; each call asks the host.
    pub fn header(&self, name: &str) -> Vec<Vec<u8>> {
        imports::request_header(name)
    }

    /// All headers, in order; each call asks the host.
    pub fn headers(&self) -> Vec<Header> {
        imports::request_headers()
    }

    /// The value of a cookie that the client sent, as it was sent; the first one of the name.
    pub fn cookie(&self, name: &str) -> Option<String> {
        let headers = self.header("cookie");
        let lines = headers
            .iter()
            .filter_map(|line| std::str::from_utf8(line).ok());
        let mut pairs =
            lines.flat_map(|line| line.split(';').filter_map(|pair| pair.split_once('=')));
        let found = pairs.find(|(key, _)| key.trim() == name);
        found.map(|(_, value)| value.trim().trim_matches('"').to_owned())
    }

    /// In [`Guest::route`](crate::Guest::route) of a write: lets its reply leave before the write is durable, as soon as it has
    /// run. A write then takes microseconds instead of a sync of the disk.
    ///
    /// A crash may lose the writes that were answered last so, without a word to their clients: each whole, and never one
    /// before a write that survives. A read that follows may not see the write yet; a write does. For what is not worth a
    /// sync: a rate limiter's token, a counter of visits.
    pub fn relax(&self) {
        imports::request_relax();
    }

    /// Random bytes that no client can predict; each call gives the next ones. When the host runs or routes the request
    /// again, the guest gets the same bytes in the same order. `route`, `handle` and `gather` have bytes of their own.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let length = u32::try_from(N).unwrap_or(u32::MAX);
        let bytes = imports::request_random(length);
        bytes
            .try_into()
            .unwrap_or_else(|_| panic!("the host gives as many bytes as it is asked for"))
    }

    /// A new id of 128 random bits, as 32 hexadecimal digits.
    pub fn random_id(&self) -> String {
        let bytes: [u8; 16] = self.random();
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits
            .filter_map(|digit| char::from_digit(digit.into(), 16))
            .collect()
    }
}

/// A request: its head, its body, and, on demand, its data.
#[derive(Clone, Debug)]
pub struct Request {
    head: RequestHead,
    body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(head: RequestHead, body: Vec<u8>) -> Self {
        Self { head, body }
    }

    /// The whole body; empty if the request has none.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body, read as JSON.
    ///
    /// # Errors
    /// If the body is not such a value, as status 400.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| Error::bad_request(error.to_string()))
    }

    /// The time of this transaction, since 1970-01-01 UTC. It is the same each time it is asked, and when the host runs
    /// a read again. On one shard a write never has an earlier time than the write before it, until the host restarts.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(imports::request_now())
    }

    /// The key of the partition that `route` chose, such as one with [`RequestHead::random_id`]. `None` for other
    /// targets.
    pub fn partition(&self) -> Option<Vec<u8>> {
        imports::request_partition()
    }

    /// The ordinal of the shard that runs this request, from 0.
    pub fn ordinal(&self) -> u32 {
        imports::request_ordinal()
    }

    /// The number of shards, from 1; while partitions move, the future number.
    pub fn shards(&self) -> u32 {
        imports::request_shards()
    }

    /// The request's own partition. Using it traps unless the route named a partition.
    pub fn store(&self) -> Store {
        Store(())
    }

    /// The whole shard. Using it traps unless the route was `here` or `everywhere`.
    pub fn shard(&self) -> Shard {
        Shard(())
    }
}

/// A request has all methods of its head.
impl Deref for Request {
    type Target = RequestHead;

    fn deref(&self) -> &RequestHead {
        &self.head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_split_before_they_are_decoded() {
        let line = RequestHead::new("GET", "/a%2Fb/%C3%A9?c=/d");
        assert_eq!(line.segments().unwrap(), ["a/b", "é"]);
        assert_eq!(line.path(), "/a%2Fb/%C3%A9");
    }

    #[test]
    fn the_query_is_decoded_as_forms_are() {
        let line = RequestHead::new("GET", "/?a=1+2&b&c=%2B&a=3");
        assert_eq!(line.query("a").unwrap().as_deref(), Some("1 2"));
        assert_eq!(line.query("b").unwrap().as_deref(), Some(""));
        assert_eq!(line.query("c").unwrap().as_deref(), Some("+"));
        assert_eq!(line.query("d").unwrap(), None);
        assert_eq!(
            RequestHead::new("GET", "/?a=%f")
                .query("a")
                .unwrap_err()
                .status(),
            400
        );
    }
}
