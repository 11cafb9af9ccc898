//! What Kubernetes accepts, and what the operators accept whose objects the manifests contain.

use std::fs;
use std::io::Seek as _;

use ostrakon_test_support::tools::{output, tool};
use ostrakon_tests::manifests::{files, objects, repository};
use serde_json::Value;

use super::{VARIANTS, VERSIONS};

/// Parses objects as the kinds that the operators define, and writes them out again.
const READ: &str = r#"
import json, sys
from cloudcoil.models.cert_manager import v1 as certificates
from cloudcoil.models.prometheus_operator import v1 as monitoring

kinds = {"cert-manager.io/v1": certificates, "monitoring.coreos.com/v1": monitoring}
objects = json.load(sys.stdin)
read = [getattr(kinds[o["apiVersion"]], o["kind"]).model_validate(o) for o in objects]
written = [o.model_dump(mode="json", by_alias=True, exclude_unset=True) for o in read]
json.dump(written, sys.stdout)
"#;

/// Whether an operator defines the object's kind, so that the schema is not part of Kubernetes.
fn is_of_an_operator(object: &Value) -> bool {
    object["apiVersion"] == "monitoring.coreos.com/v1"
        || object["apiVersion"] == "cert-manager.io/v1"
}

/// Objects of operators' kinds as they are parsed, which drops fields that the kind does not have.
fn understood(objects: &[&Value]) -> Vec<Value> {
    let mut given = tempfile::tempfile().unwrap();
    serde_json::to_writer(&given, objects).unwrap();
    given.rewind().unwrap();
    let mut read = tool("python3");
    let said = output(read.args(["-c", READ]).stdin(given));
    serde_json::from_str(&said).unwrap()
}

#[test]
fn each_variant_is_valid_strictly_in_the_oldest_and_the_newest_kubernetes() {
    let directory = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (name, objects) in &*VARIANTS {
        assert!(objects.len() >= 8, "{name}");
        for (number, object) in objects.iter().enumerate() {
            if is_of_an_operator(object) {
                continue;
            }
            let path = directory.path().join(format!("{name}-{number}.json"));
            fs::write(&path, object.to_string()).unwrap();
            paths.push(path);
        }
    }
    for version in VERSIONS {
        let mut validate = tool("kubernetes-validate");
        validate
            .args(["--strict", "--no-warn", "-k", version])
            .args(&paths);
        let said = output(&mut validate);
        let valid = said.matches(" passed for resource ").count();
        assert_eq!(valid, paths.len(), "{version}: {said}");
        println!("{valid} objects are valid in {version}");
    }
}

#[test]
fn objects_for_operators_have_only_fields_that_their_kinds_have() {
    let of_all = VARIANTS.iter().flat_map(|(_, objects)| objects);
    let mut objects: Vec<_> = of_all.filter(|object| is_of_an_operator(object)).collect();
    for (given, understood) in objects.iter().zip(understood(&objects)) {
        assert_eq!(**given, understood);
    }
    println!(
        "{} objects are as their operators define them",
        objects.len()
    );
    for kind in ["Certificate", "Issuer", "PrometheusRule", "ServiceMonitor"] {
        assert!(
            objects.iter().any(|object| object["kind"] == kind),
            "{kind}"
        );
    }
    // A field that no kind has is dropped.
    let mut other = objects[0].clone();
    other["spec"]["none"] = true.into();
    objects[0] = &other;
    assert_ne!(understood(&objects)[0], other);
}

#[test]
fn each_file_is_one_object_that_some_kustomization_takes() {
    let deploy = repository().join("deploy");
    let mut count = 0;
    for path in files(&deploy) {
        let is_yaml = path
            .extension()
            .is_some_and(|extension| extension == "yaml");
        if !is_yaml {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let [object] = &objects(&text)[..] else {
            panic!("{} is not one object", path.display());
        };
        if path.ends_with("kustomization.yaml") {
            continue;
        }
        assert!(object["kind"].is_string(), "{}", path.display());
        let beside = fs::read_to_string(path.with_file_name("kustomization.yaml")).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(beside.contains(name), "{} is in no list", path.display());
        count += 1;
    }
    assert!(count > 15, "{count}");
}
