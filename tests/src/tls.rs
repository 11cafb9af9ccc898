//! TLS for clients: trusted authorities, client certificates, and the certificates that servers
//! present.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

use ostrakon_test_support::certificates::{Authority, Issued};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::client::connect;

/// A client that trusts an authority, presents a certificate if it has one, and speaks one
/// protocol.
///
/// # Panics
/// When the authority or the certificate is invalid.
pub fn client(believed: &Authority, shown: Option<&Issued>, protocol: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(certificate(&believed.pem))
        .expect("the certificate is an authority's");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has the protocol versions")
        .with_root_certificates(roots);
    let mut config = match shown {
        None => config.with_no_client_auth(),
        Some(issued) => {
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("the key is PEM");
            config
                .with_client_auth_cert(vec![certificate(&issued.certificate)], key)
                .expect("the key belongs to the certificate")
        }
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

/// The certificate that a server presents on a new connection, whether or not the client trusts
/// it.
///
/// # Errors
/// When the handshake fails.
///
/// # Panics
/// When the address cannot be a server name.
pub fn shown_by(
    address: SocketAddr,
    asked_with: &Arc<ClientConfig>,
) -> io::Result<CertificateDer<'static>> {
    let stream = connect(address)?.into_inner();
    let name = address.ip().into();
    let connection =
        ClientConnection::new(Arc::clone(asked_with), name).expect("a client can be made");
    let mut stream = StreamOwned::new(connection, stream);
    stream.flush()?;
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    let shown = stream
        .conn
        .peer_certificates()
        .expect("the server presented a certificate");
    Ok(shown[0].clone().into_owned())
}

/// The certificate in the form in which it is presented.
///
/// # Panics
/// When the text is no certificate.
pub fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("the text is a certificate")
}
