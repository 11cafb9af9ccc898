//! Reads certificates from PEM text.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// The first line of a certificate.
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// The certificates in a text, in order; `None` if one cannot be read. Text before a certificate
/// on its first line, such as a byte order mark or spaces, would hide it from the parser: a hidden
/// certificate counts as unreadable.
pub(super) fn certificates(text: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let begun = text.windows(BEGIN.len()).filter(|part| *part == BEGIN);
    found.ok().filter(|found| found.len() == begun.count())
}
