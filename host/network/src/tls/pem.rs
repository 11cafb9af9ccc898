//! Certificates in a file of text.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// What a certificate begins with.
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// The certificates in a text, in order; none where one cannot be read. What stands before a
/// certificate on its line, as a byte order mark or spaces do, would hide it from the parser: one
/// that is hidden counts as one that cannot be read.
pub(super) fn certificates(text: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let begun = text.windows(BEGIN.len()).filter(|part| *part == BEGIN);
    found.ok().filter(|found| found.len() == begun.count())
}
