//! What the shards of a cluster share, so that they know each other.

use std::sync::Arc;
use std::time::Duration;

use ostrakon_network::tls::{Chain, Mutual};
use tokio::sync::watch;
use tokio::time::sleep;

use super::token::{Token, Tokens};

/// How often what an open connection was admitted by is looked at again: a
/// certificate expires without anything having changed.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// How much of what can be demanded the other side must show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Demand {
    /// All of it.
    #[default]
    All,
    /// A token or a certificate: while a cluster changes from one to the other.
    Any,
}

impl Demand {
    /// What a word in the Secret says; all where there is none, and none where it
    /// says nothing.
    pub fn read(word: Option<&[u8]>) -> Option<Self> {
        match word.map(<[u8]>::trim_ascii) {
            None | Some(b"all") => Some(Self::All),
            Some(b"any") => Some(Self::Any),
            Some(_) => None,
        }
    }

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Any => "any",
        }
    }
}

/// What a side has to show, and what it demands to be shown. Whoever has the
/// same is a peer, whatever ordinal it says it is.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The tokens shared with the cluster.
    pub tokens: Tokens,
    /// The certificate, and the authorities of all certificates in the cluster.
    pub tls: Option<Mutual>,
    /// How much of it is demanded.
    pub demand: Demand,
}

/// What the other side of a connection has shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    pub chain: Option<Chain>,
    pub token: Option<Token>,
}

/// How to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Tls,
    Plain,
}

impl Credentials {
    /// The ways to connect, the better first. The second is for a peer that
    /// does not take TLS at all.
    pub(super) fn ways(&self) -> &'static [Way] {
        match (self.tls.is_some(), self.takes_plain()) {
            (false, _) => &[Way::Plain],
            (true, false) => &[Way::Tls],
            (true, true) => &[Way::Tls, Way::Plain],
        }
    }

    /// Whether a connection without TLS can do.
    pub(super) fn takes_plain(&self) -> bool {
        self.tls.is_none() || (self.demand == Demand::Any && !self.tokens.is_empty())
    }

    /// Whether what the other side has shown is as much as is demanded, now.
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
            // With nothing to demand there is nothing to lack.
            Demand::Any => {
                (certificate, token) == (None, None) || demanded.any(|is_shown| is_shown)
            }
        }
    }
}

/// Waits until what the other side has shown does not suffice any more.
pub(super) async fn revoked(mut credentials: watch::Receiver<Arc<Credentials>>, shown: Shown) {
    loop {
        let now = Arc::clone(&credentials.borrow_and_update());
        if !now.suffice(&shown) {
            return;
        }
        let changed = async {
            if credentials.changed().await.is_err() {
                // They are what they are for good.
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
