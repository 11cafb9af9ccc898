//! The credentials of clients: TLS, client certificates, and tokens.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::SystemTime;

use http::header::AUTHORIZATION;
use http::request;
use ostrakon_network::bearer::{BearerTokens, TokensError};
use ostrakon_network::http::{Caller, Door, Refusal};
use ostrakon_network::tls::{Authorities, Need, NoAuthorities, Pair, PairError, Problem, Server};
use ostrakon_observe::metrics::Guarded;
use ostrakon_peers::Demand;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Port, Values};

/// The protocols offered in TLS (ALPN), the preferred one first.
const PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Why the Secret's keys for clients are refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientsError {
    /// TLS needs both keys, and only one is there.
    #[error("the Secret has `{there}` and no `{missing}`: put it there, or take `{there}` away")]
    Missing {
        there: &'static str,
        missing: &'static str,
    },
    #[error("`tls.crt` and `tls.key` in the Secret cannot be used: {0}")]
    Pair(#[from] PairError),
    #[error("`client-ca.crt` in the Secret cannot be used: {0}")]
    Authorities(#[from] NoAuthorities),
    #[error("`tls.crt` and `client-ca.crt` in the Secret cannot be used: {0}")]
    Tls(#[from] Problem),
    #[error("`client-tokens` in the Secret cannot be used: {0}")]
    Tokens(#[from] TokensError),
    #[error(
        "the Secret has `client-token`, which is not a known key and keeps nobody out: call it `client-tokens`"
    )]
    Name,
    /// The value is not a known word.
    #[error(
        "`client-auth` in the Secret is neither `all` nor `any`: write one of them, or take the key away"
    )]
    Demand,
    /// Only HTTPS may be spoken, and it cannot be.
    #[error("--https-only is given and the Secret has no `tls.crt`: put it there with `tls.key`")]
    HttpsOnly,
    /// TLS traffic would go in the clear.
    #[error(
        "the Secret has no `tls.crt` and `tls.key` any more: a shard does not go from HTTPS to plain HTTP while it runs; put them back, or restart it"
    )]
    WouldBePlain,
    /// Clients that were kept out would be let in.
    #[error(
        "the Secret has neither `client-tokens` nor `client-ca.crt` any more: a shard does not open to everybody while it runs; put one back, or restart it"
    )]
    WouldBeOpen,
}

/// The credentials that clients must present.
#[derive(Debug)]
pub(in crate::app) struct Clients {
    tls: Option<Server>,
    tokens: Option<BearerTokens>,
    demand: Demand,
}

impl Clients {
    /// Admits a request, or returns the response that refuses it. The client's certificate has
    /// been checked already. Where the host checks tokens, no guest sees one.
    pub(in crate::app) fn admit(
        &self,
        head: &mut request::Parts,
        caller: &Caller,
    ) -> Result<(), Refusal> {
        let Some(tokens) = &self.tokens else {
            return Ok(());
        };
        let shown = tokens.check(&head.headers);
        head.headers.remove(AUTHORIZATION);
        match shown {
            Err(_) if self.demand == Demand::Any && caller.has_certificate() => Ok(()),
            shown => shown,
        }
    }

    fn are_known(&self) -> bool {
        let asks = self.tls.as_ref().and_then(Server::asks);
        asks.is_some() || self.tokens.is_some()
    }
}

/// The public port.
pub(in crate::app) struct ClientsPort {
    https_only: bool,
    door: watch::Sender<Option<Server>>,
}

impl ClientsPort {
    pub(in crate::app) fn new(https_only: bool) -> Self {
        let door = watch::Sender::new(None);
        Self { https_only, door }
    }

    /// Whether connections must use TLS.
    pub(in crate::app) fn door(&self) -> Door {
        self.door.subscribe()
    }
}

impl Port for ClientsPort {
    type Made = Clients;
    type Error = ClientsError;

    const NAME: Guarded = Guarded::Public;
    const KEYS: &'static [&'static str] = &[
        "tls.crt",
        "tls.key",
        "client-ca.crt",
        "client-token",
        "client-tokens",
        "client-auth",
    ];

    fn make(
        &self,
        values: &Values,
        before: Option<&Clients>,
        now: SystemTime,
    ) -> Result<Clients, ClientsError> {
        if values.get("client-token").is_some() {
            return Err(ClientsError::Name);
        }
        let tokens = values.get("client-tokens").map(BearerTokens::read);
        let tokens = tokens.transpose()?;
        let demand = Demand::read(values.get("client-auth")).ok_or(ClientsError::Demand)?;
        let need = match (demand, &tokens) {
            (Demand::Any, Some(_)) => Need::May,
            _ => Need::Must,
        };
        let tls = read_tls(values, need, now)?;
        let made = Clients {
            tls,
            tokens,
            demand,
        };
        if made.tls.is_none() {
            if before.is_some_and(|before| before.tls.is_some()) {
                return Err(ClientsError::WouldBePlain);
            }
            if self.https_only {
                return Err(ClientsError::HttpsOnly);
            }
        }
        if before.is_some_and(Clients::are_known) && !made.are_known() {
            return Err(ClientsError::WouldBeOpen);
        }
        Ok(made)
    }

    fn put_in_force(&self, made: &Arc<Clients>) {
        self.door.send_replace(made.tls.clone());
    }

    fn status(made: &Clients) -> Value {
        json!({
            "tls": made.tls.is_some(),
            "client_certificates": made.tls.as_ref().is_some_and(|tls| tls.asks().is_some()),
            "tokens": made.tokens.as_ref().map_or(0, BearerTokens::count),
            "demand": made.demand.name(),
        })
    }

    fn pair(made: &Clients) -> Option<&Pair> {
        made.tls.as_ref().map(Server::pair)
    }
}

/// The certificate to present, and what clients must present; `None` where plain HTTP is
/// spoken.
fn read_tls(values: &Values, need: Need, now: SystemTime) -> Result<Option<Server>, ClientsError> {
    let authorities = values.get("client-ca.crt").map(Authorities::read);
    let authorities = authorities.transpose()?;
    let missing = |there, missing| Err(ClientsError::Missing { there, missing });
    let pair = match (values.get("tls.crt"), values.get("tls.key")) {
        (Some(certificate), Some(key)) => Pair::read(certificate, key)?,
        (Some(_), None) => return missing("tls.crt", "tls.key"),
        (None, Some(_)) => return missing("tls.key", "tls.crt"),
        (None, None) if authorities.is_some() => return missing("client-ca.crt", "tls.crt"),
        (None, None) => return Ok(None),
    };
    pair.check(now)?;
    let clients = authorities.map(|authorities| (authorities, need));
    Ok(Some(Server::new(pair, clients, PROTOCOLS)?))
}
