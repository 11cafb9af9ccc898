//! Why two sides do not come together over TLS.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// Why a certificate is not believed, or two sides do not come together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A certificate's time is over.
    #[error("the certificate has expired: renew it, or set the clocks right")]
    Expired,
    /// A certificate's time has not come.
    #[error("the certificate is not valid yet: wait, or set the clocks right")]
    NotYetValid,
    /// Nobody that is believed has issued a certificate.
    #[error(
        "the certificate is of no authority that is known here: let one of them issue it, or add its authority here first"
    )]
    UnknownAuthority,
    /// A certificate is another's.
    #[error(
        "the certificate is not for the name that was called: add the name to its subject alternative names, or call it by one of them"
    )]
    Name,
    /// A certificate is for another use.
    #[error(
        "the certificate is not for this use: issue it for both `server auth` and `client auth`"
    )]
    Purpose,
    /// A certificate is due.
    #[error("no certificate is shown: give the connecting side one")]
    NoCertificate,
    /// The other side speaks of something else.
    #[error("the other side does not speak this protocol over TLS: check the address and port")]
    Protocol,
    /// The other side does not take what we showed.
    #[error("the other side refuses us ({0}): see its log, and that it knows our authority")]
    Refused(String),
    /// The other side closed the stream before it said anything in TLS.
    #[error("the other side closed the stream where TLS was due: see that it takes TLS")]
    Closed,
    /// A name that no certificate can have.
    #[error("{0:?} is neither a DNS name nor an IP address, so no certificate can be for it")]
    NoName(String),
    /// Anything else.
    #[error("TLS failed: {0}")]
    Other(String),
}

impl Problem {
    /// What a stream's error says of TLS, if anything.
    pub fn of(error: &io::Error) -> Option<Self> {
        let inner = error.get_ref()?.downcast_ref::<Error>()?;
        Some(Self::from(inner))
    }

    /// The same for a handshake, in which every error is one of TLS.
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
                // Of an authority of the same name but with another key, in the latter case.
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
