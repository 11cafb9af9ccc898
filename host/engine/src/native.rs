//! Answers `/load/<key>` and `/save/<key>/<word>` in native code instead of the guest, as a
//! baseline for the benches. It does the same work on the same transactions, and gives the same
//! replies; the guest answers all other requests.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use ostrakon_contract::contract::{Access, Reply, Request, Route, Target};
use ostrakon_store::{Group, ReadError, Transaction};
use sha2::{Digest, Sha256};

use super::instance::ReadData;

/// The key/value guest's only entry of a partition: half a SHA-256 of the rest, the length of the
/// content type (1 byte), the content type, the body.
const ENTRY: &[u8] = b"item";
const TAG: usize = 16;
const TEXT: &str = "text/plain; charset=utf-8";

/// A request that is answered natively.
pub(super) enum Call<'a> {
    Load { key: &'a str },
    Save { key: &'a str, word: &'a str },
}

impl<'a> Call<'a> {
    /// The native call for a request; none if the guest must answer it.
    pub(super) fn of(request: &'a Request) -> Option<Self> {
        if request.method != Method::GET || request.path.contains(['%', '?']) {
            return None;
        }
        let mut parts = request.path.split('/');
        match (
            parts.next()?,
            parts.next()?,
            parts.next()?,
            parts.next(),
            parts.next(),
        ) {
            ("", "load", key, None, None) if !key.is_empty() => Some(Self::Load { key }),
            ("", "save", key, Some(word), None) if !key.is_empty() && !word.is_empty() => {
                Some(Self::Save { key, word })
            }
            _ => None,
        }
    }

    pub(super) fn route(&self) -> Route {
        let (key, access) = match self {
            Self::Load { key } => (key, Access::Read),
            Self::Save { key, .. } => (key, Access::Write),
        };
        Route {
            target: Target::Partition(key.as_bytes().to_vec()),
            access,
            relaxed: false,
        }
    }

    pub(super) fn read(&self, data: &ReadData) -> Option<Result<Reply, ReadError>> {
        let (Self::Load { .. }, ReadData::Partition(partition, snapshot)) = (self, data) else {
            return None;
        };
        let found = snapshot.get(partition, ENTRY);
        Some(found.map(|item| match item {
            Some(item) => {
                let body = TAG + 1 + usize::from(item[TAG]);
                let content_type = HeaderValue::from_bytes(&item[TAG + 1..body]);
                let content_type = content_type.expect("it was a header's value when stored");
                reply(content_type, Bytes::from(item).slice(body..))
            }
            None => text(Bytes::from_static(b"_key_not_found_")),
        }))
    }

    /// Answers a save; returns the transaction if the request is not a save.
    pub(super) fn write(
        &self,
        mut transaction: Transaction,
    ) -> Result<(Group, Reply), Transaction> {
        let Self::Save { word, .. } = self else {
            return Err(transaction);
        };
        let length = [u8::try_from(TEXT.len()).expect("the text is short")];
        let tail = [&length, TEXT.as_bytes(), word.as_bytes()].concat();
        let item = [&Sha256::digest(&tail)[..TAG], &tail].concat();
        if transaction.set(ENTRY.to_vec(), item).is_err() {
            return Err(transaction);
        }
        Ok((
            transaction.commit(),
            text(Bytes::copy_from_slice(word.as_bytes())),
        ))
    }
}

fn text(body: Bytes) -> Reply {
    reply(HeaderValue::from_static(TEXT), body)
}

fn reply(content_type: HeaderValue, body: Bytes) -> Reply {
    Reply {
        status: StatusCode::OK,
        headers: HeaderMap::from_iter([(header::CONTENT_TYPE, content_type)]),
        body,
        discard: false,
    }
}
