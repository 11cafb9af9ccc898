//! The collector's address, and lists in the format of OpenTelemetry's variables.

use std::str::FromStr;

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

/// The path of traces below the collector's address.
const TRACES: &str = "v1/traces";

/// The address to which traces are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The host and port.
    pub(super) authority: String,
    pub(super) path: PathAndQuery,
}

/// Why an address or a list is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoint {
    #[error("{0:?} is not a collector's address: write http://HOST:4318")]
    Address(String),
    #[error(
        "{0:?} is not an address for OTLP over plain HTTP: write http://HOST:4318, and have a collector nearby, on the node or in the namespace, forward it over TLS"
    )]
    Scheme(String),
    #[error("the protocol {0:?} is not supported: unset it, or write http/protobuf")]
    Protocol(String),
    /// A list is not one of names and values. The error omits it because it may be secret.
    #[error("write it as name=value,name=value, each value percent-encoded")]
    Pairs,
    /// The name is not a valid header name.
    #[error("{0:?} cannot be the name of a header")]
    Header(String),
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let bad = || BadEndpoint::Address(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| bad())?;
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => {}
            Some(_) => return Err(BadEndpoint::Scheme(text.to_owned())),
            None => return Err(bad()),
        }
        let authority = uri.authority().ok_or_else(bad)?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(bad());
        }
        let port = authority.port_u16().unwrap_or(80);
        let path = format!("{}/{TRACES}", uri.path().trim_end_matches('/'));
        Ok(Self {
            authority: format!("{}:{port}", authority.host()),
            path: path.parse().map_err(|_| bad())?,
        })
    }
}

/// Parses a list such as `a=1,b=2` into decoded names and values.
///
/// # Errors
/// When the text is not such a list.
pub fn pairs(list: &str) -> Result<Vec<(String, String)>, BadEndpoint> {
    let items = list
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    items
        .map(|item| {
            let (name, value) = item.split_once('=').ok_or(BadEndpoint::Pairs)?;
            let decoded = percent_encoding::percent_decode_str(value.trim()).decode_utf8();
            let value = decoded.map_err(|_| BadEndpoint::Pairs)?.into_owned();
            let name = name.trim();
            if name.is_empty() {
                return Err(BadEndpoint::Pairs);
            }
            Ok((name.to_owned(), value))
        })
        .collect()
}

/// Parses such a list into headers.
///
/// # Errors
/// When the text is not such a list, or its entries are not valid headers.
pub fn headers(list: &str) -> Result<HeaderMap, BadEndpoint> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs(list)? {
        let Ok(known) = HeaderName::try_from(&name) else {
            return Err(BadEndpoint::Header(name));
        };
        let mut value = HeaderValue::try_from(value).map_err(|_| BadEndpoint::Pairs)?;
        value.set_sensitive(true);
        headers.append(known, value);
    }
    Ok(headers)
}
