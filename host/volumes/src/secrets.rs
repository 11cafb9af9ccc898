//! The current values of the Secret volume, by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use ostrakon_observe::metrics::Metrics;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::volume::{Observation, ReadError};

/// The names that the host uses itself, and names that could be mistaken for them. No guest can
/// see any of these.
pub const HOST_NAMES: [&str; 14] = [
    "admin-token",
    "admin-tokens",
    "ca.crt",
    "client-auth",
    "client-ca.crt",
    "client-token",
    "client-tokens",
    "peer-auth",
    "peer-ca.crt",
    "peer-token",
    "peer.crt",
    "peer.key",
    "tls.crt",
    "tls.key",
];

/// The current secrets; clones share them. Without a volume the set is empty.
#[derive(Clone, Default)]
pub struct Secrets {
    // Read in each guest call that asks for a secret, and replaced rarely.
    current: Arc<ArcSwap<Current>>,
    changed: Arc<watch::Sender<()>>,
}

#[derive(Default)]
struct Current {
    values: Arc<BTreeMap<String, Bytes>>,
    problem: Option<Arc<ReadError>>,
}

/// A secret's value at the time of the request. It can be shown, compared or serialised only by
/// revealing it. It is wiped from memory when the last clone and the volume's observation are
/// dropped.
#[derive(Clone)]
pub struct Secret(Bytes);

impl Secret {
    /// The value. The caller must keep it out of logs, errors and replies.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl Secrets {
    /// The secrets in a volume's first observation.
    pub fn new(first: Observation) -> Self {
        let secrets = Self::default();
        secrets.take(first);
        secrets
    }

    /// Applies the volume's observations until its watcher ends. Only this task replaces values.
    /// Dropping it leaves the values as they are.
    pub async fn follow(
        self,
        mut observations: watch::Receiver<Observation>,
        metrics: Arc<Metrics>,
    ) {
        observations.mark_changed();
        while observations.changed().await.is_ok() {
            let observation = observations.borrow_and_update().clone();
            match &observation {
                Ok(_) => metrics.secrets_reloaded(),
                Err(_) => metrics.secrets_failed(),
            }
            self.take(observation);
        }
    }

    /// A secret of any name, for use by the host.
    pub fn get(&self, name: &str) -> Option<Secret> {
        self.current.load().values.get(name).cloned().map(Secret)
    }

    /// The secrets with these names that exist, all from one observation; for use by the host.
    pub fn get_together(&self, names: &[&'static str]) -> BTreeMap<&'static str, Secret> {
        let current = self.current.load();
        let known = names.iter().filter_map(|name| {
            let value = current.values.get(*name).cloned()?;
            Some((*name, Secret(value)))
        });
        known.collect()
    }

    /// Notifies of changes: the values may have changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// A secret for a guest: none of the host's own names.
    pub fn for_guest(&self, name: &str) -> Option<Secret> {
        if HOST_NAMES.contains(&name) {
            None
        } else {
            self.get(name)
        }
    }

    /// Why the values may be out of date: the volume cannot be read.
    pub fn problem(&self) -> Option<Arc<ReadError>> {
        self.current.load().problem.clone()
    }

    fn take(&self, observation: Observation) {
        let current = match observation {
            Ok(files) => {
                let values = Arc::clone(files.contents());
                let before = self.current.load();
                // The first observation is handled twice: by `new`, and by `follow`.
                if before.problem.is_some() || before.values != values {
                    let names: Vec<_> = values.keys().map(String::as_str).collect();
                    info!(names = names.join(", "), "secrets read");
                }
                Current {
                    values,
                    problem: None,
                }
            }
            // A bad rotation of a key must not take the service down.
            Err(error) => {
                warn!(%error, "cannot read the secrets, the old ones stay in force");
                let values = Arc::clone(&self.current.load().values);
                Current {
                    values,
                    problem: Some(error),
                }
            }
        };
        self.current.store(Arc::new(current));
        self.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use ostrakon_test_support::pages::{code, rows};

    use super::*;
    use crate::volume::Files;

    fn observed(files: &[(&str, &'static str)]) -> Files {
        let files = files.iter();
        Files::new(
            files
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
        )
    }

    fn unreadable() -> Observation {
        Err(Arc::new(ReadError::Empty("secrets".into())))
    }

    fn value(secret: Option<Secret>) -> Option<Vec<u8>> {
        secret.map(|secret| secret.reveal().to_vec())
    }

    /// Both tell guest authors which names no guest can see.
    #[test]
    fn the_contract_and_the_reference_name_exactly_the_hosts_own() {
        use std::collections::BTreeSet;

        let own: BTreeSet<_> = HOST_NAMES.into();
        let contract = include_str!("../../../wit/ostrakon.wit");
        let (before, _) = contract
            .split_once("interface secrets {")
            .expect("it has secrets");
        let (_, comment) = before.rsplit_once("\n\n").expect("it is documented");
        assert_eq!(code(comment).collect::<BTreeSet<_>>(), own, "the contract");
        let reference = include_str!("../../README.md");
        let rows = rows(reference, "| key in the Secret |");
        let shown = rows.iter().flat_map(|row| code(row[0]));
        assert_eq!(shown.collect::<BTreeSet<_>>(), own, "host/README.md");
    }

    #[test]
    fn a_guest_sees_all_but_the_hosts_own() {
        let mut files = HOST_NAMES.map(|name| (name, "host")).to_vec();
        files.push(("api-key", "guest"));
        let secrets = Secrets::new(Ok(observed(&files)));
        assert_eq!(value(secrets.for_guest("api-key")).unwrap(), b"guest");
        assert!(secrets.for_guest("other").is_none());
        for name in HOST_NAMES {
            assert!(secrets.for_guest(name).is_none(), "{name}");
            assert_eq!(value(secrets.get(name)).unwrap(), b"host", "{name}");
        }
    }

    #[tokio::test]
    async fn rotated_values_are_seen_and_old_handles_keep_theirs() {
        let (volume, observations) = watch::channel(Ok(observed(&[("key", "1"), ("gone", "1")])));
        let secrets = Secrets::new(observations.borrow().clone());
        let old = secrets.get("key");
        let _ = volume.send_replace(Ok(observed(&[("key", "2")])));
        drop(volume);
        let metrics = Arc::new(Metrics::new("0"));
        let follow = secrets.clone().follow(observations, Arc::clone(&metrics));
        follow.await;
        let shown = metrics.render();
        assert!(
            shown.contains("ostrakon_secrets_reloads_total 1\n"),
            "{shown}"
        );
        assert_eq!(value(secrets.get("key")).unwrap(), b"2");
        assert!(secrets.get("gone").is_none());
        assert_eq!(value(old).unwrap(), b"1");
    }

    #[test]
    fn an_unreadable_volume_keeps_the_values_and_says_why() {
        let secrets = Secrets::new(Ok(observed(&[("key", "1")])));
        assert!(secrets.problem().is_none());
        secrets.take(unreadable());
        assert_eq!(value(secrets.get("key")).unwrap(), b"1");
        assert!(
            secrets
                .problem()
                .unwrap()
                .to_string()
                .contains("holds no files")
        );
        secrets.take(Ok(observed(&[("key", "2")])));
        assert!(secrets.problem().is_none());
    }
}
