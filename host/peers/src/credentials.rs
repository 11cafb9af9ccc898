//! The credentials by which the shards of a cluster recognise each other.

use std::sync::Arc;
use std::time::Duration;

use ostrakon_network::tls::{Chain, Mutual};
use tokio::sync::watch;
use tokio::time::sleep;

use super::token::{Token, Tokens};

/// How often an open connection's credentials are checked again: a certificate can expire without
/// any configuration change.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// Which of the configured credentials the other side must show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Demand {
    #[default]
    All,
    /// A token or a certificate, for a cluster that changes from one to the other.
    Any,
}

impl Demand {
    /// Parses the word from the Secret. Returns `All` if there is no word, and `None` if the word
    /// is unknown.
    pub fn read(word: Option<&[u8]>) -> Option<Self> {
        match word.map(<[u8]>::trim_ascii) {
            None | Some(b"all") => Some(Self::All),
            Some(b"any") => Some(Self::Any),
            Some(_) => None,
        }
    }

    /// The word for it in the Secret.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Any => "any",
        }
    }
}

/// The credentials that a side shows and demands. Any process that has the same credentials is a
/// peer, whatever ordinal it claims.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    pub tokens: Tokens,
    /// The certificate, and the authorities of all certificates in the cluster.
    pub tls: Option<Mutual>,
    pub demand: Demand,
}

/// The credentials that the other side of a connection has shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    pub chain: Option<Chain>,
    pub token: Option<Token>,
}

/// Whether to connect with TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Tls,
    Plain,
}

impl Credentials {
    /// The ways to connect, the preferred one first. The second is for a peer that does not accept
    /// TLS at all.
    pub(super) fn ways(&self) -> &'static [Way] {
        match (self.tls.is_some(), self.takes_plain()) {
            (false, _) => &[Way::Plain],
            (true, false) => &[Way::Tls],
            (true, true) => &[Way::Tls, Way::Plain],
        }
    }

    /// Whether a connection without TLS can be accepted.
    pub(super) fn takes_plain(&self) -> bool {
        self.tls.is_none() || (self.demand == Demand::Any && !self.tokens.is_empty())
    }

    /// Whether the other side's credentials meet the demand now.
    pub(super) fn suffice(&self, shown: &Shown) -> bool {
        let certificate = self.tls.as_ref().map(|tls| {
            let chain = shown.chain.as_ref();
            chain.is_some_and(|chain| tls.believes(chain))
        });
        let token = (!self.tokens.is_empty()).then(|| {
            let token = shown.token.as_ref();
            token.is_some_and(|token| self.tokens.contain(token))
        });
        let mut demanded = [certificate, token].into_iter().flatten();
        match self.demand {
            Demand::All => demanded.all(|is_shown| is_shown),
            // Without configured credentials, nothing is demanded.
            Demand::Any => {
                (certificate, token) == (None, None) || demanded.any(|is_shown| is_shown)
            }
        }
    }
}

/// Waits until the other side's credentials no longer meet the demand.
pub(super) async fn revoked(mut credentials: watch::Receiver<Arc<Credentials>>, shown: Shown) {
    loop {
        let now = Arc::clone(&credentials.borrow_and_update());
        if !now.suffice(&shown) {
            return;
        }
        let changed = async {
            if credentials.changed().await.is_err() {
                // The credentials can no longer change.
                std::future::pending::<()>().await;
            }
        };
        let expired = async {
            match shown.chain {
                Some(_) => sleep(LOOK_EVERY).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = expired => {}
        }
    }
}
