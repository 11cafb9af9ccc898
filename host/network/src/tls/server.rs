//! Streams on which the accepting side shows a certificate, and the other side only if it is asked
//! to.

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{NoClientAuth, NoServerSessionStorage};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use super::{Authorities, Chain, PROVIDER, Pair, Problem, Side};

/// A TLS stream on the accepting side.
pub type ServerStream<S> = tokio_rustls::server::TlsStream<S>;

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A connection without a certificate is refused.
    Must,
    /// A client may, or can authenticate in another way.
    May,
}

/// The certificate shown to clients, and the demand on theirs: TLS 1.2 and 1.3.
#[derive(Clone)]
pub struct Server {
    acceptor: TlsAcceptor,
    pair: Pair,
    clients: Option<(Authorities, Need)>,
}

impl Server {
    /// Shows a certificate to clients that speak one of the protocols (ALPN), listed in order of
    /// preference, or that do not name a protocol. Clients are asked for a certificate if there
    /// are authorities to check it with.
    ///
    /// # Errors
    /// When the certificate cannot be shown, or there are no authorities in the set.
    pub fn new(
        pair: Pair,
        clients: Option<(Authorities, Need)>,
        protocols: &[&[u8]],
    ) -> Result<Self, Problem> {
        let verifier = match &clients {
            None => Arc::new(NoClientAuth),
            Some((authorities, Need::Must)) => authorities.clients(),
            Some((authorities, Need::May)) => authorities.clients_or_none(),
        };
        let config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER));
        let mut config = config
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| Problem::from(&error))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(
                pair.certified(),
            ))));
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        // A resumed stream would rely on a certificate that is not checked again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            pair,
            clients,
        })
    }

    /// Performs the handshake. Returns the stream and the client's certificate chain.
    ///
    /// # Errors
    /// Why the handshake failed, and the stream, on which the client may still have to read the
    /// reason.
    pub async fn accept<S>(
        &self,
        stream: S,
    ) -> Result<(ServerStream<S>, Option<Chain>), (Problem, S)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let accepted = self.acceptor.accept(stream).into_fallible().await;
        let stream = accepted.map_err(|(error, stream)| (Problem::in_handshake(&error), stream))?;
        let shown = stream.get_ref().1.peer_certificates();
        let chain = shown.map(|shown| Chain::new(shown.into(), Side::Client));
        Ok((stream, chain))
    }

    /// Whether a client with this certificate chain, or with none, may connect now.
    pub(crate) fn admits(&self, shown: Option<&Chain>) -> bool {
        match (&self.clients, shown) {
            (None, _) | (Some((_, Need::May)), None) => true,
            (Some((_, Need::Must)), None) => false,
            (Some((authorities, _)), Some(chain)) => authorities.check(chain).is_ok(),
        }
    }

    /// Whether clients are asked for a certificate, and whether they must show one.
    pub fn asks(&self) -> Option<Need> {
        self.clients.as_ref().map(|(_, need)| *need)
    }

    /// The server's certificate, with its key.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }
}

impl Server {
    /// The server's own chain, as if a client had shown it.
    pub fn own_chain(&self) -> Chain {
        let own = self.pair.certified().cert.clone();
        Chain::new(own.into(), Side::Client)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Server")
            .field("pair", &self.pair)
            .field("clients", &self.clients)
            .finish_non_exhaustive()
    }
}
