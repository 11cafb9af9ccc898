//! The value that is stored under a key: bytes with a content type.

use ostrakon_guest::{Error, Result, Store, StoreError};
use sha2::{Digest, Sha256};

/// The one entry of a key's partition: a 16-byte tag, the length of the content type (1 byte), the content type, the
/// body. This layout is schema 1.
pub(crate) struct Item(Vec<u8>);

const ENTRY: &[u8] = b"item";
const TAG: usize = 16;
const HEAD: usize = TAG + 1;
/// The content type of values that `/save` stores.
pub(crate) const TEXT: &[u8] = b"text/plain; charset=utf-8";

impl Item {
    /// A value of any bytes, with a content type of at most 255 bytes.
    pub(crate) fn new(content_type: &[u8], body: &[u8]) -> Result<Self> {
        let length = u8::try_from(content_type.len()).map_err(|_| {
            Error::new(
                400,
                "bad_content_type",
                "a content type has at most 255 bytes",
            )
        })?;
        let tail = [&[length], content_type, body].concat();
        // The tag is computed once, at the write, which keeps reads cheap.
        let digest = Sha256::digest(&tail);
        Ok(Self([&digest[..TAG], &tail].concat()))
    }

    pub(crate) fn text(body: &[u8]) -> Self {
        Self::new(TEXT, body).expect("the content type of a text is short")
    }

    pub(crate) fn load(store: Store) -> Option<Self> {
        store.get(ENTRY).map(Self)
    }

    pub(crate) fn store(&self, store: Store) -> Result<(), StoreError> {
        store.set(ENTRY, &self.0)
    }

    pub(crate) fn remove(store: Store) -> Result<bool, StoreError> {
        store.delete(ENTRY)
    }

    pub(crate) fn content_type(&self) -> &[u8] {
        &self.0[HEAD..self.body_start()]
    }

    /// The content type and the body, without a second copy of the body.
    pub(crate) fn into_parts(mut self) -> (Vec<u8>, Vec<u8>) {
        let content_type = self.content_type().to_vec();
        self.0.drain(..self.body_start());
        (content_type, self.0)
    }

    /// A strong validator (RFC 9110, section 8.8.3): half of the SHA-256 of content type and body, in quotes.
    pub(crate) fn etag(&self) -> String {
        let mut etag = String::with_capacity(2 * TAG + 2);
        etag.push('"');
        for byte in &self.0[..TAG] {
            for digit in [byte >> 4, byte & 15] {
                etag.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
            }
        }
        etag.push('"');
        etag
    }

    fn body_start(&self) -> usize {
        HEAD + usize::from(self.0[TAG])
    }
}
