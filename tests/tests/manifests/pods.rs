//! A Pod: its container, its permissions and resources, and how it starts and ends.

use std::fs;
use std::process::Command;

use ostrakon_settings::settings::Settings;
use ostrakon_test_support::tools::output;
use ostrakon_tests::host::{Shard, config, guest};
use ostrakon_tests::manifests::{dockerfile, files, repository, the};
use ostrakon_tests::memory;
use serde_json::{Value, json};

use super::{CLOSING, container, each, list, pod, port};

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

/// A cordoned node was once counted as the emptiest one, so the Pod of a drained node stayed
/// Pending.
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
            "{name}: there must be no preStop hook"
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
        let settings = Settings::parse(settings.as_str().unwrap()).unwrap();
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
        // A new guest is compiled, and then rehearses.
        let rehearsing = 2 * settings.guest.max_memory + 48 * MIB;
        let (store_cache, new) = (64 * MIB, rehearsing.max(200 * MIB));
        let most = memory::of_host(&settings, threads, store_cache) + new + data * MIB;
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

/// `kubectl describe pod` then shows why a process ended.
#[test]
fn a_pods_status_has_the_last_lines_of_a_process_that_failed() {
    each(|name, objects| {
        let policy = &container(objects)["terminationMessagePolicy"];
        assert_eq!(policy, "FallbackToLogsOnError", "{name}");
    });
}

/// As the Pod Security Standards' profile "restricted" demands, and with the user of the image.
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
fn the_image_is_what_the_script_lays_out_of_what_is_built_from_its_context() {
    let steps = dockerfile();
    let has = |name: &str, rest: &str| {
        let mut steps = steps.iter();
        steps.any(|(own, of)| own == name && of == rest)
    };
    assert!(has("COPY", ". ."));
    assert!(has(
        "RUN",
        "deploy/rootfs.sh target/dist/ostrakon kv.wasm /rootfs"
    ));
    let begins = steps.iter().rposition(|(name, _)| name == "FROM").unwrap();
    assert_eq!(steps[begins].1, "scratch");
    let last = &steps[begins..];
    let of = |wanted: &str| -> Vec<&str> {
        let found = last.iter().filter(|(name, _)| name == wanted);
        found.map(|(_, rest)| rest.as_str()).collect()
    };
    assert_eq!(of("COPY"), ["--from=builder /rootfs/ /"]);
    assert!(of("ADD").is_empty() && of("RUN").is_empty());
    let [labels] = of("LABEL")[..] else {
        panic!("one LABEL");
    };
    for name in [
        "title",
        "description",
        "version",
        "revision",
        "source",
        "licenses",
    ] {
        let label = format!("org.opencontainers.image.{name}=\"");
        assert!(labels.contains(&label), "{label}");
    }

    // The files that .dockerignore admits contain all packages of the workspace with their targets.
    let context = tempfile::tempdir().unwrap();
    let listed = fs::read_to_string(repository().join(".dockerignore")).unwrap();
    let (taken, left): (Vec<_>, Vec<_>) = listed
        .lines()
        .filter(|line| !line.starts_with('#') && *line != "*")
        .partition(|line| line.starts_with('!'));
    assert_eq!(left, ["**/target", "**/.ostrakon", "tests/kubernetes"]);
    for path in taken {
        let path = &path[1..];
        let from = repository().join(path);
        let all = if from.is_dir() {
            files(&from)
        } else {
            vec![from]
        };
        for from in all {
            let inside = from.strip_prefix(repository()).unwrap();
            let is_left = inside.starts_with("tests/kubernetes")
                || inside
                    .iter()
                    .any(|part| part == "target" || part == ".ostrakon");
            if !is_left {
                let to = context.path().join(inside);
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::copy(from, to).unwrap();
            }
        }
    }
    let mut metadata = Command::new(env!("CARGO"));
    metadata.args(["metadata", "--locked", "--no-deps", "--format-version", "1"]);
    let metadata = output(metadata.current_dir(&context));
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let mut names = list(&metadata["packages"])
        .iter()
        .map(|package| &package["name"]);
    assert!(names.any(|name| name == "ostrakon"), "{metadata}");
}
