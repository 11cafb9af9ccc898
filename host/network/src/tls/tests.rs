use std::time::{Duration, SystemTime};

use ostrakon_test_support::certificates::{Authority, Issued};
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

const PROTOCOL: &[u8] = b"test";

fn pair(issued: &Issued) -> Pair {
    Pair::read(issued.certificate.as_bytes(), issued.key.as_bytes()).unwrap()
}

fn authorities(of: &[&Authority]) -> Authorities {
    let pem: String = of.iter().map(|authority| &*authority.pem).collect();
    Authorities::read(pem.as_bytes()).unwrap()
}

fn mutual(issued: &Issued, of: &[&Authority]) -> Mutual {
    Mutual::new(pair(issued), authorities(of), PROTOCOL).unwrap()
}

fn refused(certificate: &str, key: &str) -> PairError {
    Pair::read(certificate.as_bytes(), key.as_bytes()).unwrap_err()
}

type Met = (
    Result<Secured<DuplexStream>, Problem>,
    Result<Secured<DuplexStream>, Problem>,
);

/// Runs a handshake between two sides. The connecting side waits for one byte, because only then
/// does it learn whether the other side has accepted it.
async fn meet(client: &Mutual, server: &Mutual, host: &str) -> Met {
    let (here, there) = tokio::io::duplex(1 << 16);
    let connecting = async {
        let mut secured = client.connect(here, host).await?;
        let read = secured.stream.read_u8().await;
        read.map_err(|error| Problem::in_handshake(&error))?;
        Ok(secured)
    };
    let accepting = async {
        let mut secured = server.accept(there).await.map_err(|(problem, _)| problem)?;
        secured.stream.write_u8(1).await.unwrap();
        secured.stream.flush().await.unwrap();
        Ok(secured)
    };
    tokio::join!(connecting, accepting)
}

#[test]
fn what_cannot_be_a_pair_is_told_apart() {
    let authority = Authority::new("a");
    let (one, two) = (authority.issue_here(), authority.issue_here());
    assert_eq!(refused("", &one.key), PairError::NoCertificate);
    assert_eq!(refused(&one.key, &one.key), PairError::NoCertificate);
    let broken = one.certificate.replace("MII", "AAA");
    assert_eq!(refused(&broken, &one.key), PairError::Certificate);
    let cut = &one.certificate[..200];
    assert_eq!(refused(cut, &one.key), PairError::Certificate);
    assert_eq!(refused(&one.certificate, ""), PairError::NoKey);
    assert_eq!(refused(&one.certificate, "not PEM"), PairError::NoKey);
    let broken = one.key.replace("MIG", "AAA");
    assert_eq!(refused(&one.certificate, &broken), PairError::Key);
    assert_eq!(refused(&one.certificate, &two.key), PairError::Mismatch);
    for bytes in [&b""[..], b"text", one.key.as_bytes(), broken.as_bytes()] {
        assert_eq!(
            Authorities::read(bytes).unwrap_err(),
            NoAuthorities::Unreadable
        );
    }
}

/// The parser ignores a line that begins with anything else, and with it the certificate.
#[test]
fn a_certificate_that_something_stands_before_is_not_left_out() {
    let (a, b) = (Authority::new("a"), Authority::new("b"));
    let issued = a.issue_here();
    for before in ["\u{feff}", " ", "x"] {
        let hidden = format!("{before}{}", issued.certificate);
        assert_eq!(refused(&hidden, &issued.key), PairError::Certificate);
        for both in [
            format!("{before}{}{}", a.pem, b.pem),
            format!("{}{before}{}", a.pem, b.pem),
        ] {
            let error = Authorities::read(both.as_bytes()).unwrap_err();
            assert_eq!(error, NoAuthorities::Unreadable);
        }
    }
    let text = format!("Subject: a\r\n{}\n# the next\n{}", a.pem, b.pem);
    Authorities::read(text.as_bytes()).unwrap();
}

/// A self-signed certificate and its key, made by OpenSSL.
fn of_rsa(bits: u32) -> (String, String) {
    let directory = tempfile::tempdir().unwrap();
    let [certificate, key] = ["crt", "key"].map(|name| directory.path().join(name));
    let mut openssl = std::process::Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=server",
    ]);
    openssl
        .args(["-newkey", &format!("rsa:{bits}"), "-keyout"])
        .arg(&key);
    openssl.arg("-out").arg(&certificate);
    let made = openssl.output().unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let read = |path| std::fs::read_to_string(path).unwrap();
    (read(certificate), read(key))
}

/// Regression: the error said to use an RSA key, although it was one.
#[test]
fn an_rsa_key_that_is_too_short_is_refused_by_its_length() {
    let (certificate, key) = of_rsa(1024);
    let error = refused(&certificate, &key);
    assert_eq!(error, PairError::RsaBits(1024));
    assert!(
        error.to_string().contains("with 2048 to 4096 bits"),
        "{error}"
    );
    let error = Authorities::read(certificate.as_bytes()).unwrap_err();
    assert_eq!(error, NoAuthorities::RsaBits(1024));
    assert!(
        error.to_string().contains("with 2048 to 8192 bits"),
        "{error}"
    );

    let (certificate, key) = of_rsa(2048);
    Pair::read(certificate.as_bytes(), key.as_bytes()).unwrap();
    Authorities::read(certificate.as_bytes()).unwrap();
}

#[test]
fn a_chain_that_clients_would_not_take_is_refused() {
    let issued = Authority::new("a").issue_here();
    let several = issued.certificate.repeat(20);
    Pair::read(several.as_bytes(), issued.key.as_bytes()).unwrap();
    let many = refused(&issued.certificate.repeat(900), &issued.key);
    assert!(matches!(many, PairError::TooLong(bytes) if bytes > 100_000));
}

#[test]
fn no_error_and_no_debug_output_tells_the_key() {
    let authority = Authority::new("a");
    let issued = authority.issue_here();
    let secret = issued.key.lines().nth(1).unwrap();
    let mutual = mutual(&issued, &[&authority]);
    let in_its_place = refused(&issued.key, &issued.key);
    let cut = refused(&issued.certificate, &issued.key.replace("-----END", ""));
    let bytes = format!("{:?}", &secret.as_bytes()[..8]);
    for text in [
        format!("{mutual:?} {:?}", mutual.pair()),
        format!("{in_its_place} {in_its_place:?}"),
        format!("{cut} {cut:?}"),
    ] {
        assert!(!text.contains(&secret[..8]), "{text}");
        assert!(!text.contains(bytes.trim_matches(['[', ']'])), "{text}");
    }
}

#[test]
fn a_pair_is_valid_from_its_first_second_to_its_last() {
    let issued = Authority::new("a").issue_for(&["localhost"], -60, 60, &[]);
    let pair = pair(&issued);
    let now = SystemTime::now();
    pair.check(now).unwrap();
    let second = Duration::from_secs(1);
    let check = |at: SystemTime| pair.check(at);
    assert_eq!(check(pair.expires()), Ok(()));
    assert!(matches!(
        check(pair.expires() + second),
        Err(PairError::Expired(_))
    ));
    let before = now - Duration::from_secs(62);
    assert!(matches!(check(before), Err(PairError::NotYetValid(_))));
    let told = check(pair.expires() + second).unwrap_err().to_string();
    assert!(told.contains("renew it"), "{told}");
}

/// A chain expires with the first of its certificates to expire, even one in the middle.
#[test]
fn a_chain_expires_with_its_first_part() {
    let authority = Authority::new("a");
    let long = authority.issue_for(&["localhost"], -60, 9000, &[]);
    let short = authority.issue_for(&["localhost"], -60, 60, &[]);
    let chain = format!("{}{}", long.certificate, short.certificate);
    let pair = Pair::read(chain.as_bytes(), long.key.as_bytes()).unwrap();
    assert!(pair.expires() < SystemTime::now() + Duration::from_secs(61));
}

#[test]
fn a_certificate_that_others_would_refuse_is_not_taken() {
    let (one, other) = (Authority::new("one"), Authority::new("other"));
    let check = |issued: &Issued, problem: Problem| {
        let made = Mutual::new(pair(issued), authorities(&[&one]), PROTOCOL);
        assert_eq!(made.unwrap_err(), problem);
    };
    check(&other.issue_here(), Problem::UnknownAuthority);
    // A different authority with the same name is not trusted.
    check(
        &Authority::new("one").issue_here(),
        Problem::UnknownAuthority,
    );
    let usages = |usages: &[_]| one.issue_for(&["localhost"], -60, 60, usages);
    check(&usages(&[ServerAuth]), Problem::Purpose);
    check(&usages(&[ClientAuth]), Problem::Purpose);
    mutual(&usages(&[ServerAuth, ClientAuth]), &[&one]);
    check(
        &one.issue_for(&["localhost"], -60, -1, &[]),
        Problem::Expired,
    );
    check(
        &one.issue_for(&["localhost"], 60, 90, &[]),
        Problem::NotYetValid,
    );
}

#[tokio::test]
async fn both_sides_are_believed_and_bound_to_the_stream() {
    let authority = Authority::new("a");
    let (client, server) = (authority.issue_here(), authority.issue_here());
    let (client, server) = (
        mutual(&client, &[&authority]),
        mutual(&server, &[&authority]),
    );
    let mut bindings = Vec::new();
    for host in ["127.0.0.1", "localhost", "localhost."] {
        let (here, there) = meet(&client, &server, host).await;
        let (here, there) = (here.unwrap(), there.unwrap());
        assert_eq!(here.binding, there.binding);
        assert!(client.believes(&here.chain) && server.believes(&there.chain));
        assert!(!bindings.contains(&here.binding), "each stream has its own");
        bindings.push(here.binding);
    }
}

#[tokio::test]
async fn a_name_must_be_in_the_certificate() {
    let authority = Authority::new("a");
    let wildcard = ["*.kv.ns.svc.cluster.local", "::1"];
    let issued = authority.issue_for(&wildcard, -60, 60, &[]);
    let both = mutual(&issued, &[&authority]);
    for (host, met) in [
        ("kv-0.kv.ns.svc.cluster.local", true),
        ("kv-11.kv.ns.svc.cluster.local", true),
        ("[::1]", true),
        ("kv.ns.svc.cluster.local", false),
        ("kv-0.kv", false),
        ("a.kv-0.kv.ns.svc.cluster.local", false),
        ("127.0.0.1", false),
    ] {
        let (here, _) = meet(&both, &both, host).await;
        match here {
            Ok(_) => assert!(met, "{host}"),
            Err(problem) => assert_eq!((problem, met), (Problem::Name, false), "{host}"),
        }
    }
    let (here, _) = meet(&both, &both, "no name").await;
    assert_eq!(here.unwrap_err(), Problem::NoName("no name".to_owned()));
}

#[tokio::test]
async fn neither_side_believes_another_authority() {
    let (one, other) = (Authority::new("one"), Authority::new("other"));
    let ours = mutual(&one.issue_here(), &[&one]);
    let stranger = mutual(&other.issue_here(), &[&other]);
    let (here, there) = meet(&ours, &stranger, "localhost").await;
    assert_eq!(here.unwrap_err(), Problem::UnknownAuthority);
    assert!(matches!(there.unwrap_err(), Problem::Refused(_)));
    // The client trusts us, but we do not trust it.
    let stranger = mutual(&other.issue_here(), &[&one, &other]);
    let (here, there) = meet(&stranger, &ours, "localhost").await;
    assert!(matches!(here.unwrap_err(), Problem::Refused(_)));
    assert_eq!(there.unwrap_err(), Problem::UnknownAuthority);
}

#[tokio::test]
async fn authorities_take_each_others_place() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let steps = [
        mutual(&old.issue_here(), &[&old]),
        mutual(&old.issue_here(), &[&old, &new]),
        mutual(&new.issue_here(), &[&old, &new]),
        mutual(&new.issue_here(), &[&new]),
    ];
    for step in steps.windows(2) {
        for (client, server) in [(0, 1), (1, 0), (1, 1)] {
            let (here, there) = meet(&step[client], &step[server], "localhost").await;
            here.unwrap();
            there.unwrap();
        }
    }
}

#[tokio::test]
async fn another_protocol_with_the_same_certificate_is_refused() {
    let authority = Authority::new("a");
    let issued = authority.issue_here();
    let ours = mutual(&issued, &[&authority]);
    let other = Mutual::new(pair(&issued), authorities(&[&authority]), b"h2").unwrap();
    for (client, server) in [(&ours, &other), (&other, &ours)] {
        let (here, there) = meet(client, server, "localhost").await;
        assert_eq!(here.unwrap_err(), Problem::Protocol);
        assert_eq!(there.unwrap_err(), Problem::Protocol);
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let authority = Authority::new("a");
    let server = mutual(&authority.issue_here(), &[&authority]);
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(authorities(&[&authority]).roots())
        .with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let (here, there) = tokio::io::duplex(1 << 16);
    let connecting = async {
        let name = "localhost".try_into().unwrap();
        let mut stream = connector.connect(name, here).await.unwrap();
        stream.read_u8().await.unwrap_err()
    };
    let (here, there) = tokio::join!(connecting, server.accept(there));
    let told = Problem::in_handshake(&here);
    assert_eq!(told, Problem::Refused("CertificateRequired".to_owned()));
    assert_eq!(there.unwrap_err().0, Problem::NoCertificate);
}

/// A resumed stream would rely on a certificate that is not verified again.
#[tokio::test]
async fn each_stream_is_begun_with_certificates_also_between_sides_that_met() {
    let authority = Authority::new("a");
    let server = mutual(&authority.issue_here(), &[&authority]);
    let client = mutual(&authority.issue_here(), &[&authority]);
    for _ in 0..3 {
        let (connected, accepted) = meet(&client, &server, "localhost").await;
        for secured in [connected.unwrap(), accepted.unwrap()] {
            let (_, connection) = secured.stream.get_ref();
            let kind = connection.handshake_kind();
            assert_eq!(kind, Some(rustls::HandshakeKind::Full));
        }
    }
}
