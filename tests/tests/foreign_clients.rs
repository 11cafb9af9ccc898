//! The public port as other programs use it: curl, and OpenSSL's client.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use ostrakon_test_support::certificates::{Authority, Issued};
use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{CANARY, Files, Host, Shard, binary, config, guest};

const TOKEN: &str = "token-0123456789abcdef";

fn secret(issued: &Issued, more: &[(&str, &str)]) -> Files {
    let mut files = Files::from([("canary-of-all".to_owned(), CANARY.into())]);
    let pair = [("tls.crt", &*issued.certificate), ("tls.key", &issued.key)];
    for (name, value) in pair.iter().chain(more) {
        files.insert((*name).to_owned(), value.as_bytes().to_vec());
    }
    files
}

fn issue(authority: &Authority) -> Issued {
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    authority.issue(&names, SystemTime::now() + Duration::from_hours(1))
}

/// A shard that speaks HTTPS, and the files that a program needs to connect to it.
struct Front {
    shard: Shard,
    host: Host,
    authority: Authority,
}

impl Front {
    fn start(more: &[(&str, &str)]) -> Self {
        let authority = Authority::new("public");
        let mut shard = Shard::new(&config(&guest("kv"), &[]));
        let files = secret(&issue(&authority), more);
        shard.secrets.publish(&files).expect("published");
        let host = shard.start();
        let front = Self {
            shard,
            host,
            authority,
        };
        front.file("authority", &front.authority.pem);
        front
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.shard.directory().join(name);
        fs::write(&path, content).expect("the file can be written");
        path
    }

    fn curl(&self, path: &str, arguments: &[&str]) -> Said {
        let url = format!("https://{}{path}", self.host.address);
        curl(&self.shard.directory().join("authority"), &url, arguments)
    }

    /// The output of `openssl s_client` for a connection, and whether it succeeded.
    fn s_client(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new("openssl");
        command
            .args(["s_client", "-connect", &self.host.address.to_string()])
            .arg("-CAfile")
            .arg(self.shard.directory().join("authority"))
            .args(["-verify_return_error"])
            .args(arguments);
        let output = run(command);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        (output.status.success(), said)
    }
}

/// The result of curl: its exit code, the body, and `status version`.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: Option<i32>,
    body: String,
    answer: String,
}

fn said(code: i32, body: &str, answer: &str) -> Said {
    Said {
        code: Some(code),
        body: body.to_owned(),
        answer: answer.to_owned(),
    }
}

fn curl(authority: &Path, url: &str, arguments: &[&str]) -> Said {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--max-time", "30", "--noproxy", "*", "--cacert"])
        .arg(authority)
        .args(["--write-out", "\n%{http_code} %{http_version}"])
        .args(arguments)
        .arg(url);
    let output = run(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, answer) = text.rsplit_once('\n').unwrap_or_default();
    Said {
        code: output.status.code(),
        body: body.to_owned(),
        answer: answer.to_owned(),
    }
}

fn run(mut command: Command) -> Output {
    let output = command.stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| {
        panic!("{command:?}: {error}: install curl and openssl, or run `cargo xtask test` as root")
    })
}

#[test]
fn curl_speaks_each_version_of_http_and_of_tls() {
    let front = Front::start(&[]);
    let saved = front.curl("/save/key/word", &["--http1.1"]);
    assert_eq!(saved, said(0, "word", "200 1.1"));
    for (arguments, version) in [
        (&["--http1.1"][..], "1.1"),
        (&["--http2"], "2"),
        (&["--http1.1", "--tls-max", "1.2"], "1.1"),
        (&["--http2", "--tls-max", "1.2"], "2"),
        (&["--http2", "--tlsv1.3"], "2"),
        // Without ALPN.
        (&["--http1.1", "--no-alpn"], "1.1"),
    ] {
        let loaded = front.curl("/load/key", arguments);
        assert_eq!(
            loaded,
            said(0, "word", &format!("200 {version}")),
            "{arguments:?}"
        );
    }
    let stranger = Authority::new("stranger");
    let stranger = front.file("stranger", &stranger.pem);
    let url = format!("https://{}/load/key", front.host.address);
    assert_eq!(
        curl(&stranger, &url, &[]).code,
        Some(60),
        "curl must not trust the certificate"
    );
    let plain = url.replace("https", "http");
    let refused = curl(&stranger, &plain, &[]);
    assert_eq!((refused.code, &*refused.answer), (Some(0), "400 1.1"));
    assert!(
        refused.body.contains("this port speaks https only"),
        "{refused:?}"
    );
    front.host.stop();
}

#[test]
fn curl_shows_a_certificate_and_a_token() {
    let clients = Authority::new("clients");
    let front = Front::start(&[("client-ca.crt", &clients.pem), ("client-tokens", TOKEN)]);
    let of = |name: &str, issued: &Issued| {
        let certificate = front.file(&format!("{name}.crt"), &issued.certificate);
        let key = front.file(&format!("{name}.key"), &issued.key);
        [certificate, key].map(|path| path.to_str().expect("text").to_owned())
    };
    let ours = of("ours", &issue(&clients));
    let other = of("other", &issue(&Authority::new("other")));
    let bearer = format!("authorization: Bearer {TOKEN}");
    for version in ["--http1.1", "--http2"] {
        for tls in ["1.2", "1.3"] {
            let common = [version, "--tls-max", tls];
            let with = |more: &[&str]| front.curl("/save/key/word", &[&common, more].concat());
            let shown = ["--cert", &*ours[0], "--key", &*ours[1]];
            let answered = with(&[&shown[..], &["--header", &bearer]].concat());
            assert_eq!(
                (answered.code, &*answered.body),
                (Some(0), "word"),
                "{answered:?}"
            );
            let no_token = with(&shown);
            assert!(no_token.answer.starts_with("401 "), "{no_token:?}");
            let no_certificate = with(&["--header", &bearer]);
            assert_ne!(no_certificate.code, Some(0), "{no_certificate:?}");
            let shown = ["--cert", &*other[0], "--key", &*other[1]];
            let wrong = with(&[&shown[..], &["--header", &bearer]].concat());
            assert_ne!(wrong.code, Some(0), "{wrong:?}");
        }
    }
    front.host.stop();
}

#[test]
fn openssl_agrees_on_what_is_spoken_and_old_versions_are_refused() {
    let front = Front::start(&[]);
    for (arguments, parts) in [
        (
            &["-tls1_3", "-alpn", "h2,http/1.1"][..],
            ["TLSv1.3", "ALPN protocol: h2"],
        ),
        (
            &["-tls1_2", "-alpn", "http/1.1"],
            ["TLSv1.2", "ALPN protocol: http/1.1"],
        ),
        (&["-tls1_2"], ["TLSv1.2", "No ALPN negotiated"]),
    ] {
        let (done, said) = front.s_client(arguments);
        assert!(done, "{arguments:?}: {said}");
        for part in parts.iter().chain(&["Verify return code: 0 (ok)"]) {
            assert!(said.contains(part), "{part}: {said}");
        }
        // The certificate of a resumed session would not be verified again.
        assert!(
            !said.contains("New Session Ticket") && !said.contains("Reused"),
            "{said}"
        );
    }
    for (arguments, part) in [
        (
            &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"][..],
            "SSL alert number",
        ),
        (&["-alpn", "acme-tls/1"], "alert no application protocol"),
    ] {
        let (done, said) = front.s_client(arguments);
        assert!(!done && said.contains(part), "{arguments:?}: {said}");
    }
    front.host.stop();
}

/// A redirect leads to a URL with HTTPS.
#[test]
fn curl_follows_to_the_owner_over_https() {
    let authority = Authority::new("public");
    let names: Vec<_> = (0..3)
        .map(|shard| format!("127.7.{PART}.{shard}"))
        .collect();
    let issued = authority.issue(&names, SystemTime::now() + Duration::from_hours(1));
    let public_url = Cluster::public_url(PART).replace("http://", "https://");
    let toml = format!("[cluster]\nshards = 3\nrouting = \"redirect\"\n{public_url}\n");
    let files = config(&guest("kv"), &[("ostrakon.toml", &toml)]);
    let cluster = Cluster::start_with(PART, 3, 3, &files, &secret(&issued, &[]));
    let directory = tempfile::tempdir().expect("a directory can be created");
    let believed = directory.path().join("authority");
    fs::write(&believed, &authority.pem).expect("the file can be written");
    let servers = cluster.servers();
    let mut followed = 0;
    for server in servers.split(',') {
        for key in ["a", "b", "c"] {
            let url = format!("https://{server}/save/{key}/word");
            let there = curl(&believed, &url, &["--location"]);
            assert_eq!((there.code, &*there.body), (Some(0), "word"), "{there:?}");
            let here = curl(&believed, &url, &[]);
            followed += usize::from(here.answer.starts_with("307 "));
        }
    }
    // The course's client does not speak HTTPS, and says so.
    let client = binary().with_file_name("smart-client");
    let mut client = Command::new(client);
    client.args([&*servers, "--rounds", "1"]);
    let said = run(client);
    let line = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(
        !said.status.success() && line.contains("speaks HTTPS only"),
        "{line}"
    );
    println!("9 keys asked for, {followed} of them at another shard than their own, 0 failed");
    assert_eq!(followed, 6);
}

/// The third byte of the shards' addresses.
const PART: u8 = 61;

#[test]
fn curl_gets_an_early_answer_over_each_version_of_http_in_tls_and_in_the_clear() {
    const LIMITS: &str = "[http]\nmax_body_bytes = \"1MiB\"\n";
    let clear = Shard::new(&config(&guest("kv"), &[("ostrakon.toml", LIMITS)]));
    let clear_host = clear.start();
    let mut front = Front::start(&[("client-tokens", TOKEN)]);
    let files = config(&guest("kv"), &[("ostrakon.toml", LIMITS)]);
    front.shard.config.publish(&files).expect("published");
    front
        .host
        .wait_until("the limits", |host| host.generation() == 2);
    let large = front
        .file("large", &"x".repeat(9 << 20))
        .display()
        .to_string();
    let token = format!("authorization: Bearer {TOKEN}");
    let in_tls = format!("https://{}/kv/large", front.host.address);
    let in_clear = format!("http://{}/kv/large", clear_host.address);
    let authority = front.shard.directory().join("authority");
    let mut count = 0;
    for (url, version, more, answer) in [
        (&in_clear, "--http1.1", &[][..], "413 1.1"),
        (&in_clear, "--http2-prior-knowledge", &[], "413 2"),
        (&in_tls, "--http1.1", &["-H", &token], "413 1.1"),
        (&in_tls, "--http2", &["-H", &token], "413 2"),
        (&in_tls, "--http1.1", &[], "401 1.1"),
        (&in_tls, "--http2", &[], "401 2"),
    ] {
        // By default curl sends `Expect: 100-continue` and waits before it sends the body.
        for expect in ["Expect:", "Expect: 100-continue"] {
            for _ in 0..10 {
                let arguments = [&[version, "-T", &large, "-H", expect], more].concat();
                let said = curl(&authority, url, &arguments);
                assert_eq!(
                    (said.code, &*said.answer),
                    (Some(0), answer),
                    "{arguments:?}"
                );
                assert!(!said.body.is_empty(), "{arguments:?}");
                count += 1;
            }
        }
    }
    println!("{count} early answers, 0 lost");
    front.host.stop();
    clear_host.stop();
}
