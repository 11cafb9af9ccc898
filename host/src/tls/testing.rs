//! Certificates for tests.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// An authority.
pub(crate) struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub(crate) struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let common = rcgen::DnType::CommonName;
        params.distinguished_name.push(common, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { pem, issuer }
    }

    /// A certificate for names, valid from and to so many seconds from now.
    pub(crate) fn issue_for(
        &self,
        names: &[&str],
        from: i64,
        to: i64,
        usages: &[ExtendedKeyUsagePurpose],
    ) -> Issued {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let now = SystemTime::now();
        let at = |seconds: i64| {
            let away = Duration::from_secs(seconds.unsigned_abs());
            let time = if seconds < 0 { now - away } else { now + away };
            time.into()
        };
        params.not_before = at(from);
        params.not_after = at(to);
        params.extended_key_usages = usages.to_vec();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        let key = key.serialize_pem();
        Issued { certificate, key }
    }

    /// One for this machine, valid for an hour and usable on both sides.
    pub(crate) fn issue(&self) -> Issued {
        self.issue_for(&["127.0.0.1", "localhost"], -60, 3600, &[])
    }
}
