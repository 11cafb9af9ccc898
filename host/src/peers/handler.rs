//! What answers the requests of peers.

use bytes::Bytes;

use super::identity::Identity;

/// What answers the requests of peers.
pub trait Handler: Send + Sync + 'static {
    /// Decides whether a peer whose handshake went well may stay; the reason
    /// of a refusal is told to it.
    ///
    /// # Errors
    /// Why not.
    fn admit(&self, peer: &Identity) -> Result<(), String> {
        let _ = peer;
        Ok(())
    }

    /// Answers one request; the future is dropped if the connection ends.
    fn call(&self, peer: Identity, body: Bytes) -> impl Future<Output = Bytes> + Send;
}
