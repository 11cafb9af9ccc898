//! Certificate authorities, and the certificates that they issue.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

#[derive(Debug)]
pub struct Authority {
    /// The authority's certificate, as PEM.
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    /// A new authority.
    ///
    /// # Panics
    /// When the system has no random bytes.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key can be made");
        let pem = params
            .self_signed(&key)
            .expect("a certificate can be made")
            .pem();
        let issuer = Issuer::new(params, key);
        Self { pem, issuer }
    }

    /// A certificate for names and addresses, valid from an hour ago.
    ///
    /// # Panics
    /// When a name is invalid.
    pub fn issue(&self, names: &[String], until: SystemTime) -> Issued {
        let from = SystemTime::now() - Duration::from_hours(1);
        self.sign(names, [from, until], &[])
    }

    /// A certificate for these names and addresses, valid between two times given in seconds from
    /// now. It is for these usages, or for all if none are given.
    ///
    /// # Panics
    /// When a name is invalid.
    pub fn issue_for(
        &self,
        names: &[&str],
        from: i64,
        to: i64,
        usages: &[ExtendedKeyUsagePurpose],
    ) -> Issued {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let now = SystemTime::now();
        let at = |seconds: i64| {
            let away = Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 { now - away } else { now + away }
        };
        self.sign(&names, [at(from), at(to)], usages)
    }

    /// A certificate for this machine, valid for an hour, for servers and clients.
    pub fn issue_here(&self) -> Issued {
        self.issue_for(&["127.0.0.1", "localhost"], -60, 3600, &[])
    }

    fn sign(
        &self,
        names: &[String],
        [from, until]: [SystemTime; 2],
        usages: &[ExtendedKeyUsagePurpose],
    ) -> Issued {
        let mut params = CertificateParams::new(names).expect("the names are valid");
        params.not_before = from.into();
        params.not_after = until.into();
        params.extended_key_usages = usages.to_vec();
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("a certificate can be made");
        Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}
