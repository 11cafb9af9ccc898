//! The project's shell scripts, and the logic of those that are for real clusters: tried here on
//! a stand-in for kubectl that answers as a cluster would.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use ostrakon_tests::manifests::{files, repository};
use ostrakon_tests::tools::{output, tool};

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

/// Runs `run.sh` where `kubectl` is the stand-in, in which the context `known` is one.
fn run(namespace: &str, arguments: &[&str], failed: u32) -> (Output, String) {
    let directory = tempfile::tempdir().unwrap();
    let top = repository();
    let bin = directory.path().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::copy(top.join("tests/tests/kubectl.sh"), bin.join("kubectl")).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let guest = directory.path().join("guest.wasm");
    fs::write(&guest, b"\0asm").unwrap();
    let real = tool("kubectl");
    let ran = Command::new(top.join("tests/kubernetes/run.sh"))
        .args(arguments)
        .env("PATH", path)
        .env("STATE", directory.path())
        .env("REAL_KUBECTL", real.get_program())
        .env("NAMESPACE", namespace)
        .env("PATIENCE", "60")
        .env("GUEST", guest)
        .env("FAILED", failed.to_string())
        .output()
        .unwrap();
    let log = fs::read_to_string(directory.path().join("log")).unwrap_or_default();
    (ran, log)
}

fn said(ran: &Output) -> String {
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

#[test]
fn each_scenario_passes_where_all_is_well_and_says_what_it_counted() {
    let (ran, log) = run("all-well", &["known"], 0);
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
        "server-1 was back and ready after",
        "3 Pods replaced in",
        "back after",
        "changed in three steps in",
        "certificate 3 in force in 3 shards after",
        "9 passed, 0 failed",
    ] {
        assert!(text.contains(wanted), "{wanted}:\n{text}");
    }
    assert_eq!(text.matches("requests, 0 failed").count(), 10, "{text}");
    let scenarios = files(&repository().join("tests/kubernetes/scenarios"));
    assert_eq!(text.matches("== ").count(), scenarios.len() + 1, "{text}");
    // What it made it deletes, and it says at each step which cluster it means.
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
}

#[test]
fn one_failed_request_fails_its_scenario_and_the_run() {
    let (ran, _) = run("not-well", &["known", "smart-client", "rolling-restart"], 1);
    let text = said(&ran);
    assert_eq!(ran.status.code(), Some(1), "{text}");
    assert!(text.contains("FAILED: requests failed"), "{text}");
    assert!(text.contains("1 passed, 1 failed"), "{text}");
}

#[test]
fn no_cluster_is_touched_that_is_not_named() {
    let (ran, log) = run("unnamed", &[], 0);
    assert_eq!(ran.status.code(), Some(64));
    assert!(said(&ran).contains("tests/kubernetes/run.sh CONTEXT"));
    assert_eq!(log, "");
    for arguments in [&["unknown"][..], &["known", "no-such-scenario"]] {
        let (ran, log) = run("unnamed", arguments, 0);
        assert_eq!(ran.status.code(), Some(64));
        assert!(
            log.lines().all(|line| line.contains("config get-contexts")),
            "{log}"
        );
    }
    assert!(Path::new(&repository().join("tests/kubernetes/client.yaml")).exists());
}
