//! The Secret's values, by name.

use crate::imports;

/// A secret that is not shown until it is revealed. Read it in each request, because it may have been rotated.
pub struct Secret(imports::SecretHandle);

impl Secret {
    /// The current secret with this name; `None` if there is no such key.
    pub fn named(name: &str) -> Option<Self> {
        imports::secret(name).map(Self)
    }

    /// The content at the time of [`Secret::named`]. The host never writes it anywhere, and the guest must not either.
    pub fn reveal(&self) -> Vec<u8> {
        self.0.reveal()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret")
    }
}
