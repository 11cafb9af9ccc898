//! The certificate authorities that are trusted.

use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use super::{PROVIDER, Problem, pem, rsa};

/// The trusted authorities. Several can be trusted while one replaces another.
#[derive(Clone)]
pub struct Authorities {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    clients_or_none: Arc<dyn ClientCertVerifier>,
}

/// Why a set of authorities is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAuthorities {
    /// There is no certificate, or one cannot be read.
    #[error(
        "there is no certificate of an authority in it that can be read: put one or more there as PEM"
    )]
    Unreadable,
    #[error(
        "an authority has an RSA key with {0} bits, and signatures of such keys are not checked: make one with {min} to {max} bits, or one for ECDSA P-256",
        min = rsa::IS_CHECKED.start(),
        max = rsa::IS_CHECKED.end()
    )]
    RsaBits(usize),
}

/// The side of a connection that shows a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The connecting side.
    Client,
    /// The accepting side.
    Server,
}

/// The certificates that one side of a connection has shown: its own, and those between it and its
/// authority.
#[derive(Clone)]
pub struct Chain {
    certificates: Arc<[CertificateDer<'static>]>,
    side: Side,
}

impl Chain {
    pub(super) fn new(certificates: Arc<[CertificateDer<'static>]>, side: Side) -> Self {
        Self { certificates, side }
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Chain({}, {:?})", self.certificates.len(), self.side)
    }
}

impl Authorities {
    /// Reads the authorities' certificates as PEM. Every entry must be a valid certificate: one
    /// that was silently skipped would be missed only when it is needed.
    ///
    /// # Errors
    /// When there is none, or one cannot be used.
    pub fn read(certificates: &[u8]) -> Result<Self, NoAuthorities> {
        let mut roots = RootCertStore::empty();
        for certificate in pem::certificates(certificates).ok_or(NoAuthorities::Unreadable)? {
            let read = Certificate::from_der(&certificate);
            let bits = read.ok().as_ref().and_then(rsa::bits);
            if let Some(bits) = bits.filter(|bits| !rsa::IS_CHECKED.contains(bits)) {
                return Err(NoAuthorities::RsaBits(bits));
            }
            let added = roots.add(certificate);
            added.map_err(|_| NoAuthorities::Unreadable)?;
        }
        let roots = Arc::new(roots);
        let verifier = || {
            let (roots, provider) = (Arc::clone(&roots), Arc::clone(&PROVIDER));
            WebPkiClientVerifier::builder_with_provider(roots, provider)
                // A client learns the authorities' names only after it has authenticated.
                .clear_root_hint_subjects()
        };
        let clients = verifier().build().map_err(|_| NoAuthorities::Unreadable)?;
        let clients_or_none = verifier().allow_unauthenticated().build();
        let clients_or_none = clients_or_none.map_err(|_| NoAuthorities::Unreadable)?;
        Ok(Self {
            roots,
            clients,
            clients_or_none,
        })
    }

    /// Checks that a chain leads to one of the authorities, is valid now, and may be used on its
    /// side. Names are not checked.
    ///
    /// # Errors
    /// Why the chain is rejected.
    pub fn check(&self, chain: &Chain) -> Result<(), Problem> {
        let (own, between) = chain
            .certificates
            .split_first()
            .ok_or(Problem::NoCertificate)?;
        let now = UnixTime::now();
        let checked = match chain.side {
            Side::Client => {
                let verified = self.clients.verify_client_cert(own, between, now);
                verified.map(drop)
            }
            Side::Server => ParsedCertificate::try_from(own).and_then(|own| {
                let algorithms = PROVIDER.signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(
                    &own,
                    &self.roots,
                    between,
                    now,
                    algorithms,
                )
            }),
        };
        checked.map_err(|error| Problem::from(&error))
    }

    pub(super) fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }

    pub(super) fn clients(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.clients)
    }

    pub(super) fn clients_or_none(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.clients_or_none)
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Authorities({})", self.roots.len())
    }
}
