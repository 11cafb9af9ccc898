//! How long RSA keys are, and have to be.

use std::ops::RangeInclusive;

use x509_cert::Certificate;
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::der::{Decode as _, Reader as _, SliceReader};

/// The bits of a key that signs here.
pub(super) const SIGNS: RangeInclusive<usize> = 2048..=4096;
/// The bits of a key whose signatures are checked here.
pub(super) const IS_CHECKED: RangeInclusive<usize> = 2048..=8192;

/// RFC 8017, appendix A.1; the second is for RSASSA-PSS alone.
const RSA: [ObjectIdentifier; 2] = [
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1"),
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10"),
];

/// How many bits a certificate's key has, where it is one for RSA.
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
