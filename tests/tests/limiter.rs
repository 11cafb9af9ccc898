//! The rate limiter behind nginx, with the configuration that users copy: clients get what their buckets allow, also after
//! the rates have changed under load, and no request fails.

use std::fs;
use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_test_support::tools::tool;
use ostrakon_tests::client::{Response, read_response};
use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{Files, PATIENCE, config, guest};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

/// The third byte of all addresses here.
const PART: u8 = 172;
const CLIENTS: u8 = 4;
/// How long the clients run at each of the rates.
const LOAD: Duration = Duration::from_secs(3);

/// Capacity, and tokens per second.
const BEFORE: (f64, f64) = (20.0, 10.0);
const AFTER: (f64, f64) = (40.0, 30.0);

fn files((capacity, rate): (f64, f64)) -> Files {
    let rates = format!(r#"{{"default":{{"capacity":{capacity},"refill_per_second":{rate}}}}}"#);
    let toml = "[cluster]\nshards = 3\n";
    config(
        &guest("limiter"),
        &[("ostrakon.toml", toml), ("rates.json", &rates)],
    )
}

fn address(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 7, PART, last), port))
}

/// nginx with examples/limiter/nginx.conf, where only the addresses and the directories are others. It is also the
/// application. Dropping it kills it.
struct Nginx {
    child: Child,
    directory: TempDir,
}

impl Nginx {
    fn start(limiter: &Cluster) -> Self {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let application = address(101, 3000);
        let shards = limiter.hosts.iter().map(|host| host.address);
        let shards: Vec<_> = shards.map(|shard| format!("server {shard};")).collect();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = temporary.map(|kind| format!("{kind}_temp_path {kind};"));
        let http = format!(
            "http {{ {} server {{ listen {application}; location / {{ return 200 \"hello\"; }} }}",
            temporary.join(" "),
        );
        let mut configuration = include_str!("../../examples/limiter/nginx.conf").to_owned();
        for (copied, here) in [
            (
                "worker_processes auto;",
                "daemon off; master_process off;".to_owned(),
            ),
            ("http {", http),
            ("server 127.0.0.1:8080;", shards.join(" ")),
            ("server 127.0.0.1:3000;", format!("server {application};")),
            ("listen 8000;", format!("listen {};", address(100, 8000))),
        ] {
            assert_eq!(configuration.matches(copied).count(), 1, "{copied}");
            configuration = configuration.replace(copied, &here);
        }
        let file = directory.path().join("nginx.conf");
        fs::write(&file, configuration).expect("the file can be written");
        let log = fs::File::create(directory.path().join("log")).expect("the file can be created");
        let child = tool("nginx")
            .args(["-e", "stderr", "-p"])
            .arg(directory.path())
            .arg("-c")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("nginx starts");
        let mut nginx = Self { child, directory };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address(100, 8000)).is_err() {
            let ended = nginx
                .child
                .try_wait()
                .expect("the process can be waited for");
            let runs = ended.is_none() && Instant::now() < deadline;
            assert!(runs, "nginx does not listen: {}", nginx.log());
            thread::sleep(Duration::from_millis(1));
        }
        nginx
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client of nginx with an address of its own.
struct Client {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    fn new(number: u8) -> Self {
        Self {
            address: address(110 + number, 0),
            stream: None,
        }
    }

    fn connect(&self) -> BufReader<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket
            .bind(&self.address.into())
            .expect("the address is of this machine");
        socket
            .connect(&address(100, 8000).into())
            .expect("nginx accepts");
        let stream = TcpStream::from(socket);
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("the socket is open");
        BufReader::new(stream)
    }

    fn get(&mut self) -> Response {
        let mut stream = self.stream.take().unwrap_or_else(|| self.connect());
        let request = b"GET / HTTP/1.1\r\nhost: application\r\n\r\n";
        stream.get_mut().write_all(request).expect("nginx reads");
        let response = read_response(&mut stream, false).expect("nginx answers");
        if response.header("connection") != Some("close") {
            self.stream = Some(stream);
        }
        response
    }
}

/// The answers of a client: when each came, and whether the request was allowed.
type Answers = Vec<(Instant, bool)>;

/// Asks until the end, as fast as possible.
fn ask(number: u8, ended: &AtomicBool) -> Answers {
    let mut client = Client::new(number);
    let mut answers = Answers::new();
    while !ended.load(Ordering::Relaxed) {
        let response = client.get();
        assert!(response.header("ratelimit").is_some(), "{response:?}");
        match response.status {
            200 => assert_eq!(response.text(), "hello"),
            429 => {
                let wait = response.header("retry-after").expect("when to retry");
                let wait: u64 = wait.parse().expect("seconds");
                assert!((1..=2).contains(&wait), "{response:?}");
            }
            _ => panic!("{response:?}"),
        }
        answers.push((Instant::now(), response.status == 200));
    }
    answers
}

/// Stops the clients when dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Compares the requests that were allowed in a window with what the bucket had at its begin and what has flowed in.
///
/// The client asks without a pause, so a token waits for at most the longest time between two answers. The clocks of the
/// client and of the guest differ by no more at each end of the window. One token may be a fraction at each end.
#[track_caller]
fn check(answers: &Answers, from: Instant, to: Instant, had: f64, rate: f64) -> (f64, f64) {
    let within: Vec<_> = answers
        .iter()
        .filter(|(at, _)| (from..to).contains(at))
        .collect();
    let longest = within.windows(2).map(|pair| pair[1].0 - pair[0].0).max();
    let longest = longest.expect("there are answers").as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "the number is small")]
    let allowed = within.iter().filter(|(_, allowed)| *allowed).count() as f64;
    let expected = had + rate * (to - from).as_secs_f64();
    let bound = 2.0 + 2.0 * rate * longest;
    assert!(
        (allowed - expected).abs() <= bound,
        "{allowed} were allowed instead of {expected} ± {bound}; {} answers, the longest wait {longest} s",
        within.len()
    );
    (allowed, expected)
}

#[test]
fn clients_of_nginx_get_what_their_buckets_allow_also_when_rates_change() {
    let mut cluster = Cluster::start(PART, 3, 3, &files(BEFORE));
    let nginx = Nginx::start(&cluster);
    let ended = AtomicBool::new(false);
    let began = Instant::now();
    let (changing, changed, answers) = thread::scope(|scope| {
        let ended = &ended;
        // Ends the clients even after a panic; otherwise they would run forever.
        let end = End(ended);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| scope.spawn(move || ask(number, ended)))
            .collect();
        thread::sleep(LOAD);
        let changing = Instant::now();
        cluster.publish(&files(AFTER));
        cluster.wait_for_generation(2);
        let changed = Instant::now();
        thread::sleep(LOAD);
        drop(end);
        let answers = clients
            .into_iter()
            .map(|client| client.join().expect("no request fails"));
        (changing, changed, answers.collect::<Vec<_>>())
    });
    let mut requests = 0;
    for (client, answers) in answers.iter().enumerate() {
        let last = answers.last().expect("there are answers").0;
        let (first, first_expected) = check(answers, began, changing, BEFORE.0, BEFORE.1);
        // The clients have left nothing in their buckets.
        let (then, then_expected) = check(answers, changed, last, 0.0, AFTER.1);
        requests += answers.len();
        println!(
            "client {client}: {} requests; allowed {first} of {first_expected:.1}, \
             then {then} of {then_expected:.1}",
            answers.len()
        );
    }
    // nginx logs each failure of a server behind it.
    assert!(!nginx.log().contains("[error]"), "{}", nginx.log());
    println!(
        "{requests} requests, 0 failed; the rates were changed in {:?}",
        changed - changing
    );

    // Without the limiter, the application is still there.
    cluster.hosts.clear();
    let response = Client::new(CLIENTS).get();
    assert_eq!((response.status, response.text()), (200, "hello"));
}

#[test]
fn rates_that_cannot_be_are_refused_and_the_former_ones_go_on() {
    let mut cluster = Cluster::start(PART + 1, 1, 1, &{
        let mut files = files(BEFORE);
        files.insert("ostrakon.toml".to_owned(), Vec::new());
        files
    });
    let mut bad = files((0.0, 10.0));
    bad.insert("ostrakon.toml".to_owned(), Vec::new());
    cluster.publish(&bad);
    let host = &cluster.hosts[0];
    let said = "class `default`: `capacity` is 0: give 1 to 1000000 tokens";
    host.wait_for_status("the refusal", |status| {
        let reason = status["refused"]["reason"].as_str();
        reason.is_some_and(|reason| reason.contains(said))
    });
    let taken = host.client().get("/take/ann").expect("an answer");
    let policy = taken.header("ratelimit-policy");
    assert_eq!((taken.status, policy), (204, Some("\"default\";q=20;w=2")));
}
