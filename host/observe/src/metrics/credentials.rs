//! Metrics of tokens and certificates.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::labels::{Guarded, Label, Labelled};
use super::{Level, Metrics};

#[derive(Debug)]
pub(super) struct Credentials {
    reloads: Labelled<Guarded, Counter>,
    refusals: Labelled<Guarded, Counter>,
    refused: Labelled<Guarded, Level>,
    expiry: Family<[(&'static str, &'static str); 1], Gauge<f64, AtomicU64>>,
    handshake_failures: Counter,
}

impl Credentials {
    pub(super) fn new() -> Self {
        Self {
            reloads: Labelled::new(Counter::default),
            refusals: Labelled::new(Counter::default),
            refused: Labelled::new(Level::default),
            expiry: Family::default(),
            handshake_failures: Counter::default(),
        }
    }

    pub(super) fn register(&self, to: &mut Registry) {
        let help = "Times a port's tokens and certificates were reloaded from the Secret";
        to.register("credentials_reloads", help, self.reloads.clone());
        let help = "Times the Secret's tokens and certificates were rejected and the old ones kept";
        to.register("credentials_refusals", help, self.refusals.clone());
        let help =
            "1 while the Secret's tokens and certificates are rejected and older ones are in force";
        to.register("credentials_refused", help, self.refused.clone());
        let help = "When the certificate in force expires, in Unix time";
        to.register_with_unit(
            "certificate_expiry_timestamp",
            help,
            Unit::Seconds,
            self.expiry.clone(),
        );
        let help = "Connections to the public port that failed the TLS handshake";
        let failures = self.handshake_failures.clone();
        to.register("tls_handshake_failures", help, failures);
    }
}

impl Metrics {
    /// Counts a reload of a port's credentials from the Secret.
    pub fn credentials_taken(&self, port: Guarded) {
        self.credentials.reloads.of(port).inc();
    }

    /// Counts a rejection of the Secret's credentials.
    pub fn credentials_refused(&self, port: Guarded) {
        self.credentials.refusals.of(port).inc();
    }

    /// Sets whether the Secret's credentials are rejected now.
    pub fn credentials_are_refused(&self, port: Guarded, refused: bool) {
        self.credentials.refused.of(port).set(refused.into());
    }

    /// Sets when a port's certificate expires, in Unix time. Hidden if there is no certificate.
    pub fn certificate_expires(&self, port: Guarded, at: Option<f64>) {
        let labels = [(Guarded::NAME, Guarded::VALUES[port.index()])];
        match at {
            Some(at) => {
                self.credentials.expiry.get_or_create(&labels).set(at);
            }
            None => {
                self.credentials.expiry.remove(&labels);
            }
        }
    }

    /// Counts a connection to the public port that failed the TLS handshake.
    pub fn tls_handshake_failed(&self) {
        self.credentials.handshake_failures.inc();
    }
}
