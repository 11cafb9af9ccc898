//! Why a TLS connection between two sides fails.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// Why a certificate is rejected, or a handshake fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("the certificate has expired: renew it, or set the clocks right")]
    Expired,
    #[error("the certificate is not valid yet: wait, or set the clocks right")]
    NotYetValid,
    /// No trusted authority has issued the certificate.
    #[error(
        "the certificate is of no authority that is known here: have a known one issue it, or add its authority here first"
    )]
    UnknownAuthority,
    #[error(
        "the certificate is not for the name that was used: add the name to its subject alternative names, or use one of them"
    )]
    Name,
    #[error(
        "the certificate is not for this use: issue it for both `server auth` and `client auth`"
    )]
    Purpose,
    #[error("no certificate is shown: give one to the connecting side")]
    NoCertificate,
    #[error("the other side does not speak this protocol over TLS: check the address and port")]
    Protocol,
    /// The other side rejected our certificate or parameters.
    #[error("the other side refuses us ({0}): see its log, and check that it knows our authority")]
    Refused(String),
    /// The other side closed the stream before it sent any TLS record.
    #[error("the other side closed the stream instead of starting TLS: check that it accepts TLS")]
    Closed,
    /// The host is not a name that a certificate can have.
    #[error("{0:?} is neither a DNS name nor an IP address, so no certificate can be for it")]
    NoName(String),
    #[error("TLS failed: {0}")]
    Other(String),
}

impl Problem {
    /// The TLS problem that a stream's error wraps, if any.
    pub fn of(error: &io::Error) -> Option<Self> {
        let inner = error.get_ref()?.downcast_ref::<Error>()?;
        Some(Self::from(inner))
    }

    /// The TLS problem of a handshake, in which every error counts as one of TLS.
    pub(super) fn in_handshake(error: &io::Error) -> Self {
        Self::of(error).unwrap_or_else(|| match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Other(error.to_string()),
        })
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => match error {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    Self::Expired
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Self::NotYetValid
                }
                // `BadSignature`: an authority of the same name but with another key.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    Self::UnknownAuthority
                }
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => Self::Name,
                CertificateError::InvalidPurpose
                | CertificateError::InvalidPurposeContext { .. } => Self::Purpose,
                other => Self::Other(other.to_string()),
            },
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::NoApplicationProtocol
            | Error::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::Protocol,
            Error::AlertReceived(alert) => Self::Refused(format!("{alert:?}")),
            other => Self::Other(other.to_string()),
        }
    }
}
