//! A certificate with its chain and its key.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use ostrakon_base::unix_time::unix_time;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use x509_cert::der::Decode;
use x509_cert::time::{Time, Validity};
use zeroize::Zeroizing;

use super::{pem, rsa};

/// A certificate with its matching key. It cannot be printed.
///
/// The bytes read of the key are wiped. The crypto library's copy is not, and stays in memory as
/// long as the pair is in use.
#[derive(Clone)]
pub struct Pair {
    certified: Arc<CertifiedKey>,
    begins: Time,
    expires: Time,
}

/// The most bytes of a chain's certificates. One handshake message holds them all, and most
/// clients accept messages up to 64 KiB.
const MAX_CHAIN_BYTES: usize = 60 * 1024;

/// Why a certificate and a key are rejected. No variant contains file contents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    #[error(
        "there is no certificate in it: put the certificate there as PEM, followed by its intermediate certificates"
    )]
    NoCertificate,
    #[error("a certificate cannot be read: put it there as PEM, as it was issued")]
    Certificate,
    /// There are more certificates than clients take.
    #[error(
        "the certificates have {0} bytes, and clients take at most {MAX_CHAIN_BYTES}: put only the chain to the authority there"
    )]
    TooLong(usize),
    #[error(
        "there is no private key that can be read: put it there as PEM that is not encrypted (PKCS#8, PKCS#1 or SEC 1)"
    )]
    NoKey,
    /// The key is of a kind that cannot be used.
    #[error(
        "the private key cannot be used: make one for ECDSA P-256 or P-384, Ed25519, or RSA with 2048 to 4096 bits"
    )]
    Key,
    /// The key is for RSA, and of a length that cannot be used.
    #[error(
        "the private key is for RSA with {0} bits: make one with {min} to {max} bits, or one for ECDSA P-256",
        min = rsa::SIGNS.start(),
        max = rsa::SIGNS.end()
    )]
    RsaBits(usize),
    #[error(
        "the private key is not that of the certificate: put a matching pair there, in one update"
    )]
    Mismatch,
    #[error("the certificate is not valid before {0}: wait, or set this machine's clock right")]
    NotYetValid(Time),
    #[error("the certificate expired at {0}: renew it")]
    Expired(Time),
}

impl Pair {
    /// Reads both as PEM, and checks that the key belongs to the certificate.
    ///
    /// # Errors
    /// When they cannot be read, or do not belong together.
    pub fn read(certificates: &[u8], key: &[u8]) -> Result<Self, PairError> {
        let chain = pem::certificates(certificates).ok_or(PairError::Certificate)?;
        let bytes = chain.iter().map(|certificate| certificate.len()).sum();
        if bytes > MAX_CHAIN_BYTES {
            return Err(PairError::TooLong(bytes));
        }
        let mut read = chain.iter().map(|certificate| {
            let read = x509_cert::Certificate::from_der(certificate);
            read.map_err(|_| PairError::Certificate)
        });
        let own = read.next().ok_or(PairError::NoCertificate)??;
        let Validity {
            not_before: mut begins,
            not_after: mut expires,
        } = own.tbs_certificate.validity;
        // A chain is valid only as long as each of its certificates.
        for above in read.collect::<Result<Vec<_>, _>>()? {
            let Validity {
                not_before,
                not_after,
            } = above.tbs_certificate.validity;
            if not_before.to_unix_duration() > begins.to_unix_duration() {
                begins = not_before;
            }
            if not_after.to_unix_duration() < expires.to_unix_duration() {
                expires = not_after;
            }
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| PairError::NoKey)?;
        let key = any_supported_type(&Zeroizing::new(key)).map_err(|_| {
            let bits = rsa::bits(&own).filter(|bits| !rsa::SIGNS.contains(bits));
            bits.map_or(PairError::Key, PairError::RsaBits)
        })?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| PairError::Mismatch)?;
        Ok(Self {
            certified: Arc::new(certified),
            begins,
            expires,
        })
    }

    /// Checks that the whole chain is valid at `now`.
    ///
    /// # Errors
    /// When it is not valid yet, or has expired.
    pub fn check(&self, now: SystemTime) -> Result<(), PairError> {
        // In whole seconds, as the other side compares times in a handshake.
        let now = unix_time(now).as_secs();
        if now < self.begins.to_unix_duration().as_secs() {
            Err(PairError::NotYetValid(self.begins))
        } else if now > self.expires.to_unix_duration().as_secs() {
            Err(PairError::Expired(self.expires))
        } else {
            Ok(())
        }
    }

    /// When the first certificate of the chain expires.
    pub fn expires(&self) -> SystemTime {
        self.expires.to_system_time()
    }

    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Pair(.., valid until {})", self.expires)
    }
}
