//! Which port each party can reach, and by which name.

use std::process::Command;

use ostrakon_tests::host::binary;
use ostrakon_tests::manifests::{Deploy, the};
use serde_json::json;

use super::{container, each, list, pod, port, set};

#[test]
fn ports_and_arguments_are_those_of_the_command() {
    let help = Command::new(binary()).args(["serve", "--help"]).output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    each(|name, objects| {
        let of = |port_name: &str| port(objects, &json!(port_name)).unwrap();
        for (port, flag) in [("public", "--listen"), ("admin", "--admin")] {
            let after = help.split_once(&format!("{flag} <")).unwrap().1;
            let default = after.split_once("[default: ").unwrap().1;
            let wanted = format!("0.0.0.0:{}]", of(port));
            assert!(default.starts_with(&wanted), "{name}: {flag}");
        }
        let peers = format!(":{}", of("peers"));
        let arguments = list(&container(objects)["args"]);
        assert_eq!(arguments[0], "serve");
        for argument in &arguments[1..] {
            let (flag, value) = argument.as_str().unwrap().split_once('=').unwrap();
            assert!(help.contains(&format!("{flag} <")), "{name}: {flag}");
            if flag == "--peers" || flag == "--peer-listen" {
                assert!(value.ends_with(&peers), "{name}: {value}");
            }
        }
        // A Pod's name derives from its StatefulSet's name, and is resolved under the set's
        // Service.
        let service = set(objects)["serviceName"].as_str().unwrap();
        let peers = format!("--peers=server-{{}}.{service}.$(POD_NAMESPACE).svc:7070");
        assert!(arguments.contains(&json!(peers)), "{name}");
        let env = list(&container(objects)["env"]);
        for (variable, field) in [("NAME", "name"), ("NAMESPACE", "namespace"), ("UID", "uid")] {
            let from = json!({ "fieldRef": { "fieldPath": format!("metadata.{field}") } });
            let wanted = json!({ "name": format!("POD_{variable}"), "valueFrom": from });
            assert!(env.contains(&wanted), "{name}: {variable}");
        }
    });
}

#[test]
fn services_policies_and_budgets_select_these_pods_and_their_ports() {
    each(|name, objects| {
        let labels = &set(objects)["template"]["metadata"]["labels"];
        assert_eq!(&set(objects)["selector"]["matchLabels"], labels, "{name}");
        for spread in list(&pod(objects)["topologySpreadConstraints"]) {
            assert_eq!(&spread["labelSelector"]["matchLabels"], labels, "{name}");
        }
        let budget = &the(objects, "PodDisruptionBudget", "server")["spec"];
        assert_eq!(&budget["selector"]["matchLabels"], labels, "{name}");
        for service in ["server", "server-peers"] {
            let service = &the(objects, "Service", service)["spec"];
            assert_eq!(&service["selector"], labels, "{name}");
            for target in list(&service["ports"]) {
                assert!(
                    port(objects, &target["targetPort"]).is_some(),
                    "{name}: {target}"
                );
            }
        }
        let peers = &the(objects, "Service", "server-peers")["spec"];
        let headless = (&peers["clusterIP"], &peers["publishNotReadyAddresses"]);
        assert_eq!(headless, (&json!("None"), &json!(true)), "{name}");
        let is_https = list(&pod(objects)["volumes"])
            .iter()
            .any(|volume| volume["projected"].is_object());
        let public = list(&the(objects, "Service", "server")["spec"]["ports"]);
        let wanted = if is_https {
            ("https", 443)
        } else {
            ("http", 80)
        };
        let [only] = public else {
            panic!("{name}: {public:?}")
        };
        assert_eq!(
            (&only["name"], &only["port"]),
            (&json!(wanted.0), &json!(wanted.1)),
            "{name}"
        );
    });
}

#[test]
fn the_policy_lets_clients_peers_and_prometheus_in_each_by_its_port() {
    let deploy = Deploy::new();
    let objects = deploy.render("production");
    let labels = &set(&objects)["template"]["metadata"]["labels"];
    let policy = &the(&objects, "NetworkPolicy", "server")["spec"];
    assert_eq!(&policy["podSelector"]["matchLabels"], labels);
    assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]));
    let rules: Vec<_> = list(&policy["ingress"])
        .iter()
        .map(|rule| (rule["ports"].clone(), rule["from"].clone()))
        .collect();
    let own = json!([{ "podSelector": { "matchLabels": labels } }]);
    let monitoring = json!({ "kubernetes.io/metadata.name": "monitoring" });
    let wanted = [
        (
            json!([{ "port": "public" }]),
            json!([{ "podSelector": {} }]),
        ),
        (json!([{ "port": "peers" }]), own.clone()),
        (
            json!([{ "port": "admin" }]),
            json!([{ "namespaceSelector": { "matchLabels": monitoring } }]),
        ),
    ];
    assert_eq!(rules, wanted);
    for (ports, _) in &rules {
        assert!(port(&objects, &ports[0]["port"]).is_some());
    }
    let egress = list(&policy["egress"]);
    assert_eq!(
        egress[0],
        json!({ "to": own, "ports": [{ "port": 7070 }] }),
        "ports must be numbers: not all plugins know the names of other Pods' ports"
    );
    assert_eq!(port(&objects, &json!("peers")), Some(7070));
    assert_eq!(
        egress.len(),
        3,
        "there must be rules for peers, DNS and the API server"
    );
}
