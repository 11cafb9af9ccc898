//! The response to a client.

use serde::Serialize;

use crate::{Header, Request, Response};

/// The builders do not check the contract's limits: a response that HTTP or the host does not allow fails the request
/// with 500.
impl Response {
    /// An empty response with a status of 200..=599.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            discard: false,
        }
    }

    /// A 200 with a text as its body.
    pub fn text(body: impl Into<String>) -> Self {
        Self::bytes("text/plain; charset=utf-8", body.into())
    }

    /// A 200 with an HTML page as its body. Texts in it have to be [escaped](crate::html::escape).
    pub fn html(page: impl Into<String>) -> Self {
        Self::bytes("text/html; charset=utf-8", page.into())
    }

    /// Sends the client to another page, to be fetched with `GET`: 303, as after a form. The location is a path of this
    /// service, or a URL.
    pub fn see_other(location: &str) -> Self {
        Self::new(303).header("location", location)
    }

    /// The same response for a `GET`, with a version that the client may keep: 304 without a body if it has this version
    /// already. The version consists of visible ASCII characters without quotes, and changes whenever the response does.
    #[must_use]
    pub fn versioned(self, request: &Request, version: &str) -> Self {
        let tag = ["\"", version, "\""].concat();
        let known = request.header("if-none-match");
        let mut known = known
            .iter()
            .filter_map(|line| std::str::from_utf8(line).ok());
        let is_known = known.any(|line| {
            let mut tags = line.split(',').map(str::trim);
            tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
        });
        let response = if is_known { Self::new(304) } else { self };
        response
            .header("etag", tag)
            .header("cache-control", "no-cache")
    }

    /// A 200 with any bytes as its body, and their content type.
    pub fn bytes(content_type: impl Into<Vec<u8>>, body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            ..Self::new(200)
        }
        .header("content-type", content_type)
    }

    /// A 200 with a value, written as JSON, as its body.
    ///
    /// # Panics
    /// If the value cannot be JSON, such as a map with keys that are not texts.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Self {
        let body = crate::json(value);
        Self::bytes("application/json", body)
    }

    /// The same response with another status, 200..=599.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Adds a header. A name may have several.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push(Header {
            name: name.into(),
            value: value.into(),
        });
        self
    }

    /// The same response, but nothing that the request wrote is stored.
    #[must_use]
    pub fn discard(mut self) -> Self {
        self.discard = true;
        self
    }
}
