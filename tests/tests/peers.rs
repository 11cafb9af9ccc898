//! The shards' credentials for each other: tokens and certificates that change while they serve,
//! and the reports about unusable ones.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use ostrakon_test_support::certificates::{Authority, Issued};
use ostrakon_test_support::tools::output;
use ostrakon_tests::cluster::shards;
use ostrakon_tests::host::{CANARY, Files, Host, Shard, config, guest};
use ostrakon_tests::load::under_load;
use ostrakon_tests::manifests::repository;

const OLD: &str = "old-0123456789abcdef";
const NEW: &str = "new-0123456789abcdef";
const SETTINGS: &str = "[cluster]\nshards = 2";

/// A Secret with these entries, and the canary that every shard of every test has.
fn secret(entries: &[(&str, &str)]) -> Files {
    let mut files = Files::from([("canary-of-all".to_owned(), CANARY.into())]);
    for (name, value) in entries {
        files.insert((*name).to_owned(), value.as_bytes().to_vec());
    }
    files
}

fn with_certificate(believed: &[&Authority], issued: &Issued, more: &[(&str, &str)]) -> Files {
    let believed: String = believed.iter().map(|authority| &*authority.pem).collect();
    let mut files = secret(more);
    for (name, value) in [
        ("peer-ca.crt", &believed),
        ("peer.crt", &issued.certificate),
        ("peer.key", &issued.key),
    ] {
        files.insert(name.to_owned(), value.as_bytes().to_vec());
    }
    files
}

/// Two shards in a part of 127.0.0.0/8 that no other test uses.
fn two_shards(part: u8, first: &Files) -> [Shard; 2] {
    let files = config(&guest("kv"), &[("ostrakon.toml", SETTINGS)]);
    let mut shards = shards(part, 2, &files);
    for shard in &mut shards {
        shard.secrets.publish(first).expect("published");
    }
    shards.try_into().expect("two were made")
}

fn in_a_day() -> SystemTime {
    SystemTime::now() + Duration::from_hours(24)
}

#[test]
fn tokens_certificates_and_authorities_rotate_under_load_without_a_failure() {
    let names = [0, 1].map(|ordinal| format!("127.7.40.{ordinal}"));
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let issue = |authority: &Authority| authority.issue(&names, in_a_day());
    let (of_one, of_two) = (issue(&one), issue(&two));
    let mixed = Issued {
        certificate: of_one.certificate.clone(),
        key: of_two.key.clone(),
    };
    let expired = one.issue(&names, SystemTime::now() - Duration::from_mins(1));
    let tokens = |tokens: &str| secret(&[("peer-token", tokens)]);
    let any = [("peer-token", NEW), ("peer-auth", "any")];
    // Each step, and the reason if it is refused.
    let steps: Vec<(Files, Option<&str>)> = vec![
        (tokens(&format!("{OLD}\n{NEW}")), None),
        (tokens(&format!("{NEW}\n{OLD}")), None),
        (tokens(NEW), None),
        (with_certificate(&[&one], &of_one, &any), None),
        (with_certificate(&[&one], &of_one, &[]), None),
        (with_certificate(&[&one], &issue(&one), &[]), None),
        (
            with_certificate(&[&one], &mixed, &[]),
            Some("is not that of the certificate"),
        ),
        (with_certificate(&[&one], &expired, &[]), Some("expired at")),
        (with_certificate(&[&one, &two], &issue(&one), &[]), None),
        (
            with_certificate(&[&one], &of_two, &[]),
            Some("of no authority"),
        ),
        (with_certificate(&[&one, &two], &of_two, &[]), None),
        (with_certificate(&[&two], &issue(&two), &[]), None),
        (with_certificate(&[&two], &of_two, &any), None),
        (
            with_certificate(&[&two], &of_two, &[("peer-token", NEW)]),
            None,
        ),
        (with_certificate(&[&two], &of_two, &any), None),
        (tokens(NEW), None),
        // Back to the first token.
        (tokens(&format!("{NEW}\n{OLD}")), None),
        (tokens(&format!("{OLD}\n{NEW}")), None),
        (tokens(OLD), None),
    ];
    let mut shards = two_shards(40, &tokens(OLD));
    let hosts = [shards[0].start(), shards[1].start()];
    for host in &hosts {
        host.wait_for_status("the topology", |status| status["topology"]["shards"] == 2);
    }
    let passed_on = AtomicU64::new(0);
    let request = |client: &mut ostrakon_tests::client::Client, worker: usize, number: u64| {
        // The first character decides which of the two shards owns the key.
        let key = format!(
            "{}{worker}",
            ["a", "b"][usize::from(number.is_multiple_of(2))]
        );
        let path = if number % 4 < 2 {
            format!("/save/{key}/word")
        } else {
            format!("/load/{key}")
        };
        let answer = client.get(&path).expect("an answer");
        assert_eq!((answer.status, answer.text()), (200, "word"), "{answer:?}");
        if answer.header("ostrakon-shard") == Some("1") {
            passed_on.fetch_add(1, Ordering::Relaxed);
        }
    };
    let (mut taken, mut refused) = (0, 0);
    let (answered, ()) = under_load(hosts[0].address, 4, request, |_| {
        for (files, problem) in steps.iter().chain(&steps) {
            match problem {
                None => taken += 1,
                Some(_) => refused += 1,
            }
            // Both shards get the change, one long after the other.
            for at in [usize::from(taken % 2 == 0), usize::from(taken % 2 == 1)] {
                let before = passed_on.load(Ordering::Relaxed);
                shards[at].secrets.publish(files).expect("published");
                let host = &hosts[at];
                host.wait_until("the change", |host| {
                    host.metric("ostrakon_credentials_reloads_total{listener=\"peers\"}") == taken
                        && host.metric("ostrakon_credentials_refusals_total{listener=\"peers\"}")
                            == refused
                });
                let status = host.wait_for_status("the problem", |status| {
                    status["peers"]["problem"].is_null() == problem.is_none()
                });
                if let Some(problem) = problem {
                    let said = status["peers"]["problem"].as_str().unwrap_or_default();
                    assert!(said.contains(problem), "{said}");
                }
                host.wait_until("requests that are passed on", |_| {
                    passed_on.load(Ordering::Relaxed) > before + 20
                });
            }
        }
    });
    let passed_on = passed_on.into_inner();
    println!(
        "{taken} changes and {refused} refused ones on each of two shards: {answered} requests, \
         {passed_on} passed on, 0 failed"
    );
    assert!(taken >= 20 && refused >= 6);
    assert_told_by_none(hosts, &[OLD, NEW, &of_one.key, &of_two.key]);
}

/// Stops the hosts, and checks that neither the status nor the log contains the secrets or their
/// second lines.
fn assert_told_by_none(hosts: [Host; 2], secrets: &[&str]) {
    for host in hosts {
        let said = host.status().to_string() + &host.stop();
        for secret in secrets {
            let line = secret.lines().nth(1).unwrap_or(secret);
            assert!(!said.contains(line), "a secret is in the log");
        }
    }
}

#[test]
fn the_certificate_in_force_and_its_end_are_shown() {
    let authority = Authority::new("a");
    let names = [0, 1].map(|ordinal| format!("127.7.41.{ordinal}"));
    let issued = authority.issue(&names, in_a_day());
    let [mut shard, _] = two_shards(41, &with_certificate(&[&authority], &issued, &[]));
    let host = shard.start();
    let status = host.status()["peers"].clone();
    assert_eq!(status["tls"], true, "{status}");
    assert_eq!(
        (&status["tokens"], &status["demand"]),
        (&0.into(), &"all".into())
    );
    let expires = status["certificate_expires"].as_f64().expect("a time");
    let expected = in_a_day()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("the clock is later than 1970");
    assert!((expires - expected.as_secs_f64()).abs() < 60.0, "{status}");
    let metrics = host.admin("GET", "/metrics").expect("an answer");
    let series = r#"ostrakon_certificate_expiry_timestamp_seconds{listener="peers"}"#;
    let line = metrics.text().lines().find(|line| line.starts_with(series));
    let shown: f64 = line.expect("it is shown")[series.len() + 1..]
        .parse()
        .expect("the text is a number");
    assert!((shown - expires).abs() < 1.0, "{shown}");
    // Without a certificate there is no expiry.
    let token = secret(&[("peer-token", OLD)]);
    shard.secrets.publish(&token).expect("published");
    host.wait_for_status("the token", |status| status["peers"]["tokens"] == 1);
    let metrics = host.admin("GET", "/metrics").expect("an answer");
    assert!(!metrics.text().contains(series));
    host.stop();
}

#[test]
fn what_cannot_be_used_at_a_start_is_one_line_and_code_64() {
    let authority = Authority::new("a");
    let names = ["127.0.0.1".to_owned()];
    let issued = authority.issue(&names, in_a_day());
    let expired = authority.issue(&names, SystemTime::now() - Duration::from_mins(1));
    let mut without_key = with_certificate(&[&authority], &issued, &[]);
    without_key.remove("peer.key");
    let (everywhere, loopback) = ("0.0.0.0:0", "127.0.0.1:0");
    for (listen, files, said) in [
        (
            everywhere,
            secret(&[]),
            "can be reached from elsewhere: put `peer-token`, or",
        ),
        (
            everywhere,
            secret(&[("peer-auth", "any")]),
            "can be reached from elsewhere",
        ),
        (loopback, secret(&[("peer-token", " \n")]), "has no token"),
        (
            loopback,
            secret(&[("peer-token", "short")]),
            "use at least 16 random ones",
        ),
        (
            loopback,
            secret(&[("peer-auth", "none")]),
            "neither `all` nor `any`",
        ),
        (
            loopback,
            secret(&[("peer-ca.crt", "?")]),
            "no certificate of an authority",
        ),
        (loopback, without_key, "no `peer.key`: put it there"),
        (
            loopback,
            with_certificate(&[&authority], &expired, &[]),
            "renew it",
        ),
    ] {
        let [mut shard, _] = two_shards(42, &files);
        shard.arguments[3] = listen.to_owned();
        shard.is_refused(said);
    }
}

/// A shard with a certificate of another authority is isolated and says why. The others run none of
/// its requests.
#[test]
fn a_shard_with_another_authority_is_not_accepted() {
    let names = [0, 1].map(|ordinal| format!("127.7.43.{ordinal}"));
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let issue = |authority: &Authority| {
        let issued = authority.issue(&names, in_a_day());
        with_certificate(&[authority], &issued, &[])
    };
    let [one, mut two] = two_shards(43, &issue(&ours));
    two.secrets.publish(&issue(&other)).expect("published");
    let one = one.start();
    let two = two.spawn();
    let failures = |host: &Host| host.metric("ostrakon_peer_handshake_failures_total");
    two.wait_until("the refusals", |two| {
        failures(&one) > 2 && failures(two) > 0
    });
    let status = two.status();
    assert!(
        status["topology"].is_null(),
        "the shard must not have a plan"
    );
    assert_eq!(status["ready"], false);
}

/// The commands in deploy/README.md for clusters without cert-manager, with these shards' addresses
/// as names. They make certificates, and then replace the authority in three updates.
#[test]
fn certificates_and_another_authority_are_made_as_the_documents_say() {
    let readme =
        fs::read_to_string(repository().join("deploy/README.md")).expect("the file can be read");
    let from = readme.find("$ authority() {").expect("it is there");
    let to = readme.find("$ put() {").expect("it is there");
    let lines = readme[from..to].lines();
    let functions: Vec<_> = lines
        .map(|line| line.strip_prefix("$ ").unwrap_or(line))
        .collect();
    let names = "IP:127.7.68.0,IP:127.7.68.1";
    let script = format!(
        "set -euo pipefail; umask 077\n{}\n\
         authority for-peers && certificate for-peers peers '{names}'\n\
         authority next && certificate next peers-next '{names}'\n",
        functions.join("\n")
    );
    let directory = tempfile::tempdir().expect("a directory can be created");
    output(
        Command::new("bash")
            .args(["-c", &script])
            .current_dir(&directory),
    );
    let made = |name: &str| fs::read_to_string(directory.path().join(name)).expect("it is made");
    let update = |pair: &str, believed: &[&str]| {
        let believed: String = believed.iter().map(|name| made(name)).collect();
        secret(&[
            ("peer-ca.crt", &believed),
            ("peer.crt", &made(&format!("{pair}.crt"))),
            ("peer.key", &made(&format!("{pair}.key"))),
        ])
    };
    let updates = [
        update("peers", &["for-peers.crt", "next.crt"]),
        update("peers-next", &["for-peers.crt", "next.crt"]),
        update("peers-next", &["next.crt"]),
    ];
    let mut shards = two_shards(68, &update("peers", &["for-peers.crt"]));
    let hosts = [shards[0].start(), shards[1].start()];
    for host in &hosts {
        host.wait_for_status("the topology", |status| status["topology"]["shards"] == 2);
    }
    for (taken, files) in updates.iter().enumerate() {
        for (shard, host) in shards.iter_mut().zip(&hosts) {
            shard.secrets.publish(files).expect("published");
            host.wait_until("the change", |host| {
                host.metric("ostrakon_credentials_reloads_total{listener=\"peers\"}")
                    == taken as u64 + 1
            });
            // This holds between the first shard's change and the second's, too.
            for host in &hosts {
                for key in ["a", "b"] {
                    let saved = host.client().get(&format!("/save/{key}/word"));
                    assert_eq!(saved.expect("an answer").text(), "word");
                }
            }
        }
    }
    for host in hosts {
        host.stop();
    }
}
