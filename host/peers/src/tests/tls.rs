//! Peers with certificates, and peers without.

use std::net::SocketAddr;

use ostrakon_network::tls::{Authorities, Mutual, Pair};
use ostrakon_test_support::certificates::{Authority, Issued};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// TLS as peers use it.
pub(super) fn mutual(issued: &Issued, believed: &[&Authority]) -> Mutual {
    let pem: String = believed.iter().map(|authority| &*authority.pem).collect();
    let authorities = Authorities::read(pem.as_bytes()).unwrap();
    let pair = Pair::read(issued.certificate.as_bytes(), issued.key.as_bytes()).unwrap();
    Mutual::new(pair, authorities, b"peers").unwrap()
}

pub(super) fn credentials(tls: Option<&Mutual>, tokens: &[&str], demand: Demand) -> Credentials {
    Credentials {
        tokens: list(tokens),
        tls: tls.cloned(),
        demand,
    }
}

fn with(ordinal: u32, credentials: Credentials) -> Endpoint {
    Endpoint {
        credentials: fixed(credentials),
        ..endpoint(ordinal)
    }
}

/// Sends one request, the way a shard does, and returns the errors of both sides.
async fn ask(client: &Credentials, server: &Credentials) -> (Result<(), String>, Option<String>) {
    let mut server = Server::start(with(2, server.clone()), Echo).await;
    let pool = Pool::new(Arc::new(with(1, client.clone())));
    pool.set_address(2, &server.address);
    let asked = pool.request(2, body(1)).await;
    drop(pool);
    let mut there = None;
    if asked.is_err() {
        let end = server.ends.recv().await.unwrap();
        there = end.err().map(|error| error.to_string());
    }
    (asked.map(drop).map_err(|error| error.to_string()), there)
}

#[tokio::test]
async fn peers_with_certificates_talk_and_tokens_may_be_demanded_as_well() {
    let authority = Authority::new("a");
    let tls = mutual(&authority.issue_here(), &[&authority]);
    for tokens in [&[][..], &["a"], &["a", "b"]] {
        let both = credentials(Some(&tls), tokens, Demand::All);
        assert_eq!(ask(&both, &both).await, (Ok(()), None), "{tokens:?}");
    }
}

/// Each row: the credentials of the client and of the server, and the error of each. No request is
/// answered.
#[tokio::test]
async fn who_lacks_what_is_demanded_is_refused_and_told() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let tls = mutual(&ours.issue_here(), &[&ours]);
    let strange = mutual(&other.issue_here(), &[&other]);
    // This one trusts us, so only we can refuse it.
    let sly = mutual(&other.issue_here(), &[&ours, &other]);
    let all = |tls, tokens: &[&str]| credentials(tls, tokens, Demand::All);
    let rows = [
        (
            all(None, &[]),
            all(Some(&tls), &[]),
            "closed the stream at our hello",
            "does not use TLS",
        ),
        (
            all(None, &["a"]),
            all(Some(&tls), &["a"]),
            "closed the stream at our hello",
            "does not use TLS",
        ),
        (
            all(Some(&tls), &[]),
            all(None, &["a"]),
            "check that it accepts TLS",
            "is not set up here",
        ),
        (
            all(Some(&strange), &[]),
            all(Some(&tls), &[]),
            "of no authority",
            "refuses us (UnknownCA)",
        ),
        (
            all(Some(&sly), &[]),
            all(Some(&tls), &[]),
            "refuses us (UnknownCA)",
            "of no authority",
        ),
        (
            all(Some(&tls), &["a"]),
            all(Some(&tls), &["b"]),
            "did not prove a token",
            "did not prove a token",
        ),
        (
            all(Some(&tls), &["a"]),
            all(Some(&tls), &[]),
            "other side has no token",
            "you have no token",
        ),
        (
            all(Some(&tls), &[]),
            all(Some(&tls), &["a"]),
            "you have no token",
            "other side has no token",
        ),
    ];
    for (client, server, here, there) in rows {
        let (asked, served) = ask(&client, &server).await;
        let (asked, served) = (asked.unwrap_err(), served.unwrap());
        assert!(asked.contains(here), "{asked}");
        assert!(served.contains(there), "{served}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_talked_to() {
    let authority = Authority::new("a");
    let named = authority.issue_for(&["kv-0.kv"], -60, 60, &[]);
    let (named, tls) = (
        mutual(&named, &[&authority]),
        mutual(&authority.issue_here(), &[&authority]),
    );
    let all = |tls| credentials(Some(tls), &[], Demand::All);
    let (asked, _) = ask(&all(&tls), &all(&named)).await;
    assert!(asked.unwrap_err().contains("not for the name"));
    // In the other direction the name does not matter.
    assert_eq!(ask(&all(&named), &all(&tls)).await, (Ok(()), None));
}

/// If a peer is reached at an announced address, its certificate must still be for its configured
/// name; a certificate for the announced address is not enough.
#[tokio::test]
async fn at_an_announced_address_the_configured_name_is_demanded() {
    let authority = Authority::new("a");
    let of = |name: &str| {
        let issued = authority.issue_for(&[name], -60, 60, &[]);
        mutual(&issued, &[&authority])
    };
    let all = |tls: &Mutual| credentials(Some(tls), &[], Demand::All);
    let us = all(&mutual(&authority.issue_here(), &[&authority]));
    for (name, is_it) in [
        ("localhost", true),
        ("127.0.0.1", false),
        ("kv-3.kv", false),
    ] {
        let server = Server::start(with(2, all(&of(name))), Echo).await;
        let at: SocketAddr = server.address.parse().unwrap();
        let pool = Pool::new(Arc::new(with(1, us.clone())));
        // Nothing listens there, so only the announced address can work.
        pool.set_address(2, "localhost:1");
        pool.announced(&endpoint(2).identity, Some(at));
        let asked = pool.request(2, body(1)).await;
        match asked {
            Ok(answer) => assert_eq!((answer, is_it), (body(1), true), "{name}"),
            Err(error) => {
                assert!(!is_it, "{error}");
                assert!(error.to_string().contains("not for the name"), "{error}");
            }
        }
    }
}

/// A certificate that expires while its holder still presents it.
#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let authority = Authority::new("a");
    let short = authority.issue_for(&["127.0.0.1"], -60, 1, &[]);
    let (short, tls) = (
        mutual(&short, &[&authority]),
        mutual(&authority.issue_here(), &[&authority]),
    );
    while short.pair().check(std::time::SystemTime::now()).is_ok() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let all = |tls| credentials(Some(tls), &[], Demand::All);
    let (asked, served) = ask(&all(&short), &all(&tls)).await;
    assert!(
        asked
            .unwrap_err()
            .contains("refuses us (CertificateExpired)")
    );
    assert!(served.unwrap().contains("has expired: renew it"));
    let (asked, _) = ask(&all(&tls), &all(&short)).await;
    assert!(asked.unwrap_err().contains("has expired: renew it"));
}

/// Each step from one kind of credentials to another, with its neighbours: shards that see a change
/// at different times can all still connect.
#[tokio::test]
async fn means_are_changed_for_others_without_a_break() {
    let authority = Authority::new("a");
    let tls = mutual(&authority.issue_here(), &[&authority]);
    let token = credentials(None, &["a"], Demand::All);
    let tls_only = credentials(Some(&tls), &[], Demand::All);
    let both = credentials(Some(&tls), &["a"], Demand::All);
    let any = credentials(Some(&tls), &["a"], Demand::Any);
    let means = [&token, &tls_only, &both];
    for from in means {
        for to in means {
            for pair in [[from, &any], [&any, &any], [&any, to]] {
                let [one, other] = pair;
                assert_eq!(ask(one, other).await, (Ok(()), None), "{pair:?}");
                assert_eq!(ask(other, one).await, (Ok(()), None), "{pair:?}");
            }
        }
    }
}

/// During such a change, a stranger is still refused.
#[tokio::test]
async fn any_means_is_not_no_means() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let tls = mutual(&ours.issue_here(), &[&ours]);
    let sly = mutual(&other.issue_here(), &[&ours, &other]);
    let any = credentials(Some(&tls), &["a"], Demand::Any);
    let all = |tls, tokens: &[&str]| credentials(tls, tokens, Demand::All);
    for stranger in [
        all(None, &[]),
        all(None, &["b"]),
        all(Some(&sly), &[]),
        all(Some(&sly), &["b"]),
    ] {
        ask(&stranger, &any).await.0.unwrap_err();
    }
    // Without a token, `any` equals `all`, because a missing token proves nothing.
    let any = credentials(Some(&tls), &[], Demand::Any);
    ask(&all(None, &[]), &any).await.0.unwrap_err();
    ask(&all(None, &["a"]), &any).await.0.unwrap_err();
}

/// A man in the middle who removes TLS from both streams, so that both sides continue without it.
#[tokio::test]
async fn nobody_in_the_middle_takes_tls_away() {
    let authority = Authority::new("a");
    let tls = mutual(&authority.issue_here(), &[&authority]);
    let both = credentials(Some(&tls), &["a"], Demand::All);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, mut firsts) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = sender.send(stream.read_u8().await.unwrap());
        }
    });
    let pool = Pool::new(Arc::new(with(1, both)));
    pool.set_address(2, &address);
    let refused = pool.request(2, body(1)).await.unwrap_err().to_string();
    assert!(refused.contains("check that it accepts TLS"), "{refused}");
    assert_eq!(firsts.recv().await, Some(0x16));
    assert!(
        firsts.try_recv().is_err(),
        "the peer must be called only once"
    );
}

/// The proof of a token is valid for one TLS stream. A man in the middle, who has a certificate of
/// his own but no token, cannot forward it.
#[tokio::test]
async fn a_proof_passed_on_to_another_stream_is_refused() {
    let authority = Authority::new("a");
    let tls = mutual(&authority.issue_here(), &[&authority]);
    let both = credentials(Some(&tls), &["a"], Demand::All);
    let mut server = Server::start(with(2, both.clone()), Echo).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let upstream = server.address.clone();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut near = tls.accept(stream).await.unwrap().stream;
        let stream = TcpStream::connect(&upstream).await.unwrap();
        let mut far = tls.connect(stream, "127.0.0.1").await.unwrap().stream;
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
    let pool = Pool::new(Arc::new(with(1, both)));
    pool.set_address(2, &address);
    let refused = pool.request(2, body(1)).await.unwrap_err().to_string();
    assert!(refused.contains("did not prove a token"), "{refused}");
    assert!(matches!(
        server.ends.recv().await.unwrap(),
        Err(ServeError::Handshake(HandshakeError::WrongToken))
    ));
}

#[tokio::test]
async fn broken_tls_changes_nothing() {
    let authority = Authority::new("a");
    let tls = mutual(&authority.issue_here(), &[&authority]);
    let endpoint = with(2, credentials(Some(&tls), &[], Demand::All));
    let mut server = Server::start(endpoint.clone(), Echo).await;
    let pool = Pool::new(Arc::new(with(1, credentials(Some(&tls), &[], Demand::All))));
    pool.set_address(2, &server.address);
    pool.request(2, body(1)).await.unwrap();
    for bytes in [
        &b"\x16"[..],
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x40\x01",
        b"\x00\x00\x00\x08shardpr\n",
        b"\x80\x2e\x01\x00\x02",
    ] {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let end = server.ends.recv().await.unwrap();
        assert!(matches!(end, Err(ServeError::Handshake(_))), "{end:?}");
        assert_eq!(pool.request(2, body(2)).await.unwrap(), body(2));
    }
}
