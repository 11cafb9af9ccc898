//! What peers know each other by, as the Secret has it now.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use super::status::unix_seconds;
use crate::metrics::Metrics;
use crate::peers::{Credentials, Demand, Token, TokenError, Tokens};
use crate::secrets::{Secret, Secrets};
use crate::tls::{Authorities, Mutual, NoAuthorities, Pair, PairError, Problem};

/// What streams between shards are called in TLS (ALPN), so that none of
/// another protocol with the same certificate is taken for one.
const PROTOCOL: &[u8] = b"ostrakon-peers";
/// How often what was refused is looked at again: a certificate becomes valid
/// without anything having changed.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Why what the Secret has for peers is not taken.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Peers from elsewhere could not be told from others.
    #[error(
        "the peer port {0} can be reached from elsewhere: put `peer-token`, or `peer-ca.crt`, `tls.crt` and `tls.key`, into the Secret, or listen on a loopback address"
    )]
    None(SocketAddr),
    /// A token is none.
    #[error("`peer-token` in the Secret cannot be used: {0}")]
    Token(#[from] TokenError),
    /// There is no line in it.
    #[error("`peer-token` in the Secret has no token: put one on a line, or take the key away")]
    NoToken,
    /// The authorities are none.
    #[error("`peer-ca.crt` in the Secret cannot be used: {0}")]
    Authorities(#[from] NoAuthorities),
    /// Half of what TLS takes.
    #[error("the Secret has `peer-ca.crt` and no `{0}`: put it there, or take `peer-ca.crt` away")]
    Missing(&'static str),
    /// The certificate or its key is of no use.
    #[error("`tls.crt` and `tls.key` in the Secret cannot be used: {0}")]
    Pair(#[from] PairError),
    /// No peer would believe the certificate.
    #[error("`tls.crt` in the Secret would be refused by peers that have this `peer-ca.crt`: {0}")]
    Own(#[from] Problem),
    /// A word that says nothing.
    #[error(
        "`peer-auth` in the Secret is neither `all` nor `any`: write one of them, or take the key away"
    )]
    Demand,
}

/// The values in the Secret that are for the peer port.
#[derive(Clone, Default)]
struct Values {
    tokens: Option<Secret>,
    authorities: Option<Secret>,
    certificate: Option<Secret>,
    key: Option<Secret>,
    demand: Option<Secret>,
}

impl Values {
    fn of(secrets: &Secrets) -> Self {
        let [tokens, authorities, certificate, key, demand] = secrets.get_together([
            "peer-token",
            "peer-ca.crt",
            "tls.crt",
            "tls.key",
            "peer-auth",
        ]);
        Self {
            tokens,
            authorities,
            certificate,
            key,
            demand,
        }
    }

    fn all(&self) -> [Option<&[u8]>; 5] {
        let Self {
            tokens,
            authorities,
            certificate,
            key,
            demand,
        } = self;
        [tokens, authorities, certificate, key, demand]
            .map(|value| value.as_ref().map(Secret::reveal))
    }

    /// What they are, if all of it can be used together.
    fn read(&self, listen: SocketAddr, now: SystemTime) -> Result<Credentials, CredentialsError> {
        let [tokens, authorities, certificate, key, demand] = self.all();
        let tokens = tokens.map_or(Ok(Tokens::none()), read_tokens)?;
        let tls = match authorities {
            None => None,
            Some(authorities) => {
                let authorities = Authorities::read(authorities)?;
                let certificate = certificate.ok_or(CredentialsError::Missing("tls.crt"))?;
                let key = key.ok_or(CredentialsError::Missing("tls.key"))?;
                let pair = Pair::read(certificate, key)?;
                pair.check(now)?;
                Some(Mutual::new(pair, authorities, PROTOCOL)?)
            }
        };
        let demand = match demand.map(<[u8]>::trim_ascii) {
            None | Some(b"all") => Demand::All,
            Some(b"any") => Demand::Any,
            Some(_) => return Err(CredentialsError::Demand),
        };
        if tls.is_none() && tokens.is_empty() && !listen.ip().is_loopback() {
            return Err(CredentialsError::None(listen));
        }
        Ok(Credentials {
            tokens,
            tls,
            demand,
        })
    }
}

/// The tokens in a file: each line is one, and the first is proved to others.
fn read_tokens(lines: &[u8]) -> Result<Tokens, CredentialsError> {
    let lines = lines.split(|byte| *byte == b'\n');
    let lines = lines
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty());
    let tokens = lines.map(|line| Token::new(line.to_vec()));
    let tokens: Vec<_> = tokens.collect::<Result<_, _>>()?;
    if tokens.is_empty() {
        return Err(CredentialsError::NoToken);
    }
    Ok(Tokens::new(tokens))
}

/// The credentials in force: those of the Secret, or, where they cannot be
/// used, those before. Clones share them.
#[derive(Clone)]
pub(super) struct PeerCredentials {
    secrets: Secrets,
    listen: SocketAddr,
    metrics: Arc<Metrics>,
    current: Arc<watch::Sender<Arc<Credentials>>>,
    problem: Arc<ArcSwapOption<CredentialsError>>,
}

impl PeerCredentials {
    /// The credentials to start with, and the task that follows the Secret.
    ///
    /// # Errors
    /// When they cannot be used.
    pub(super) fn start(
        secrets: &Secrets,
        listen: SocketAddr,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, CredentialsError> {
        // Before they are read, so that no change is missed.
        let changes = secrets.changes();
        let values = Values::of(secrets);
        let first = Arc::new(values.read(listen, SystemTime::now())?);
        let credentials = Self {
            secrets: secrets.clone(),
            listen,
            metrics: Arc::clone(metrics),
            current: Arc::new(watch::Sender::new(Arc::clone(&first))),
            problem: Arc::default(),
        };
        credentials.taken(&first);
        tokio::spawn(credentials.clone().follow(values, changes));
        Ok(credentials)
    }

    /// What connections go by.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Credentials>> {
        self.current.subscribe()
    }

    async fn follow(self, mut seen: Values, mut changes: watch::Receiver<()>) {
        loop {
            let refused = self.problem.load().is_some();
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
                () = sleep(LOOK_EVERY), if refused => {}
            }
            let values = Values::of(&self.secrets);
            let is_new = values.all() != seen.all();
            // What is for others in the Secret changes, too.
            if is_new || refused {
                self.take(&values, is_new);
                seen = values;
            }
        }
    }

    /// Takes values as a whole or not at all.
    fn take(&self, values: &Values, is_new: bool) {
        match values.read(self.listen, SystemTime::now()) {
            Ok(credentials) => {
                let credentials = Arc::new(credentials);
                self.taken(&credentials);
                self.problem.store(None);
                self.current.send_replace(credentials);
                self.metrics.peer_credentials_taken();
            }
            Err(error) => {
                if is_new {
                    tracing::warn!(%error, "peer credentials refused, the old ones stay in force");
                    self.metrics.peer_credentials_refused();
                }
                self.problem.store(Some(Arc::new(error)));
            }
        }
    }

    fn taken(&self, credentials: &Credentials) {
        let expires = credentials.tls.as_ref().map(Mutual::expires);
        let expires = expires.map(unix_seconds);
        self.metrics.peer_certificate_expires(expires);
        tracing::info!(
            tokens = credentials.tokens.len(),
            tls = credentials.tls.is_some(),
            demand = ?credentials.demand,
            certificate_expires = expires,
            "peer credentials"
        );
    }

    /// What `/status` shows of them.
    pub(super) fn status(&self) -> Value {
        let current = Arc::clone(&self.current.borrow());
        let refused = self.problem.load_full().map(|error| error.to_string());
        // The certificate in force goes on aging.
        let expired = || {
            let pair = current.tls.as_ref()?.pair();
            let error = pair.check(SystemTime::now()).err()?;
            Some(CredentialsError::Pair(error).to_string())
        };
        json!({
            "tokens": current.tokens.len(),
            "tls": current.tls.is_some(),
            "certificate_expires": current.tls.as_ref().map(|tls| unix_seconds(tls.expires())),
            "demand": match current.demand {
                Demand::All => "all",
                Demand::Any => "any",
            },
            "problem": refused.or_else(expired),
        })
    }
}
