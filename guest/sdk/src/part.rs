//! A shard's part of the response to a request to all shards.

use serde::de::DeserializeOwned;

use crate::{Description, Error, Response, Result, bindings::ostrakon::shard::types, imports};

/// One shard's response to a request that is routed [everywhere](crate::Route::everywhere).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The shard's ordinal.
    pub shard: u32,
    /// What `handle` returned there.
    pub response: Response,
}

/// The generation of a guest that gave a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Whether it is the one that joins the parts: the same component with the same settings.
    pub same: bool,
    /// How it describes itself.
    pub description: Description,
}

impl From<types::Part> for Part {
    fn from(types::Part { shard, response }: types::Part) -> Self {
        Self { shard, response }
    }
}

impl Part {
    /// The generation that gave this part: while a new one goes live, some shards may still have the one before. `None`
    /// if the shard's host is too old to say.
    pub fn generation(&self) -> Option<Generation> {
        let generation = imports::request_part_generation(self.shard)?;
        Some(Generation {
            same: generation.same,
            description: generation.description,
        })
    }

    /// The body of a shard's 200.
    ///
    /// # Errors
    /// 503, `incomplete`, if the shard answered otherwise: the joined response would lack its part.
    pub fn body(&self) -> Result<&[u8]> {
        if self.response.status == 200 {
            Ok(&self.response.body)
        } else {
            let status = self.response.status.to_string();
            Err(self.failed(&["answered with status ", &status].concat()))
        }
    }

    /// The body of a shard's 200, read as JSON.
    ///
    /// # Errors
    /// 503, `incomplete`, if the shard answered otherwise, or its body is not such a value: see
    /// [`unreadable`](Self::unreadable).
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(self.body()?).map_err(|error| self.unreadable(&error.to_string()))
    }

    /// The error for a part that cannot be read, for this reason: 503, `incomplete`. It says whether the part is of
    /// another generation.
    pub fn unreadable(&self, why: &str) -> Error {
        let other = self.generation().filter(|generation| !generation.same);
        let of = match &other {
            Some(Generation { description, .. }) => [
                " of another generation (",
                &description.name,
                " ",
                &description.version,
                ")",
            ]
            .concat(),
            None => String::new(),
        };
        self.failed(&["gave a part", &of, " that cannot be read (", why, ")"].concat())
    }

    fn failed(&self, what: &str) -> Error {
        let shard = self.shard.to_string();
        let message = ["shard ", &shard, " ", what, ": retry"].concat();
        Error::new(503, "incomplete", message).header("retry-after", "1")
    }
}
