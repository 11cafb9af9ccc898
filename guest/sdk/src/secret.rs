//! The Secret's values, by name.

use crate::imports;

/// A secret that says nothing until it is revealed. Ask for it in each request: it may have been rotated.
pub struct Secret(imports::SecretHandle);

impl Secret {
    /// The secret of a name, as it is now; none where there is no such key.
    pub fn named(name: &str) -> Option<Self> {
        imports::secret(name).map(Self)
    }

    /// The content at the time of [`Secret::named`]. The host keeps it out of all that it writes; so must the guest.
    pub fn reveal(&self) -> Vec<u8> {
        self.0.reveal()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret")
    }
}
