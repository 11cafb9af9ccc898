//! The credentials of peers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use ostrakon_network::tls::{Authorities, Mutual, NoAuthorities, Pair, PairError, Problem};
use ostrakon_observe::metrics::Guarded;
use ostrakon_peers::{Credentials, Demand, Token, TokenError, Tokens};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Port, Values};

/// The protocol name of connections between shards in TLS (ALPN), so that a connection of
/// another protocol with the same certificate is not mistaken for one.
const PROTOCOL: &[u8] = b"ostrakon-peers";

/// Why the Secret's keys for peers are refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeersError {
    /// Peers on other machines could not be told from strangers.
    #[error(
        "the peer port {0} can be reached from elsewhere: put `peer-token`, or `peer-ca.crt`, `peer.crt` and `peer.key`, into the Secret, or listen on a loopback address"
    )]
    None(SocketAddr),
    #[error("`peer-token` in the Secret cannot be used: {0}")]
    Token(#[from] TokenError),
    #[error("`peer-token` in the Secret has no token: put one on a line, or take the key away")]
    NoToken,
    #[error("`peer-ca.crt` in the Secret cannot be used: {0}")]
    Authorities(#[from] NoAuthorities),
    /// TLS needs all its keys, and one is missing.
    #[error("the Secret has `peer-ca.crt` and no `{0}`: put it there, or take `peer-ca.crt` away")]
    Missing(&'static str),
    /// The certificate or its key cannot be used.
    #[error("`{certificate}` and its key in the Secret cannot be used: {source}")]
    Pair {
        /// The certificate's key in the Secret.
        certificate: &'static str,
        source: PairError,
    },
    #[error(
        "`{certificate}` in the Secret would be refused by peers that have this `peer-ca.crt`: {source}"
    )]
    Own {
        /// The certificate's key in the Secret.
        certificate: &'static str,
        source: Problem,
    },
    /// The value is not a known word.
    #[error(
        "`peer-auth` in the Secret is neither `all` nor `any`: write one of them, or take the key away"
    )]
    Demand,
}

/// The port for peers, and the subscribers to its credentials.
pub(in crate::app) struct PeersPort {
    listen: SocketAddr,
    follow: watch::Sender<Arc<Credentials>>,
}

impl PeersPort {
    pub(in crate::app) fn new(listen: SocketAddr) -> Self {
        let follow = watch::Sender::new(Arc::default());
        Self { listen, follow }
    }

    /// The credentials that connections use.
    pub(in crate::app) fn subscribe(&self) -> watch::Receiver<Arc<Credentials>> {
        self.follow.subscribe()
    }
}

impl Port for PeersPort {
    type Made = Credentials;
    type Error = PeersError;

    const NAME: Guarded = Guarded::Peers;
    const KEYS: &'static [&'static str] = &[
        "peer-token",
        "peer-ca.crt",
        "peer.crt",
        "peer.key",
        "tls.crt",
        "tls.key",
        "peer-auth",
    ];

    fn make(
        &self,
        values: &Values,
        _: Option<&Credentials>,
        now: SystemTime,
    ) -> Result<Credentials, PeersError> {
        let tokens = values.get("peer-token");
        let tokens = tokens.map_or(Ok(Tokens::none()), read_tokens)?;
        let tls = match values.get("peer-ca.crt") {
            None => None,
            Some(authorities) => {
                let authorities = Authorities::read(authorities)?;
                let (certificate, pair) = read_pair(values, now)?;
                let mutual =
                    Mutual::new(pair, authorities, PROTOCOL).map_err(|source| PeersError::Own {
                        certificate,
                        source,
                    })?;
                Some(mutual)
            }
        };
        let demand = Demand::read(values.get("peer-auth")).ok_or(PeersError::Demand)?;
        if tls.is_none() && tokens.is_empty() && !self.listen.ip().is_loopback() {
            return Err(PeersError::None(self.listen));
        }
        Ok(Credentials {
            tokens,
            tls,
            demand,
        })
    }

    fn put_in_force(&self, made: &Arc<Credentials>) {
        self.follow.send_replace(Arc::clone(made));
    }

    fn status(made: &Credentials) -> Value {
        json!({
            "tokens": made.tokens.len(),
            "tls": made.tls.is_some(),
            "demand": made.demand.name(),
        })
    }

    fn pair(made: &Credentials) -> Option<&Pair> {
        made.tls.as_ref().map(Mutual::pair)
    }
}

/// The certificate for peers with its key, and its name in the Secret: one of its own, or else
/// the one for clients.
fn read_pair(values: &Values, now: SystemTime) -> Result<(&'static str, Pair), PeersError> {
    let has_own = ["peer.crt", "peer.key"]
        .iter()
        .any(|key| values.get(key).is_some());
    let (certificate, key) = if has_own {
        ("peer.crt", "peer.key")
    } else {
        ("tls.crt", "tls.key")
    };
    let value = |name| values.get(name).ok_or(PeersError::Missing(name));
    let pair = Pair::read(value(certificate)?, value(key)?);
    let pair = pair.and_then(|pair| pair.check(now).map(|()| pair));
    match pair {
        Ok(pair) => Ok((certificate, pair)),
        Err(source) => Err(PeersError::Pair {
            certificate,
            source,
        }),
    }
}

/// The tokens in a file: each line is one, and this shard proves the first to its peers.
fn read_tokens(lines: &[u8]) -> Result<Tokens, PeersError> {
    let lines = lines.split(|byte| *byte == b'\n');
    let lines = lines
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty());
    let tokens = lines.map(|line| Token::new(line.to_vec()));
    let tokens: Vec<_> = tokens.collect::<Result<_, _>>()?;
    if tokens.is_empty() {
        return Err(PeersError::NoToken);
    }
    Ok(Tokens::new(tokens))
}
