//! Who a shard says it is.

use std::fmt;

/// The identity of one shard process, as told in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The place of the shard in the cluster.
    pub ordinal: u32,
    /// The number of this life of the shard; a restart has another one.
    pub incarnation: u64,
    /// The identity of the store that the shard keeps.
    pub store: u128,
}

impl fmt::Display for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{}/{}@{:032x}",
            self.ordinal, self.incarnation, self.store
        )
    }
}
