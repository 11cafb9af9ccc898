//! A guest's description, and the route of a request.

use crate::{Access, Description, Route, Target};

impl Route {
    /// To the owner of a partition, to read it. The key has 1 to 1,024 bytes.
    pub fn read(partition: impl Into<Vec<u8>>) -> Self {
        Self {
            target: Target::Partition(partition.into()),
            access: Access::Read,
        }
    }

    /// To the owner of a partition, to read and write it. The key has 1 to 1,024 bytes.
    pub fn write(partition: impl Into<Vec<u8>>) -> Self {
        Self {
            target: Target::Partition(partition.into()),
            access: Access::Write,
        }
    }

    /// To the shard that got the request; also for the rejection of an invalid request.
    pub fn here() -> Self {
        Self {
            target: Target::Here,
            access: Access::Read,
        }
    }

    /// To each shard, and then to [`Guest::gather`](crate::Guest::gather).
    pub fn everywhere() -> Self {
        Self {
            target: Target::Everywhere,
            access: Access::Read,
        }
    }
}

impl Description {
    /// A guest with a name (1 to 64 bytes) and a version (at most 64) for people; sharding and schema are 1.
    pub fn new(name: &str, version: &str) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            sharding: 1,
            schema: 1,
        }
    }

    /// The same description with another version of the owner function.
    #[must_use]
    pub fn with_sharding(self, sharding: u32) -> Self {
        Self { sharding, ..self }
    }

    /// The same description with another version of the stored data's layout.
    #[must_use]
    pub fn with_schema(self, schema: u32) -> Self {
        Self { schema, ..self }
    }
}
