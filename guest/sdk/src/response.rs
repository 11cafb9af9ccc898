//! The response to a client.

use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Header, Part, Response, Result};

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

impl Part {
    /// The body of a shard's 200.
    ///
    /// # Errors
    /// 503, `incomplete`, if the shard answered otherwise: the joined response would lack its part.
    pub fn body(&self) -> Result<&[u8]> {
        if self.response.status == 200 {
            Ok(&self.response.body)
        } else {
            Err(self.incomplete())
        }
    }

    /// The body of a shard's 200, read as JSON.
    ///
    /// # Errors
    /// 503, `incomplete`, if the shard answered otherwise, or its body is not such a value.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(self.body()?).map_err(|_| self.incomplete())
    }

    /// The error for a response that would lack this part: 503, `incomplete`, with the shard's number.
    pub fn incomplete(&self) -> Error {
        let message = [
            "shard ",
            &self.shard.to_string(),
            " returned no part of the response: retry",
        ]
        .concat();
        Error::new(503, "incomplete", message).header("retry-after", "1")
    }
}
