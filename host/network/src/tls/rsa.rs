//! The permitted lengths of RSA keys.

use std::ops::RangeInclusive;

use x509_cert::Certificate;
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::der::{Decode as _, Reader as _, SliceReader};

/// The lengths, in bits, of keys that can sign here.
pub(super) const SIGNS: RangeInclusive<usize> = 2048..=4096;
/// The lengths, in bits, of keys whose signatures can be verified here.
pub(super) const IS_CHECKED: RangeInclusive<usize> = 2048..=8192;

/// RFC 8017, appendix A.1; the second is for RSASSA-PSS alone.
const RSA: [ObjectIdentifier; 2] = [
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1"),
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10"),
];

/// The length of a certificate's key in bits, if it is an RSA key.
pub(super) fn bits(certificate: &Certificate) -> Option<usize> {
    let key = &certificate.tbs_certificate.subject_public_key_info;
    if !RSA.contains(&key.algorithm.oid) {
        return None;
    }
    let mut reader = SliceReader::new(key.subject_public_key.as_bytes()?).ok()?;
    let modulus = reader.sequence(|key| {
        let modulus = UintRef::decode(key)?;
        UintRef::decode(key)?;
        Ok(modulus)
    });
    let modulus = modulus.ok()?;
    let first = modulus.as_bytes().first()?;
    Some(modulus.as_bytes().len() * 8 - first.leading_zeros() as usize)
}
