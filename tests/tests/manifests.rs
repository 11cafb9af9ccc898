//! The manifests: what Kubernetes takes of them, and what it cannot know of the host.

use std::fs;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use ostrakon::settings::Settings;
use ostrakon_tests::host::{Shard, binary, config, guest};
use ostrakon_tests::manifests::{Deploy, dockerfile, files, objects, repository, the};
use ostrakon_tests::tools::{output, tool};
use serde_json::{Value, json};

/// The oldest and the newest minor version of Kubernetes that is supported.
const VERSIONS: [&str; 2] = ["1.32", "1.37"];
const OVERLAYS: [&str; 3] = ["memory", "disk", "production"];
/// What of the grace is not the drain's: clients and peers hang up, the store is closed and the last spans
/// go, up to 13 s in all; and some time to spare.
const CLOSING: Duration = Duration::from_secs(15);

/// Each overlay by itself, and with all options on.
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
        panic!("one container: {containers:?}");
    };
    container
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Which port a container's port of that name is.
fn port(objects: &[Value], name: &Value) -> Option<u64> {
    let mut ports = list(&container(objects)["ports"]).iter();
    ports.find(|port| port["name"] == *name)?["containerPort"].as_u64()
}

#[test]
fn each_variant_is_valid_strictly_in_the_oldest_and_the_newest_kubernetes() {
    let directory = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    let mut of_operators = 0;
    for (name, objects) in &*VARIANTS {
        assert!(objects.len() >= 8, "{name}");
        for (number, object) in objects.iter().enumerate() {
            let group = object["apiVersion"].as_str().unwrap();
            // Their schemas are not Kubernetes' own.
            if ["monitoring.coreos.com/v1", "cert-manager.io/v1"].contains(&group) {
                of_operators += 1;
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
        println!("{valid} objects are valid in {version}, {of_operators} are of operators' kinds");
    }
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

#[test]
fn probes_ask_for_what_the_admin_port_answers() {
    let host = Shard::new(&config(&guest("kv"), &[])).start();
    each(|name, objects| {
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let get = &container(objects)[probe]["httpGet"];
            assert_eq!(port(objects, &get["port"]), Some(9090), "{name}: {probe}");
            let path = get["path"].as_str().unwrap();
            let answer = host.admin("GET", path).unwrap();
            assert_eq!(answer.status, 200, "{name}: {probe}");
        }
    });
    assert_eq!(host.admin("GET", "/nothing").unwrap().status, 404);
    host.stop();
}

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
        // The name of a Pod is that of its set, and found under the set's Service.
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

/// A cordoned node once counted as the emptiest, so that the Pod of a drained one stayed Pending.
#[test]
fn a_node_that_takes_no_pods_does_not_keep_one_from_the_others() {
    each(|name, objects| {
        let constraints = list(&pod(objects)["topologySpreadConstraints"]);
        let strict: Vec<_> = constraints
            .iter()
            .filter(|one| one["whenUnsatisfiable"] == "DoNotSchedule")
            .collect();
        for one in &strict {
            assert_eq!(one["nodeTaintsPolicy"], "Honor", "{name}");
            assert_eq!(one["topologyKey"], "kubernetes.io/hostname", "{name}");
            assert_eq!(one["maxSkew"], 1, "{name}");
        }
        let wanted = usize::from(name.starts_with("production"));
        assert_eq!(strict.len(), wanted, "{name}: {constraints:?}");
    });
}

/// Peers believe what was signed before the authority is renewed, and after, whichever of its
/// certificates they have seen: it keeps its key, and is renewed long before what it signed expires.
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
        "by number: not all plugins know the names of others' ports"
    );
    assert_eq!(port(&objects, &json!("peers")), Some(7070));
    assert_eq!(egress.len(), 3, "peers, DNS, the API server");
}

#[test]
fn the_grace_is_longer_than_the_drain_in_each_variant() {
    each(|name, objects| {
        let grace = pod(objects)["terminationGracePeriodSeconds"]
            .as_u64()
            .unwrap();
        let settings = &the(objects, "ConfigMap", "server")["data"]["ostrakon.toml"];
        let drain = toml::from_str::<toml::Table>(settings.as_str().unwrap()).unwrap();
        let seconds = |field: &str| -> u64 {
            let time = drain["drain"][field].as_str().unwrap();
            time.strip_suffix('s').unwrap().parse().unwrap()
        };
        let (serve_for, deadline) = (seconds("serve_for"), seconds("deadline"));
        assert!(
            deadline + CLOSING.as_secs() <= grace,
            "{name}: {deadline} s of {grace} s"
        );
        assert!(serve_for > 0 && serve_for < deadline, "{name}");
        assert!(
            container(objects)["lifecycle"].is_null(),
            "{name}: SIGTERM does it all"
        );
    });
}

#[test]
fn the_memory_of_a_pod_holds_what_its_settings_allow() {
    const MIB: usize = 1 << 20;
    let mebibytes = |size: &Value| -> usize {
        let size = size.as_str().unwrap();
        match size.strip_suffix("Mi") {
            Some(size) => size.parse().unwrap(),
            None => 1024 * size.strip_suffix("Gi").unwrap().parse::<usize>().unwrap(),
        }
    };
    each(|name, objects| {
        let settings = &the(objects, "ConfigMap", "server")["data"]["ostrakon.toml"];
        let Settings { http, guest, .. } = Settings::parse(settings.as_str().unwrap()).unwrap();
        let container = container(objects);
        let threads = list(&container["env"])
            .iter()
            .find(|variable| variable["name"] == "OSTRAKON_THREADS");
        let threads = threads.expect("its number is not the node's")["value"].as_str();
        let threads: usize = threads.unwrap().parse().unwrap();
        let data = list(&pod(objects)["volumes"])
            .iter()
            .find(|volume| volume["emptyDir"]["medium"] == "Memory")
            .map_or(0, |volume| mebibytes(&volume["emptyDir"]["sizeLimit"]));
        let most = http.max_bodies_bytes
            + http.max_replies_bytes
            + http.max_connections * http.max_header_bytes
            + (2 * threads + 3) * guest.max_memory
            + (64 + 200 + data) * MIB;
        let limit = mebibytes(&container["resources"]["limits"]["memory"]);
        assert!(most <= limit * MIB, "{name}: {} of {limit} MiB", most / MIB);
        println!("{name}: at most {} of {limit} MiB", most / MIB);
    });
}

#[test]
fn the_role_is_no_more_than_what_the_host_asks_for() {
    each(|name, objects| {
        let rules = &the(objects, "Role", "server")["rules"];
        let wanted = json!([
            { "apiGroups": ["apps"], "resources": ["statefulsets"], "resourceNames": ["server"], "verbs": ["list", "watch"] },
            { "apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"] },
        ]);
        assert_eq!(*rules, wanted, "{name}");
        let kinds = objects
            .iter()
            .map(|object| object["kind"].as_str().unwrap());
        assert!(
            kinds.clone().all(|kind| !kind.starts_with("ClusterRole")),
            "{name}"
        );
        let binding = the(objects, "RoleBinding", "server");
        assert_eq!(binding["roleRef"]["name"], "server");
        assert_eq!(list(&binding["subjects"]).len(), 1, "{name}");
        let account = the(objects, "ServiceAccount", "server");
        assert_eq!(account["automountServiceAccountToken"], false, "{name}");
        assert_eq!(pod(objects)["automountServiceAccountToken"], true, "{name}");
        assert_eq!(pod(objects)["serviceAccountName"], "server", "{name}");
    });
}

/// As the Pod Security Standards' profile "restricted" demands, and the user of the image.
#[test]
fn pods_fit_the_restricted_profile() {
    let user = dockerfile()
        .into_iter()
        .rev()
        .find(|(name, _)| name == "USER");
    let (user, group) = user.as_ref().unwrap().1.split_once(':').unwrap();
    let id: u64 = user.parse().unwrap();
    assert_eq!(user, group);
    each(|name, objects| {
        let of_pod = &pod(objects)["securityContext"];
        let wanted = json!({
            "runAsNonRoot": true, "runAsUser": id, "runAsGroup": id, "fsGroup": id,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": { "type": "RuntimeDefault" },
        });
        assert_eq!(*of_pod, wanted, "{name}");
        let wanted = json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
        });
        assert_eq!(container(objects)["securityContext"], wanted, "{name}");
        for field in ["hostNetwork", "hostPID", "hostIPC", "initContainers"] {
            assert!(pod(objects)[field].is_null(), "{name}: {field}");
        }
        let allowed = ["configMap", "secret", "projected", "emptyDir"];
        for volume in list(&pod(objects)["volumes"]) {
            let kinds: Vec<_> = volume
                .as_object()
                .unwrap()
                .keys()
                .filter(|key| *key != "name")
                .collect();
            assert!(
                kinds.iter().all(|kind| allowed.contains(&kind.as_str())),
                "{name}: {kinds:?}"
            );
        }
    });
}

#[test]
fn the_image_has_a_version_and_it_is_this_one() {
    let version = env!("CARGO_PKG_VERSION");
    each(|name, objects| {
        let image = container(objects)["image"].as_str().unwrap();
        assert_eq!(
            image,
            format!("ghcr.io/ostrakon/ostrakon:{version}"),
            "{name}"
        );
    });
    let instructions = dockerfile();
    let argument = |name: &str| {
        let mut found = instructions.iter().filter_map(|(instruction, rest)| {
            let value = rest.strip_prefix(&format!("{name}="))?;
            (instruction == "ARG").then_some(value)
        });
        found.next().unwrap().to_owned()
    };
    assert_eq!(argument("VERSION"), version);
    let toolchain = fs::read_to_string(repository().join("rust-toolchain.toml")).unwrap();
    let channel = format!("channel = \"{}\"", argument("RUST_VERSION"));
    assert!(toolchain.contains(&channel), "{channel}");
    for path in files(&repository().join("deploy")) {
        let text = fs::read_to_string(&path).unwrap_or_default();
        assert!(!text.contains(":latest"), "{}", path.display());
    }
}

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
