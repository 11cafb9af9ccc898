//! Secrets: a guest reads them by name and gets the current values. The host does not reveal them
//! to anyone else.

use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ostrakon_tests::host::{CANARY as OF_ALL, Files, Host, Shard, config, guest};

const FIRST: &str = "canary-5b0c1f6e-first";
const SECOND: &str = "canary-5b0c1f6e-second";
/// Both values contain this, and nothing else does.
const CANARY: &str = "canary-5b0c1f6e";

fn secrets(value: &str) -> Files {
    // The host's own secrets are not for the guest, and must stay secret as well.
    ["canary", "ca.crt", "peer-token", "admin-token"]
        .map(|name| (name.to_owned(), value.as_bytes().to_vec()))
        .into()
}

fn shard(settings: &[(&str, &str)]) -> Shard {
    let mut shard = Shard::new(&config(&guest("hostile"), settings));
    // Everything that the host itself can log. The compiler's crates would log millions of lines.
    let filter = "trace,cranelift_codegen=info,regalloc2=info,wasmtime_internal_cranelift=info";
    shard.arguments = ["--log", filter].map(str::to_owned).to_vec();
    shard.secrets.publish(&secrets(FIRST)).expect("published");
    shard
}

fn revealed(host: &Host) -> String {
    let response = host.client().get("/reveal").expect("an answer");
    assert_eq!(response.status, 200, "{response:?}");
    response.text().to_owned()
}

/// The canary as text, as a list of bytes, in hexadecimal and in base64.
fn spellings() -> [String; 4] {
    let bytes = &CANARY.as_bytes()[..15];
    let decimal: Vec<_> = bytes.iter().map(u8::to_string).collect();
    let hexadecimal = bytes.iter().fold(String::new(), |mut digits, byte| {
        write!(digits, "{byte:02x}").expect("a string takes it");
        digits
    });
    // `canary-5b0c1`, encoded by another program.
    let base64 = "Y2FuYXJ5LTViMGMx".to_owned();
    [CANARY.to_owned(), decimal.join(", "), hexadecimal, base64]
}

#[track_caller]
fn assert_tells_none(text: &str) {
    for spelling in spellings() {
        assert!(
            !text.contains(&spelling),
            "{spelling} is in the response: {text}"
        );
    }
}

/// Everything that the admin port shows.
fn shown(host: &Host) -> String {
    ["/status", "/metrics", "/readyz", "/livez", "/startupz"]
        .map(|path| {
            let response = host.admin("GET", path).expect("the admin port answers");
            format!("{response:?} {}", response.text())
        })
        .join("\n")
}

/// Searches each file under a directory, and returns the number of files.
fn search(directory: &Path) -> usize {
    let mut files = 0;
    for entry in fs::read_dir(directory).expect("the directory can be listed") {
        let path = entry.expect("the entry can be read").path();
        if path.is_dir() {
            files += search(&path);
        } else {
            let content = fs::read(&path).expect("a file");
            for spelling in spellings() {
                let mut places = content.windows(spelling.len());
                let found = places.any(|at| at == spelling.as_bytes());
                assert!(!found, "{} contains a secret", path.display());
            }
            files += 1;
        }
    }
    files
}

#[test]
fn a_rotated_secret_is_seen_without_a_swap_and_none_is_told() {
    let mut shard = shard(&[]);
    let host = shard.start();
    assert_eq!(revealed(&host), FIRST);

    shard.secrets.publish(&secrets(SECOND)).expect("published");
    host.wait_until("the rotated secret", |host| revealed(host) == SECOND);
    assert_eq!(host.generation(), 1);

    // Every kind of failure that is reported.
    let mut told = String::new();
    let mut client = host.client();
    for path in [
        "/secret",
        "/trap",
        "/panic",
        "/loop",
        "/memory",
        "/stack",
        "/status",
        "/header-bad-value",
        "/secret?at=route",
        "/write-then-trap?access=write",
        "/set/k/v",
        "/no/such",
    ] {
        let response = client.get(path).expect("an answer");
        let body = String::from_utf8_lossy(&response.body);
        writeln!(told, "{response:?} {body}").expect("a string takes it");
    }
    for misbehave in [
        "trap-in-check",
        "error-in-check",
        "reveal-in-check,trap-in-check",
    ] {
        let files = config(&guest("hostile"), &[("misbehave", misbehave)]);
        let before = host.status()["refused"].clone();
        shard.config.publish(&files).expect("published");
        let status = host.wait_for_status("the refusal", |status| {
            status["refused"] != before && status["candidate"].is_null()
        });
        told.push_str(&status.to_string());
    }
    told.push_str(&shown(&host));

    // If secrets cannot be read, the last ones stay in force.
    let secrets_at = shard.secrets.directory().to_owned();
    let away = secrets_at.with_extension("away");
    fs::rename(&secrets_at, &away).expect("the file can be renamed");
    host.wait_for_status("the problem", |status| {
        !status["secrets"]["problem"].is_null()
    });
    assert_eq!(revealed(&host), SECOND);
    told.push_str(&shown(&host));
    fs::rename(&away, &secrets_at).expect("the file can be renamed");
    host.wait_for_status("its end", |status| status["secrets"]["problem"].is_null());
    told.push_str(&shown(&host));

    assert_tells_none(&told);
    let log = host.stop();
    assert!(
        log.contains("secrets read"),
        "the log does not have the expected lines: {log}"
    );
    for line in log.lines() {
        assert_tells_none(line);
    }
    let files = search(&shard.data) + search(shard.config.directory());
    assert!(files > 3, "there are too few files to check");
    println!(
        "{} log lines, {files} files, no secret in any of them",
        log.lines().count()
    );
}

/// The host cannot prevent a guest from writing a secret to its log. But the host's replies to
/// failing requests contain nothing of what the guest wrote, and neither do the status, the metrics
/// or any file.
#[test]
fn what_a_guest_tells_of_its_secrets_goes_no_further_than_the_log() {
    let mut shard = shard(&[]);
    let host = shard.start();
    let mut client = host.client();
    assert_eq!(
        client.get("/reveal-in-log").expect("an answer").text(),
        "told"
    );
    let response = client.get("/reveal-in-panic").expect("an answer");
    assert_eq!(response.status, 500);
    let mut told = format!("{response:?} {}", response.text());

    let misbehave = [("misbehave", "reveal-in-panic-in-check")];
    shard
        .config
        .publish(&config(&guest("hostile"), &misbehave))
        .expect("published");
    host.wait_for_status("the refusal", |status| !status["refused"].is_null());
    told.push_str(&shown(&host));

    assert_tells_none(&told);
    assert!(
        host.stop().contains(CANARY),
        "the guest's own line must contain the secret"
    );
    search(&shard.data);
    search(shard.config.directory());
}

/// Each shard of each test has a secret that the tests search for everywhere.
#[test]
fn a_secret_told_in_any_test_would_be_found() {
    let shard = Shard::new(&config(&guest("kv"), &[]));
    fs::create_dir_all(&shard.data).expect("the directory can be created");
    fs::write(shard.data.join("told"), OF_ALL).expect("the file can be written");
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(shard)));
    assert!(dropped.is_err());
}
