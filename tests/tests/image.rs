//! The image: its content, and that the host works as process 1 of a container without any
//! privileges.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::thread;

use ostrakon_test_support::api_server::ApiServer;
use ostrakon_test_support::net::Net;
use ostrakon_tests::container::Image;
use ostrakon_tests::host::{Files, binary, config, guest};
use ostrakon_tests::manifests::{Deploy, files, the};
use ostrakon_tests::volume::Volume;
use serde_json::Value;

/// The largest permitted image of a released binary, unpacked.
const MAX_BYTES: u64 = 40 << 20;

fn tree(root: &Path) -> BTreeMap<PathBuf, (u64, i64)> {
    let found = files(root).into_iter().map(|path| {
        let metadata = fs::metadata(&path).unwrap();
        (path, (metadata.len(), metadata.mtime()))
    });
    found.collect()
}

#[test]
fn it_holds_the_binary_what_that_loads_and_a_guest_and_nothing_else() {
    let image = Image::assemble();
    let mut bytes = 0;
    for path in files(&image.root()) {
        let inside = path.strip_prefix(image.root()).unwrap().to_str().unwrap();
        let known = [
            "etc/group",
            "etc/nsswitch.conf",
            "etc/ostrakon/config/ostrakon.toml",
            "etc/passwd",
            "usr/bin/ostrakon",
            "usr/share/ostrakon/kv.wasm",
        ];
        let is_library = inside.starts_with("lib") && inside.contains(".so.");
        assert!(known.contains(&inside) || is_library, "{inside}");
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(
            metadata.mode() & 0o7022,
            0,
            "{inside}: {:o}",
            metadata.mode()
        );
        bytes += metadata.len();
    }
    let is_debug = binary()
        .components()
        .any(|part| part.as_os_str() == "debug");
    if is_debug {
        println!("{bytes} bytes unpacked, NOT CHECKED: OSTRAKON_TEST_HOST is no released binary");
    } else {
        println!("{bytes} bytes unpacked");
        assert!(bytes <= MAX_BYTES, "{bytes}");
    }
    let passwd = fs::read_to_string(image.root().join("etc/passwd")).unwrap();
    assert!(
        passwd.contains(&format!(":{0}:{0}:", image.user)),
        "{passwd}"
    );
}

#[test]
fn as_process_1_without_any_right_it_serves_swaps_and_drains() {
    let image = Image::assemble();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    image.give(&path("data"));
    let settings = Files::from([("label".to_owned(), b"no guest".to_vec())]);
    let mut volume = Volume::create(path("config")).unwrap();
    volume.publish(&settings).unwrap();
    let net = Net::claim().first();
    let env = ["LISTEN", "ADMIN"].map(|port| format!("OSTRAKON_{port}={net}:0"));
    let mounts = [
        (path("config"), "/etc/ostrakon/config"),
        (path("data"), "/var/lib/ostrakon"),
    ];
    let mounts: Vec<_> = mounts
        .iter()
        .map(|(from, to)| (from.as_path(), *to))
        .collect();
    let before = tree(&image.root());
    let container = image.run("server-0", &env, &mounts);
    let host = container.host();
    host.wait_until("readiness", |host| {
        host.admin("GET", "/readyz")
            .is_ok_and(|ready| ready.status == 200)
    });
    let status = fs::read_to_string(format!("/proc/{}/status", container.id())).unwrap();
    let field = |name: &str| -> Vec<&str> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().split_whitespace().collect()
    };
    assert_eq!(field("NSpid:").last(), Some(&"1"));
    let user = image.user.to_string();
    assert_eq!(
        (field("Uid:"), field("Gid:")),
        (vec![&user[..]; 4], vec![&user[..]; 4])
    );
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), ["1"]);

    let mut client = host.client();
    assert_eq!(client.get("/save/a/b").unwrap().text(), "b");
    assert_eq!(
        host.status()["generation"]["name"],
        "kv",
        "the live guest must be the image's"
    );
    volume.publish(&config(&guest("votes"), &[])).unwrap();
    host.wait_for_status("the swap", |status| status["generation"]["generation"] == 2);
    assert_ne!(host.status()["generation"]["name"], "kv");
    volume.publish(&settings).unwrap();
    host.wait_for_status("the swap", |status| status["generation"]["generation"] == 3);
    assert_eq!(client.get("/load/a").unwrap().text(), "b");
    let log = container.stop();
    assert!(
        log.contains(r#""drained""#) && log.contains(r#""closed""#),
        "{log}"
    );
    // In the container, too, the process that compiles gave up its privileges.
    assert!(!log.contains("the compiler process"), "{log}");
    assert_eq!(tree(&image.root()), before, "the image's root was changed");

    // It starts again on the same data.
    let container = image.run("server-00", &env, &mounts);
    let host = container.host();
    host.wait_until("readiness", |host| {
        host.admin("GET", "/readyz")
            .is_ok_and(|ready| ready.status == 200)
    });
    assert_eq!(host.client().get("/load/a").unwrap().text(), "b");
    container.stop();
}

#[test]
fn without_any_volume_it_serves_with_what_is_in_it() {
    let image = Image::assemble();
    let directory = tempfile::tempdir().unwrap();
    image.give(directory.path());
    let net = Net::claim().first();
    let env = ["LISTEN", "ADMIN"].map(|port| format!("OSTRAKON_{port}={net}:0"));
    let container = image.run("kv-0", &env, &[(directory.path(), "/var/lib/ostrakon")]);
    container.host().wait_until("readiness", |host| {
        host.admin("GET", "/readyz")
            .is_ok_and(|ready| ready.status == 200)
    });
    assert_eq!(
        container.host().client().get("/save/a/b").unwrap().text(),
        "b"
    );
    container.stop();
}

/// A container's environment variables, as the kubelet sets them, and the addresses that it listens
/// on.
fn variables(container: &Value, pod: &str, net: Ipv4Addr, api: &ApiServer) -> Vec<String> {
    let mut env = vec![
        format!("OSTRAKON_LISTEN={net}:8080"),
        format!("OSTRAKON_ADMIN={net}:9090"),
    ];
    for variable in container["env"].as_array().unwrap() {
        let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            None => variable["value"].as_str().unwrap(),
            Some("metadata.name") => pod,
            Some("metadata.namespace") => "shop",
            Some("metadata.uid") => "11111111-0000-0000-0000-000000000000",
            Some(other) => panic!("{other}"),
        };
        env.push(format!("{}={value}", variable["name"].as_str().unwrap()));
    }
    let of_the_api = api.environment().into_iter();
    let of_the_api = of_the_api.filter(|(name, _)| name.starts_with("KUBERNETES_"));
    env.extend(of_the_api.map(|(name, value)| format!("{name}={value}")));
    env
}

/// Runs a container with the arguments, variables and volumes of the manifests. It listens on
/// addresses of this test's own instead of all addresses. It runs alone, because there is no other
/// Pod.
#[test]
fn the_pod_of_the_manifests_runs_and_is_asked_from_within() {
    const SET: &str = "server";
    let api = ApiServer::start(3);
    api.change(|world| {
        world.create(SET, 1);
        world.rules[0].name = Some(SET);
    });
    let objects = Deploy::new().render("disk");
    let pod = &the(&objects, "StatefulSet", SET)["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let mut image = Image::assemble();
    let net = Net::claim().first();
    // Arguments replace the image's CMD, and the entry point stays.
    image.command.truncate(1);
    for argument in container["args"].as_array().unwrap() {
        let argument = argument.as_str().unwrap();
        let argument = argument.replace("$(POD_NAMESPACE)", "shop");
        image
            .command
            .push(argument.replace("0.0.0.0", &net.to_string()));
    }
    let name = format!("{SET}-0");
    let env = variables(container, &name, net, &api);
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    image.give(&path("data"));
    let data = the(&objects, "ConfigMap", SET)["data"].as_object().unwrap();
    let config = data.iter().map(|(key, value)| {
        let value = value.as_str().unwrap();
        (key.clone(), value.as_bytes().to_vec())
    });
    Volume::create(path("config"))
        .unwrap()
        .publish(&config.collect())
        .unwrap();
    let token = (
        "peer-token".to_owned(),
        b"0123456789abcdef0123456789abcdef".to_vec(),
    );
    let secrets = Files::from([token]);
    Volume::create(path("secrets"))
        .unwrap()
        .publish(&secrets)
        .unwrap();
    // Readable only by root and the Pod's fsGroup, as `defaultMode` sets it.
    for file in files(&path("secrets")) {
        chown(&file, None, Some(image.user)).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o440)).unwrap();
    }
    fs::create_dir(path("account")).unwrap();
    for file in ["ca.crt", "namespace", "token"] {
        fs::copy(api.account().join(file), path("account").join(file)).unwrap();
    }
    let account = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mut mounts = vec![(path("account"), account)];
    for mount in container["volumeMounts"].as_array().unwrap() {
        let name = mount["name"].as_str().unwrap();
        mounts.push((path(name), mount["mountPath"].as_str().unwrap()));
    }
    let mounts: Vec<_> = mounts
        .iter()
        .map(|(from, to)| (from.as_path(), *to))
        .collect();
    let container = image.run(&name, &env, &mounts);
    let host = container.host();
    host.wait_until("readiness", |host| {
        host.admin("GET", "/readyz")
            .is_ok_and(|ready| ready.status == 200)
    });
    assert_eq!(host.client().get("/save/a/b").unwrap().text(), "b");
    let admin = format!("{net}:9090");
    let said = container.exec(&["ostrakon", "status", "--admin", &admin]);
    let row = |name: &str| {
        let mut lines = said.lines().map(|line| line.split_once(' '));
        let found = lines.find_map(|line| line.filter(|(of, _)| *of == name));
        found.map(|(_, value)| value.trim())
    };
    for (name, value) in [
        ("shard", "0"),
        ("ready", "true"),
        ("generation.name", "kv"),
        ("topology.shards", "1"),
        ("kubernetes.namespace", "shop"),
        ("kubernetes.replicas", "1"),
        ("kubernetes.problem", "-"),
        ("peers.tokens", "1"),
    ] {
        assert_eq!(row(name), Some(value), "{name}: {said}");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", container.id())).unwrap();
    assert!(
        status.contains("Seccomp:\t2"),
        "no seccomp filter: {status}"
    );
    container.stop();
}

/// A minimal image often cannot look up names.
#[test]
fn peers_find_each_other_by_name_through_dns() {
    const ZONE: &str = "server-peers.shop.svc";
    let image = Image::assemble();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let net = Net::claim();
    let first = net.first().to_bits();
    let dns = UdpSocket::bind((Ipv4Addr::from_bits(first + 99), 53)).unwrap();
    let resolver = format!(
        "nameserver {}\noptions ndots:5\n",
        dns.local_addr().unwrap().ip()
    );
    fs::write(path("resolv.conf"), resolver).unwrap();
    thread::spawn(move || answer_names(&dns, ZONE, first));
    let files = Files::from([("ostrakon.toml".to_owned(), b"cluster.shards = 2".to_vec())]);
    let mut volume = Volume::create(path("config")).unwrap();
    volume.publish(&files).unwrap();
    let containers: Vec<_> = (0..2)
        .map(|ordinal| {
            let data = path(&format!("data-{ordinal}"));
            image.give(&data);
            let address = Ipv4Addr::from_bits(first + ordinal);
            let env = [
                format!("OSTRAKON_LISTEN={address}:8080"),
                format!("OSTRAKON_ADMIN={address}:9090"),
                format!("OSTRAKON_PEER_LISTEN={address}:7070"),
                format!("OSTRAKON_PEERS=server-{{}}.{ZONE}:7070"),
            ];
            let mounts = [
                (path("config"), "/etc/ostrakon/config"),
                (path("resolv.conf"), "/etc/resolv.conf"),
                (data, "/var/lib/ostrakon"),
            ];
            let mounts: Vec<_> = mounts
                .iter()
                .map(|(from, to)| (from.as_path(), *to))
                .collect();
            image.run(&format!("server-{ordinal}"), &env, &mounts)
        })
        .collect();
    for container in &containers {
        container.host().wait_for_status("both", |status| {
            status["topology"]["shards"] == 2 && status["topology"]["stable"] == true
        });
    }
    let mut client = containers[0].host().client();
    let shards: Vec<_> = ["a", "b"]
        .map(|key| {
            let saved = client.get(&format!("/save/{key}/word")).unwrap();
            assert_eq!((saved.status, saved.text()), (200, "word"));
            saved.header("ostrakon-shard").unwrap().to_owned()
        })
        .into();
    assert_eq!(
        shards,
        ["1", "0"],
        "one of the requests must have been forwarded"
    );
    for container in containers {
        container.stop();
    }
}

/// Answers queries for `server-N.ZONE` with the address N after the first, and every other name
/// with NXDOMAIN (RFC 1035, section 4.1).
fn answer_names(socket: &UdpSocket, zone: &str, first: u32) {
    let mut query = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut query) {
        let mut labels = Vec::new();
        let mut at = 12;
        while query[at] != 0 {
            let label = &query[at + 1..=at + usize::from(query[at])];
            labels.push(String::from_utf8_lossy(label).into_owned());
            at += label.len() + 1;
        }
        let (kind, end) = (query[at + 2], at + 5);
        assert!(end <= length);
        let name = labels.join(".");
        let ordinal = name.strip_prefix("server-").and_then(|rest| {
            rest.strip_suffix(zone)?
                .strip_suffix('.')?
                .parse::<u32>()
                .ok()
        });
        let is_address = ordinal.is_some() && kind == 1;
        let code = if ordinal.is_some() { 0 } else { 3 };
        let mut reply = query[..end].to_vec();
        // An authoritative reply; the counts of questions (one) and of answers.
        reply[2..12].copy_from_slice(&[
            0x85,
            0x80 | code,
            0,
            1,
            0,
            u8::from(is_address),
            0,
            0,
            0,
            0,
        ]);
        if let (Some(ordinal), true) = (ordinal, is_address) {
            // The question's name, type A, class IN, a time to live of 0, four bytes.
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
            reply.extend((first + ordinal).to_be_bytes());
        }
        // A client that has gone needs no reply.
        let _ = socket.send_to(&reply, from);
    }
}
