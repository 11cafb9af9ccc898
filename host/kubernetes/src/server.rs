//! Access to the API server.

use std::time::Duration;

use kube::core::{ApiResource, GroupVersionKind, NotUsed, Object};
use kube::{Api, Client, Config};
use serde::Deserialize;

use super::pod_identity::PodIdentity;

/// A StatefulSet, reduced to the needed fields.
pub(super) type StatefulSet = Object<Spec, NotUsed>;

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Spec {
    /// The number of Pods; 1 if it is absent.
    pub(super) replicas: Option<i32>,
}

/// A client that shows this Pod's token and trusts the cluster's authority. It reads both again
/// every minute. It does not repeat requests by itself: its caller decides when to retry.
pub(super) fn client(identity: &PodIdentity, connect: Duration) -> Result<Client, kube::Error> {
    let mut config = Config::new(identity.server.clone());
    config.default_namespace.clone_from(&identity.namespace);
    // Trusts no other authorities. Without a list, the system's would be looked for, and an image
    // has none.
    config.root_cert = Some(Vec::new());
    config.root_cert_file = Some(identity.authority());
    config.auth_info.token_file = Some(identity.token().display().to_string());
    config.connect_timeout = Some(connect);
    config.default_retry = false;
    Client::try_from(config)
}

/// The StatefulSets of the Pod's namespace.
pub(super) fn stateful_sets(client: Client, identity: &PodIdentity) -> Api<StatefulSet> {
    let kind = GroupVersionKind::gvk("apps", "v1", "StatefulSet");
    let kind = ApiResource::from_gvk_with_plural(&kind, "statefulsets");
    Api::namespaced_with(client, &identity.namespace, &kind)
}

/// The selector for the Pod's own StatefulSet, which a Role that names it permits to list and
/// watch.
pub(super) fn selector(identity: &PodIdentity) -> String {
    format!("metadata.name={}", identity.stateful_set)
}
