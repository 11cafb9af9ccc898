//! The manifests: what Kubernetes accepts, and what must match the host.

mod network;
mod pods;
mod schemas;
mod volumes;

use std::fs;
use std::sync::LazyLock;
use std::time::Duration;

use ostrakon_tests::host::guest;
use ostrakon_tests::manifests::{Deploy, the};
use serde_json::Value;

/// The oldest and the newest supported minor version of Kubernetes.
const VERSIONS: [&str; 2] = ["1.32", "1.37"];
const OVERLAYS: [&str; 3] = ["memory", "disk", "production"];
/// The part of the grace period after the drain. Clients and peers hang up, the store is closed and
/// the last spans are sent, which takes up to 13 s in all. The rest is reserve.
const CLOSING: Duration = Duration::from_secs(15);

/// Each overlay by itself, and each with all options.
static VARIANTS: LazyLock<Vec<(String, Vec<Value>)>> = LazyLock::new(|| {
    let deploy = Deploy::new();
    let guest_file = deploy.path().join("components/guest/guest.wasm");
    fs::write(guest_file, guest("kv")).unwrap();
    deploy.add(
        "production-all",
        "production",
        &["cert-manager", "monitoring", "guest"],
    );
    deploy.add(
        "memory-all",
        "memory",
        &["tls", "network-policy", "monitoring", "guest"],
    );
    let names = OVERLAYS.into_iter().chain(["production-all", "memory-all"]);
    names
        .map(|name| (name.to_owned(), deploy.render(name)))
        .collect()
});

fn each(check: impl Fn(&str, &[Value])) {
    for (name, objects) in &*VARIANTS {
        check(name, objects);
    }
}

fn set(objects: &[Value]) -> &Value {
    &the(objects, "StatefulSet", "server")["spec"]
}

fn pod(objects: &[Value]) -> &Value {
    &set(objects)["template"]["spec"]
}

fn container(objects: &[Value]) -> &Value {
    let containers = pod(objects)["containers"].as_array().unwrap();
    let [container] = &containers[..] else {
        panic!("there must be one container: {containers:?}");
    };
    container
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The number of the container's port with this name.
fn port(objects: &[Value], name: &Value) -> Option<u64> {
    let mut ports = list(&container(objects)["ports"]).iter();
    ports.find(|port| port["name"] == *name)?["containerPort"].as_u64()
}
