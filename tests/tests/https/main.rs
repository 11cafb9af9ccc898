//! HTTPS, client certificates and tokens. They change while clients connect; an unusable change is
//! refused and the old ones stay in force.

mod handshakes;
mod rotation;

use std::io::{BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ostrakon_test_support::certificates::{Authority, Issued};
use ostrakon_tests::client::{Client, connect, read_response};
use ostrakon_tests::host::{CANARY, Files, Host, PATIENCE, Shard, config, guest};
use ostrakon_tests::load::under_load;
use ostrakon_tests::tls::{self, certificate, shown_by};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

const OLD: &str = "old-0123456789abcdef";
const NEW: &str = "new-0123456789abcdef";
const RELOADS: &str = r#"ostrakon_credentials_reloads_total{listener="public"}"#;
const REFUSALS: &str = r#"ostrakon_credentials_refusals_total{listener="public"}"#;
const REFUSED: &str = r#"ostrakon_credentials_refused{listener="public"}"#;
const HTTP1: &[u8] = b"http/1.1";

/// A Secret with these entries, and the canary that every shard of every test has.
fn secret(entries: &[(&str, &str)]) -> Files {
    let mut files = Files::from([("canary-of-all".to_owned(), CANARY.into())]);
    for (name, value) in entries {
        files.insert((*name).to_owned(), value.as_bytes().to_vec());
    }
    files
}

/// A Secret with a server certificate.
fn secret_with(issued: &Issued, more: &[(&str, &str)]) -> Files {
    let pair = [("tls.crt", &*issued.certificate), ("tls.key", &issued.key)];
    secret(&[&pair, more].concat())
}

fn here() -> Vec<String> {
    vec!["127.0.0.1".to_owned()]
}

fn in_a_day() -> SystemTime {
    SystemTime::now() + Duration::from_hours(24)
}

fn issue(authority: &Authority) -> Issued {
    authority.issue(&here(), in_a_day())
}

fn shard(secret: &Files, settings: &str) -> Shard {
    let mut shard = Shard::new(&config(&guest("kv"), &[("ostrakon.toml", settings)]));
    shard.secrets.publish(secret).expect("published");
    shard
}

/// Publishes a Secret, and waits until the public port uses it.
#[track_caller]
fn change(shard: &mut Shard, host: &Host, to: &Files) {
    let before = host.metric(RELOADS);
    shard.secrets.publish(to).expect("published");
    host.wait_until("the change", |host| host.metric(RELOADS) > before);
    assert_eq!(host.metric(REFUSED), 0);
    assert!(host.status()["public"]["problem"].is_null());
}

/// Publishes a Secret that is refused, and waits for the reason.
#[track_caller]
fn change_refused(shard: &mut Shard, host: &Host, to: &Files, said: &str) {
    let before = host.metric(REFUSALS);
    shard.secrets.publish(to).expect("published");
    host.wait_until("the refusal", |host| host.metric(REFUSALS) > before);
    host.wait_until("the refusal in force", |host| host.metric(REFUSED) == 1);
    let problem = host.status()["public"]["problem"].clone();
    let problem = problem.as_str().unwrap_or_default().to_owned();
    assert!(problem.contains(said), "{said}: {problem}");
}

/// The expiry in the metrics and the status belongs to the certificate in force.
#[test]
fn the_certificate_in_force_and_its_days_are_shown() {
    let authority = Authority::new("a");
    let in_ten_days = SystemTime::now() + Duration::from_hours(10 * 24 + 1);
    let issued = authority.issue(&here(), in_ten_days);
    let shard = shard(&secret_with(&issued, &[("client-tokens", OLD)]), "");
    let host = shard.start();
    let public = host.status()["public"].clone();
    assert_eq!(public["tls"], true, "{public}");
    assert_eq!(public["certificate_days_left"], 10, "{public}");
    assert_eq!(public["tokens"], 1, "{public}");
    assert_eq!(public["client_certificates"], false, "{public}");
    let series = r#"ostrakon_certificate_expiry_timestamp_seconds{listener="public"}"#;
    let metrics = host.admin("GET", "/metrics").expect("an answer");
    let line = metrics.text().lines().find(|line| line.starts_with(series));
    let shown: f64 = line.expect("it is shown")[series.len() + 1..]
        .parse()
        .expect("the text is a number");
    let expected = in_ten_days.duration_since(SystemTime::UNIX_EPOCH);
    assert!(
        (shown
            - expected
                .expect("the clock is later than 1970")
                .as_secs_f64())
        .abs()
            < 2.0
    );
    host.stop();
}

#[test]
fn what_cannot_be_used_at_a_start_is_one_line_and_code_64_and_no_plain_http() {
    let authority = Authority::new("a");
    let issued = issue(&authority);
    let other = issue(&authority);
    let mixed = Issued {
        key: other.key,
        ..issued.clone()
    };
    let expired = authority.issue(&here(), SystemTime::now() - Duration::from_mins(1));
    let only = ["--https-only"];
    let cases: [(Files, &[&str], &str); 9] = [
        (
            secret_with(&mixed, &[]),
            &[],
            "is not that of the certificate",
        ),
        (secret_with(&expired, &[]), &[], "renew it"),
        (
            secret(&[("tls.crt", &issued.certificate)]),
            &[],
            "and no `tls.key`",
        ),
        (secret(&[("tls.key", &issued.key)]), &[], "and no `tls.crt`"),
        (
            secret(&[("client-ca.crt", &authority.pem)]),
            &[],
            "and no `tls.crt`",
        ),
        (
            secret(&[("client-token", OLD)]),
            &[],
            "call it `client-tokens`",
        ),
        (
            secret(&[("client-tokens", "short")]),
            &[],
            "use at least 16 random ones",
        ),
        (
            secret(&[("admin-token", "a b c d e f g h i")]),
            &[],
            "`admin-token`",
        ),
        (
            secret(&[("client-tokens", OLD)]),
            &only,
            "--https-only is given",
        ),
    ];
    for (files, arguments, said) in cases {
        let mut shard = shard(&files, "");
        shard.arguments = arguments.iter().map(|flag| (*flag).to_owned()).collect();
        let log = shard.is_refused(said);
        assert!(!log.contains("\"ready\""), "the shard must not have served");
    }
}

/// The first reply to a plain-text request on a new connection.
fn plain(address: SocketAddr) -> (u16, String) {
    let mut stream = connect(address).expect("a connection");
    let request = b"GET /load/key HTTP/1.1\r\nhost: here\r\n\r\n";
    stream
        .get_mut()
        .write_all(request)
        .expect("the bytes can be sent");
    let answer = read_response(&mut stream, false).expect("an answer");
    let code = answer.header("ostrakon-error").unwrap_or_default();
    (answer.status, code.to_owned())
}

#[test]
fn once_there_is_a_certificate_nothing_is_said_in_the_clear() {
    let authority = Authority::new("a");
    let issued = issue(&authority);
    let with_token = [("client-tokens", OLD)];
    let mut shard = shard(&secret(&[]), "");
    let host = shard.start();
    // An idle connection from before the change.
    let mut before = host.client();
    assert_eq!(before.get("/save/key/word").expect("an answer").status, 200);

    change(&mut shard, &host, &secret_with(&issued, &with_token));
    match before.get("/load/key") {
        Ok(answer) => assert_eq!(answer.header("ostrakon-error"), Some("https-only")),
        Err(error) => println!("the plain connection was closed: {error}"),
    }
    assert_eq!(plain(host.address), (400, "https-only".to_owned()));
    let config = tls::client(&authority, None, HTTP1);
    let https = || Client::new(host.address).over_tls(Arc::clone(&config));
    let answer = https().with_token(OLD).get("/load/key").expect("an answer");
    assert_eq!((answer.status, answer.text()), (200, "word"));
    let answer = https().get("/load/key").expect("an answer");
    let challenge = answer.header("www-authenticate");
    assert_eq!(
        (answer.status, challenge),
        (401, Some("Bearer realm=\"ostrakon\""))
    );

    // Removing entries cannot weaken the protection.
    for (files, said) in [
        (secret(&[]), "does not go from HTTPS to plain HTTP"),
        (secret(&with_token), "does not go from HTTPS to plain HTTP"),
        (secret_with(&issued, &[]), "does not open to everybody"),
    ] {
        change_refused(&mut shard, &host, &files, said);
        assert_eq!(plain(host.address), (400, "https-only".to_owned()));
        assert_eq!(https().get("/load/key").expect("an answer").status, 401);
        let answer = https().with_token(OLD).get("/load/key").expect("an answer");
        assert_eq!(answer.status, 200);
    }
    host.stop();
}

type Sender = http2::SendRequest<Full<Bytes>>;

async fn h2(address: SocketAddr, config: &Arc<ClientConfig>) -> std::io::Result<Sender> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
    let stream = connector.connect(address.ip().into(), stream).await?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let io = TokioIo::new(stream);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io)
        .await
        .map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    sender.ready().await.map_err(std::io::Error::other)?;
    Ok(sender)
}

async fn ask(sender: &mut Sender, token: &str) -> Result<(u16, String), hyper::Error> {
    let request = Request::get("https://127.0.0.1/load/key")
        .header("authorization", format!("Bearer {token}"))
        .body(Full::default())
        .expect("a request");
    let answer = sender.send_request(request).await?;
    let status = answer.status().as_u16();
    let code = answer.headers().get("ostrakon-error");
    let code = code
        .map_or("", |code| code.to_str().expect("text"))
        .to_owned();
    let _body = answer.into_body().collect().await?;
    Ok((status, code))
}

/// A client's credentials are checked on each request, not only when the connection is made.
#[test]
fn what_is_taken_away_is_refused_on_open_connections_at_once() {
    let public = Authority::new("public");
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let issued = issue(&public);
    let secret_of = |believed: &Authority, tokens: &str| {
        let more = [("client-ca.crt", &*believed.pem), ("client-tokens", tokens)];
        secret_with(&issued, &more)
    };
    let mut shard = shard(&secret_of(&one, &format!("{OLD}\n{NEW}")), "");
    let host = shard.start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be created");
    let of_one = tls::client(&public, Some(&issue(&one)), b"h2");
    let of_two = tls::client(&public, Some(&issue(&two)), b"h2");
    let mut open = runtime.block_on(h2(host.address, &of_one)).expect("h2");
    let mut asked = |token| runtime.block_on(ask(&mut open, token));
    assert_eq!(asked(OLD).expect("an answer").0, 200);

    change(&mut shard, &host, &secret_of(&one, NEW));
    let (status, code) = asked(OLD).expect("an answer");
    assert_eq!((status, &*code), (401, "wrong-token"));
    assert_eq!(asked(NEW).expect("an answer").0, 200);

    // A client is in the middle of a request when its authority is removed. That request is
    // answered.
    let by_one = tls::client(&public, Some(&issue(&one)), HTTP1);
    let connection = ClientConnection::new(by_one, host.address.ip().into()).expect("a client");
    let stream = TcpStream::connect(host.address).expect("the host accepts connections");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("the timeout can be set");
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let head = format!(
        "PUT /kv/half HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {NEW}\r\n\
         expect: 100-continue\r\ncontent-length: 4\r\n\r\n"
    );
    stream
        .get_mut()
        .write_all(head.as_bytes())
        .expect("the bytes can be sent");
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).expect("it is let in");
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");

    change(&mut shard, &host, &secret_of(&two, NEW));
    stream
        .get_mut()
        .write_all(b"body")
        .expect("the bytes can be sent");
    let answer = read_response(&mut stream, false).expect("an answer");
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
    match asked(NEW) {
        Ok((status, code)) => assert_eq!((status, &*code), (403, "client-certificate")),
        Err(error) => println!("the connection was told to go: {error}"),
    }
    let with_one = async {
        let mut sender = h2(host.address, &of_one).await.ok()?;
        ask(&mut sender, NEW).await.ok()
    };
    assert_eq!(
        runtime.block_on(with_one),
        None,
        "the client must not be admitted again"
    );
    let mut of_two = runtime.block_on(h2(host.address, &of_two)).expect("h2");
    let answer = runtime.block_on(ask(&mut of_two, NEW)).expect("an answer");
    assert_eq!(answer.0, 200);
    host.stop();
}

/// The guest does not see the credentials that a client has shown to the host.
#[test]
fn a_token_that_is_the_hosts_reaches_no_guest() {
    let mut shard = Shard::new(&config(&guest("hostile"), &[]));
    let host = shard.start();
    let seen = |client: Client| {
        let mut client = client.with_token(OLD);
        let answer = client.get("/authorization").expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.text().to_owned()
    };
    assert_eq!(
        seen(host.client()),
        "1 headers",
        "without `client-tokens` the guest must see the header"
    );
    change(&mut shard, &host, &secret(&[("client-tokens", OLD)]));
    assert_eq!(seen(host.client()), "0 headers");
    host.stop();
}
