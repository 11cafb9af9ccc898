//! The volumes: the ConfigMap, Secrets and data.

use std::fs;
use std::process::Command;

use ostrakon_tests::host::guest;
use ostrakon_tests::manifests::the;
use serde_json::{Value, json};

use super::{VARIANTS, container, each, list, pod, set};

#[test]
fn updates_reach_pods_that_run() {
    each(|name, objects| {
        let config = the(objects, "ConfigMap", "server");
        assert!(config["immutable"].is_null(), "{name}");
        for mount in list(&container(objects)["volumeMounts"]) {
            assert!(
                mount["subPath"].is_null() && mount["subPathExpr"].is_null(),
                "{name}: {mount}"
            );
        }
        let volumes = list(&pod(objects)["volumes"]);
        let config = volumes
            .iter()
            .find(|volume| volume["name"] == "config")
            .unwrap();
        assert_eq!(config["configMap"], json!({ "name": "server" }), "{name}");
    });
}

#[test]
fn a_guest_of_ones_own_is_in_the_configmap_byte_for_byte() {
    for (name, objects) in &*VARIANTS {
        let data = &the(objects, "ConfigMap", "server")["binaryData"]["guest.wasm"];
        if !name.ends_with("-all") {
            assert!(data.is_null(), "{name}: the image's serves");
            continue;
        }
        let mut decode = Command::new("base64");
        let directory = tempfile::tempdir().unwrap();
        let encoded = directory.path().join("guest");
        fs::write(&encoded, data.as_str().unwrap()).unwrap();
        let decoded = decode.arg("--decode").arg(&encoded).output().unwrap();
        assert_eq!(decoded.stdout, guest("kv"), "{name}");
        let settings = &the(objects, "ConfigMap", "server")["data"]["ostrakon.toml"];
        assert!(settings.is_string(), "{name}: merged, not replaced");
    }
}

#[test]
fn no_secret_is_in_the_manifests_and_each_that_is_named_must_be_made() {
    each(|name, objects| {
        let kinds = objects
            .iter()
            .map(|object| object["kind"].as_str().unwrap());
        assert_eq!(kinds.filter(|kind| *kind == "Secret").count(), 0, "{name}");
        let volumes = list(&pod(objects)["volumes"]);
        let secrets = volumes
            .iter()
            .find(|volume| volume["name"] == "secrets")
            .unwrap();
        assert!(!secrets.to_string().contains("optional"), "{name}");
        if secrets["projected"].is_object() {
            let sources = list(&secrets["projected"]["sources"]);
            let names: Vec<_> = sources
                .iter()
                .map(|source| &source["secret"]["name"])
                .collect();
            let wanted = ["server", "server-tls", "server-peers-tls"].map(|name| json!(name));
            assert!(names.into_iter().eq(&wanted), "{name}: {sources:?}");
            assert!(secrets["secret"].is_null(), "{name}");
        } else {
            assert_eq!(secrets["secret"]["secretName"], "server", "{name}");
        }
    });
}

/// Peers trust certificates from before and after a renewal of the authority, whichever of its
/// certificates they have seen: it keeps its key, and is renewed long before the certificates that
/// it signed expire.
#[test]
fn the_peers_authority_keeps_its_key_when_it_is_renewed() {
    let (_, objects) = VARIANTS
        .iter()
        .find(|(name, _)| name == "production-all")
        .unwrap();
    let certificate = |name: &str| the(objects, "Certificate", name)["spec"].clone();
    let authority = certificate("server-peers-authority");
    let issued = certificate("server-peers");
    assert_eq!(authority["isCA"], true);
    assert_eq!(authority["privateKey"]["rotationPolicy"], "Never");
    assert_eq!(issued["privateKey"]["rotationPolicy"], "Always");
    let hours = |time: &Value| -> u64 {
        let time = time.as_str().unwrap().strip_suffix('h').unwrap();
        time.parse().unwrap()
    };
    assert!(hours(&authority["renewBefore"]) > hours(&issued["duration"]));
    assert!(hours(&authority["duration"]) > 2 * hours(&authority["renewBefore"]));
}

#[test]
fn data_is_on_a_volume_of_its_own_or_in_memory_that_is_bounded() {
    each(|name, objects| {
        let claims = list(&set(objects)["volumeClaimTemplates"]);
        let volumes = list(&pod(objects)["volumes"]);
        let data = volumes.iter().find(|volume| volume["name"] == "data");
        if name.starts_with("memory") {
            assert_eq!(data.unwrap()["emptyDir"]["medium"], "Memory");
            assert!(data.unwrap()["emptyDir"]["sizeLimit"].is_string() && claims.is_empty());
            return;
        }
        let [claim] = claims else {
            panic!("{name}: {claims:?}")
        };
        assert_eq!(claim["metadata"]["name"], "data");
        assert_eq!(claim["spec"]["accessModes"], json!(["ReadWriteOnce"]));
        assert!(data.is_none(), "{name}");
        let kept = json!({ "whenDeleted": "Retain", "whenScaled": "Retain" });
        assert_eq!(
            set(objects)["persistentVolumeClaimRetentionPolicy"],
            kept,
            "{name}"
        );
    });
}
