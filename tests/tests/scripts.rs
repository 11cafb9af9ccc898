//! The project's shell scripts, including those for real clusters, run against a stand-in for
//! kubectl that answers as a cluster would.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use ostrakon_test_support::certificates::Authority;
use ostrakon_test_support::tools::{output, tool};
use ostrakon_tests::cluster::shards;
use ostrakon_tests::host::{Host, binary, config, guest};
use ostrakon_tests::manifests::{files, repository};

/// The output of `ostrakon status` for a healthy Pod, and for one whose guest is refused. The
/// scripts parse these lines, so the stand-in must print real ones.
static STATUSES: LazyLock<[(&str, String); 2]> = LazyLock::new(|| {
    let mut shard = shards(65, 1, &config(&guest("kv"), &[])).remove(0);
    let in_a_day = SystemTime::now() + Duration::from_hours(24);
    let authority = Authority::new("peers");
    let issued = authority.issue(&["127.7.65.0".to_owned()], in_a_day);
    let secret = [
        ("peer-token", "0123456789abcdef0123456789abcdef"),
        ("peer-ca.crt", &authority.pem),
        ("peer.crt", &issued.certificate),
        ("peer.key", &issued.key),
    ];
    let secret = secret.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
    shard.secrets.publish(&secret.into()).unwrap();
    let host = shard.start();
    host.wait_for_status("all data", |status| status["topology"]["stable"] == true);
    let status = |host: &Host| {
        let mut status = Command::new(binary());
        output(status.args(["status", "--admin", &host.admin.to_string()]))
    };
    let well = status(&host);
    shard.config.publish(&config(b"none", &[])).unwrap();
    host.wait_for_status("a refusal", |status| status["refused"].is_object());
    let refused = status(&host);
    host.stop();
    [("well", well), ("refused", refused)]
});

#[test]
fn shellcheck_finds_nothing_in_any_script() {
    let top = repository();
    let mut scripts = vec![top.join(".ci/run")];
    for directory in ["deploy", "tests/kubernetes", "tests/tests"] {
        let found = files(&top.join(directory)).into_iter();
        scripts.extend(found.filter(|path| path.extension().is_some_and(|end| end == "sh")));
    }
    assert!(scripts.len() > 10, "{scripts:?}");
    output(
        Command::new("shellcheck")
            .args(["--external-sources", "--source-path=SCRIPTDIR"])
            .args(&scripts),
    );
    println!("{} scripts", scripts.len());
}

/// Runs `run.sh` with the stand-in as `kubectl`, which has a context named `known`. Also returns
/// the requests that the stand-in got. The script must leave nothing on this machine.
fn run(namespace: &str, arguments: &[&str], variables: &[(&str, &str)]) -> (Output, String) {
    let directory = tempfile::tempdir().unwrap();
    let top = repository();
    let bin = directory.path().join("bin");
    let scratch = directory.path().join("scratch");
    fs::create_dir(&bin).unwrap();
    fs::create_dir(&scratch).unwrap();
    fs::copy(top.join("tests/tests/kubectl.sh"), bin.join("kubectl")).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    for (name, said) in &*STATUSES {
        fs::write(directory.path().join(name), said).unwrap();
    }
    let guest = directory.path().join("guest.wasm");
    fs::write(&guest, b"\0asm").unwrap();
    let real = tool("kubectl");
    let ran = Command::new(top.join("tests/kubernetes/run.sh"))
        .args(arguments)
        .env("PATH", path)
        .env("TMPDIR", &scratch)
        .env("STATE", directory.path())
        .env("STATUSES", directory.path())
        .env("REAL_KUBECTL", real.get_program())
        .env("NAMESPACE", namespace)
        .env("PATIENCE", "60")
        .env("GUEST", guest)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let left = files(&scratch);
    assert!(left.is_empty(), "left behind: {left:?}");
    let log = fs::read_to_string(directory.path().join("log")).unwrap_or_default();
    (ran, log)
}

fn said(ran: &Output) -> String {
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

#[test]
fn each_scenario_passes_where_all_is_well_and_says_what_it_counted() {
    let (ran, log) = run("all-well", &["known"], &[]);
    let text = said(&ran);
    assert!(
        ran.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    for wanted in [
        "3 shards ready and settled after",
        "hhhhhhhhhhhhhhhhhhhhhhhhhh | hits = 26 (100%)",
        "a guest of 4 bytes: live in all shards",
        "refused by 3 shards at the step verify",
        "from 3 to 5 shards in",
        "from 5 to 2 shards in",
        "in 2 shards: 2000 requests, 0 failed",
        "server-1 was back and ready after",
        "3 Pods replaced in",
        "back after",
        "changed in three steps in",
        "certificate 3 in force in 3 shards after",
        "a key that does not fit was refused by 3 shards, which keep the former one",
        "9 passed, 0 failed",
    ] {
        assert!(text.contains(wanted), "{wanted}:\n{text}");
    }
    assert_eq!(text.matches("requests, 0 failed").count(), 13, "{text}");
    let scenarios = files(&repository().join("tests/kubernetes/scenarios"));
    assert_eq!(text.matches("== ").count(), scenarios.len() + 1, "{text}");
    // The script deletes what it created, and names the cluster at each step.
    for namespace in ["all-well", "all-well-tls"] {
        assert!(
            log.contains(&format!("delete namespace {namespace} ")),
            "{log}"
        );
    }
    assert!(
        !repository()
            .join("tests/kubernetes/overlays/all-well")
            .exists()
    );
    options_are_there(&log);
}

/// Checks that the load client has each option that a script passes to it.
fn options_are_there(log: &str) {
    let client = binary().with_file_name("load-client");
    let help = ["--help", "run --help"].map(|asked| {
        let mut command = Command::new(&client);
        output(command.arg("server").args(asked.split(' ')))
    });
    let help = help.concat();
    let mut options = BTreeSet::new();
    for line in log.lines() {
        if let Some((_, arguments)) = line.split_once("load-client ") {
            let words = arguments.split(' ');
            options.extend(words.filter(|word| word.starts_with("--")));
        }
    }
    assert!(options.len() > 4, "{options:?}");
    for option in options {
        assert!(help.contains(&format!("{option} <")), "{option}:\n{help}");
    }
}

/// The scenario once filled keys and never checked that they were still there, and the load
/// overwrote some of them.
#[test]
fn keys_that_nobody_saves_anew_are_looked_for_after_each_change_of_the_number() {
    let (ran, log) = run("scaled", &["known", "scale"], &[]);
    assert!(ran.status.success(), "{}", said(&ran));
    let steps: Vec<_> = log
        .lines()
        .filter(|line| line.contains(" load-client ") || line.contains(" scale "))
        .map(|line| match line.split_once(" run ") {
            Some(_) => "run",
            None => line.rsplit(' ').next().unwrap(),
        })
        .collect();
    let wanted = ["fill", "run", "5", "check", "2", "check", "3", "check"];
    assert_eq!(steps, wanted, "{log}");

    let (ran, _) = run("lossy", &["known", "scale"], &[("LOST", "1")]);
    let text = said(&ran);
    assert_eq!(ran.status.code(), Some(1), "{text}");
    assert!(
        text.contains("FAILED: not every key is found in 5 shards"),
        "{text}"
    );
}

/// A Pod without an answer was once taken for one with a new certificate.
#[test]
fn a_pod_that_cannot_be_asked_has_not_taken_a_certificate() {
    let variables = [("DEAF", "4"), ("PATIENCE", "5")];
    let (ran, _) = run("deaf", &["known", "rotate-certificate"], &variables);
    let text = said(&ran);
    assert_eq!(ran.status.code(), Some(1), "{text}");
    let wanted = "FAILED: the certificate in all shards: not within 5 s";
    assert!(text.contains(wanted), "{text}");
}

#[test]
fn an_image_is_named_by_tag_or_digest_of_any_registry() {
    let check = |image: &str, name: &str, other: &str| {
        let script = ". \"$0\" && image_fields \"$1\"";
        let mut bash = Command::new("bash");
        bash.arg("-c")
            .arg(script)
            .arg(repository().join("tests/kubernetes/lib.sh"))
            .arg(image)
            .env("CONTEXT", "none");
        assert_eq!(
            output(&mut bash),
            format!("newName: {name}\n{other}\n"),
            "{image}"
        );
    };
    check("name", "name", "newTag: \"latest\"");
    check("name:0.1", "name", "newTag: \"0.1\"");
    check("host:5000/name", "host:5000/name", "newTag: \"latest\"");
    check("host:5000/a/name:1", "host:5000/a/name", "newTag: \"1\"");
    check("a/name@sha256:0f", "a/name", "digest: sha256:0f");
    check("host:5000/a@sha256:0f", "host:5000/a", "digest: sha256:0f");
    // With both a tag and a digest, the digest counts, because the signature is for it.
    check("host/a:1@sha256:0f", "host/a", "digest: sha256:0f");
}

#[test]
fn one_failed_request_fails_its_scenario_and_the_run() {
    let scenarios = [
        "known",
        "smart-client",
        "rolling-restart",
        "rotate-certificate",
    ];
    let (ran, _) = run("not-well", &scenarios, &[("FAILED", "1")]);
    let text = said(&ran);
    assert_eq!(ran.status.code(), Some(1), "{text}");
    assert_eq!(text.matches("FAILED: requests failed").count(), 2, "{text}");
    assert!(text.contains("1 passed, 2 failed"), "{text}");
}

#[test]
fn no_cluster_is_touched_that_is_not_named() {
    let (ran, log) = run("unnamed", &[], &[]);
    assert_eq!(ran.status.code(), Some(64));
    assert!(said(&ran).contains("tests/kubernetes/run.sh CONTEXT"));
    assert_eq!(log, "");
    for arguments in [&["unknown"][..], &["known", "no-such-scenario"]] {
        let (ran, log) = run("unnamed", arguments, &[]);
        assert_eq!(ran.status.code(), Some(64));
        assert!(
            log.lines().all(|line| line.contains("config get-contexts")),
            "{log}"
        );
    }
    assert!(Path::new(&repository().join("tests/kubernetes/client.yaml")).exists());
}
