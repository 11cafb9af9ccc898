//! Streams on which both sides show a certificate.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, CommonState, ConnectionCommon, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Authorities, Chain, PROVIDER, Pair, Problem, Side};

/// The label of the channel binding: RFC 9266, section 4.
const BINDING: &[u8] = b"EXPORTER-Channel-Binding";

pub type Stream<S> = tokio_rustls::TlsStream<S>;

/// A certificate to show and authorities to trust, for streams of one protocol on which both sides
/// authenticate.
#[derive(Clone)]
pub struct Mutual {
    client: TlsConnector,
    server: TlsAcceptor,
    authorities: Authorities,
    pair: Pair,
    protocol: &'static [u8],
}

/// A stream whose other side has authenticated.
#[derive(Debug)]
pub struct Secured<S> {
    pub stream: Stream<S>,
    /// The other side's certificate chain.
    pub chain: Chain,
    /// A value that only the two sides of this stream know.
    pub binding: [u8; 32],
}

impl Mutual {
    /// Combines a certificate with the authorities to trust. The authorities must also accept the
    /// certificate itself, as the peers use the same ones. The protocol's name (ALPN) separates
    /// streams from those of other protocols with the same certificate.
    ///
    /// # Errors
    /// Why peers would reject the certificate.
    pub fn new(
        pair: Pair,
        authorities: Authorities,
        protocol: &'static [u8],
    ) -> Result<Self, Problem> {
        let own: Arc<[_]> = pair.certified().cert.clone().into();
        for side in [Side::Client, Side::Server] {
            authorities.check(&Chain::new(Arc::clone(&own), side))?;
        }
        let certified = Arc::new(SingleCertAndKey::from(Arc::clone(pair.certified())));
        let client = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER));
        let mut client = client
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| Problem::from(&error))?
            .with_root_certificates(authorities.roots())
            .with_client_cert_resolver(Arc::clone(&certified) as _);
        client.alpn_protocols = vec![protocol.to_vec()];
        // A resumed stream would rely on a certificate that is not checked again.
        client.resumption = Resumption::disabled();
        let server = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER));
        let mut server = server
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| Problem::from(&error))?
            .with_client_cert_verifier(authorities.clients())
            .with_cert_resolver(certified);
        server.alpn_protocols = vec![protocol.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self {
            client: TlsConnector::from(Arc::new(client)),
            server: TlsAcceptor::from(Arc::new(server)),
            authorities,
            pair,
            protocol,
        })
    }

    /// Performs the handshake of the side that connected to `host`, a DNS name or an IP address.
    /// The other side's certificate must be for that host.
    ///
    /// # Errors
    /// Why the handshake failed.
    pub async fn connect<S>(&self, stream: S, host: &str) -> Result<Secured<S>, Problem>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = server_name(host)?;
        let stream = self.client.connect(name, stream).await;
        let stream = stream.map_err(|error| Problem::in_handshake(&error))?;
        self.secured(stream.into(), Side::Server)
    }

    /// Performs the handshake of the accepting side.
    ///
    /// # Errors
    /// Why the handshake failed, and the stream, if the other side may not have read the reason
    /// yet.
    pub async fn accept<S>(&self, stream: S) -> Result<Secured<S>, (Problem, Option<S>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let accepted = self.server.accept(stream).into_fallible().await;
        let stream =
            accepted.map_err(|(error, stream)| (Problem::in_handshake(&error), Some(stream)))?;
        self.secured(stream.into(), Side::Client)
            .map_err(|problem| (problem, None))
    }

    fn secured<S>(&self, stream: Stream<S>, shown_by: Side) -> Result<Secured<S>, Problem> {
        let (chain, binding) = match &stream {
            Stream::Client(stream) => self.facts(stream.get_ref().1)?,
            Stream::Server(stream) => self.facts(stream.get_ref().1)?,
        };
        Ok(Secured {
            stream,
            chain: Chain::new(chain, shown_by),
            binding,
        })
    }

    fn facts<D>(
        &self,
        connection: &ConnectionCommon<D>,
    ) -> Result<(Arc<[CertificateDer<'static>]>, [u8; 32]), Problem> {
        let state: &CommonState = connection;
        if state.alpn_protocol() != Some(self.protocol) {
            return Err(Problem::Protocol);
        }
        let chain = state.peer_certificates().ok_or(Problem::NoCertificate)?;
        let binding = connection.export_keying_material([0; 32], BINDING, None);
        let binding = binding.map_err(|error| Problem::from(&error))?;
        Ok((chain.into(), binding))
    }

    /// Whether a chain is accepted, now and by these authorities.
    pub fn believes(&self, chain: &Chain) -> bool {
        self.authorities.check(chain).is_ok()
    }

    /// The own certificate, with its key.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// When the own certificate expires.
    pub fn expires(&self) -> SystemTime {
        self.pair.expires()
    }
}

impl fmt::Debug for Mutual {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Mutual")
            .field("pair", &self.pair)
            .field("authorities", &self.authorities)
            .finish_non_exhaustive()
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, Problem> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(address.into());
    }
    // A trailing dot does not change the name.
    let name = host.strip_suffix('.').unwrap_or(host).to_owned();
    ServerName::try_from(name).map_err(|_| Problem::NoName(host.to_owned()))
}
