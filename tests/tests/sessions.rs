//! Flask with its sessions in three shards, while the guest and its settings are swapped: no request fails, no client sees
//! another one's session, no change is lost, and what expires is gone.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_test_support::tools::tool;
use ostrakon_tests::client::{Client, Response};
use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{Files, Host, PATIENCE, config, guest};
use ostrakon_tests::load::under_load_through;
use serde_json::Value;
use tempfile::TempDir;

/// The third byte of all addresses here.
const PART: u8 = 171;
const SWAPS: u64 = 12;
const CLIENTS: usize = 4;
/// The least number of requests between two swaps.
const BETWEEN: u64 = 40;

/// An application as in the comment of `examples/sessions/flask_sessions.py`.
const APPLICATION: &str = r#"
import sys
from flask import Flask, session
from flask_sessions import Sessions
from werkzeug.serving import run_simple

app = Flask(__name__)
app.session_interface = Sessions(sys.argv[1])

@app.get("/login/<user>")
def login(user):
    app.session_interface.renew(session)
    session["user"], session["visits"] = user, 0
    return user

@app.get("/visit")
def visit():
    session["visits"] += 1
    return f"{session['user']} {session['visits']}"

@app.get("/who")
def who():
    return session.get("user", "nobody")

@app.get("/logout")
def logout():
    session.clear()
    return "bye"

run_simple(sys.argv[2], int(sys.argv[3]), app, threaded=True)
"#;

/// By turns, the guest changes together with the settings, and the settings change alone.
fn files(generation: u64) -> Files {
    let mut component = guest("sessions");
    if generation % 4 > 1 {
        // A custom section with the name `swap`.
        component.extend([0, 5, 4]);
        component.extend(b"swap");
    }
    let toml = "[cluster]\nshards = 3\n";
    let ttl = (600 + generation).to_string();
    config(&component, &[("ostrakon.toml", toml), ("ttl", &ttl)])
}

/// A process of the application. Dropping it kills it.
struct Application {
    address: SocketAddr,
    child: Child,
    directory: TempDir,
}

impl Application {
    /// Starts one that uses this shard.
    fn start(number: u8, host: &Host) -> Self {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let address = SocketAddr::from((Ipv4Addr::new(127, 7, PART, 100 + number), 5000));
        let program = directory.path().join("application.py");
        fs::write(&program, APPLICATION).expect("the file can be written");
        let log = fs::File::create(directory.path().join("log")).expect("the file can be created");
        let copied = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/sessions");
        let child = tool("python")
            .arg(program)
            .arg(format!("http://{}", host.address))
            .args([address.ip().to_string(), address.port().to_string()])
            .env("PYTHONPATH", copied)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Python starts");
        Self {
            address,
            child,
            directory,
        }
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).is_err() {
            let ended = self
                .child
                .try_wait()
                .expect("the process can be waited for");
            let runs = ended.is_none() && Instant::now() < deadline;
            assert!(runs, "Flask does not listen: {}", self.log());
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A browser: its cookie, and what it knows of its session.
#[derive(Default)]
struct Browser {
    cookie: String,
    user: String,
    visits: u64,
}

impl Browser {
    /// The text of a page. The application's cookie is kept.
    fn open(&mut self, application: &mut Client, path: &str) -> String {
        let page = application.send("GET", path, &[("cookie", &self.cookie)], b"");
        let page = page.expect("an answer");
        assert_eq!(page.status, 200, "{path}: {page:?}");
        if let Some(cookie) = page.header("set-cookie") {
            let pair = cookie.split(';').next().expect("a cookie has a first part");
            pair.clone_into(&mut self.cookie);
        }
        page.text().to_owned()
    }

    /// Logs in, or opens the page that counts.
    fn go_on(&mut self, application: &mut Client, worker: usize, number: u64) {
        if number.is_multiple_of(20) {
            let former = self.cookie.clone();
            self.user = format!("user-{worker}-{number}");
            self.visits = 0;
            let user = self.open(application, &format!("/login/{}", self.user));
            assert_eq!(user, self.user);
            assert_ne!(self.cookie, former, "a login has a new id");
            // The former id is worth nothing, and its user is not known any more.
            let mut stale = Self {
                cookie: former,
                ..Self::default()
            };
            assert_eq!(stale.open(application, "/who"), "nobody");
        } else {
            self.visits += 1;
            let seen = self.open(application, "/visit");
            assert_eq!(seen, format!("{} {}", self.user, self.visits));
        }
    }
}

fn id(made: &Response) -> String {
    assert_eq!(made.status, 201, "{made:?}");
    let body: Value = serde_json::from_slice(&made.body).expect("JSON");
    body["id"].as_str().expect("an id").to_owned()
}

/// Makes a session that nobody uses any more, and reads it once.
fn abandon(shard: &mut Client, worker: usize, number: u64) -> String {
    let data = format!("abandoned {worker} {number}");
    let made = shard.send("POST", "/sessions?ttl=1", &[], data.as_bytes());
    let id = id(&made.expect("an answer"));
    let read = shard.get(&format!("/sessions/{id}")).expect("an answer");
    // On a slow machine it may have expired.
    assert!(read.status == 404 || read.text() == data, "{read:?}");
    id
}

/// Adds one to the number in a session that all clients share.
fn add(shard: &mut Client, path: &str) {
    loop {
        let read = shard.get(path).expect("an answer");
        assert_eq!(read.status, 200, "{read:?}");
        let number: u64 = read.text().parse().expect("a number");
        let version = read.header("etag").expect("a version");
        let (next, headers) = ((number + 1).to_string(), [("if-match", version)]);
        let put = shard.send("PUT", path, &headers, next.as_bytes());
        match put.expect("an answer").status {
            204 => return,
            412 => {}
            status => panic!("{status}"),
        }
    }
}

#[test]
fn flask_keeps_its_sessions_while_the_guest_and_its_settings_are_swapped() {
    let mut cluster = Cluster::start(PART, 3, 3, &files(1));
    let shards: Vec<_> = cluster.hosts.iter().map(|host| host.address).collect();
    let hosts = (0..).zip(&cluster.hosts);
    let mut applications: Vec<_> = hosts
        .map(|(number, host)| Application::start(number, host))
        .collect();
    applications.iter_mut().for_each(Application::wait);
    let made = cluster.hosts[0]
        .client()
        .send("POST", "/sessions", &[], b"0");
    let shared = format!("/sessions/{}", id(&made.expect("an answer")));

    let browsers: [Mutex<Browser>; CLIENTS] = Default::default();
    let (abandoned, added) = (Mutex::new(Vec::new()), AtomicU64::new(0));
    let addresses = applications.iter().map(|application| application.address);
    let addresses: Vec<_> = addresses.chain(shards).collect();
    let request = |clients: &mut [Client], worker: usize, number: u64| {
        let (applications, shards) = clients.split_at_mut(3);
        let at = usize::try_from(number % 3).expect("the number is small");
        let mut browser = browsers[worker].lock().expect("no holder panics");
        browser.go_on(&mut applications[at], worker, number);
        if number.is_multiple_of(4) {
            let id = abandon(&mut shards[at], worker, number);
            abandoned.lock().expect("no holder panics").push(id);
            add(&mut shards[at], &shared);
            added.fetch_add(1, Ordering::Relaxed);
        }
    };
    let (rounds, ()) = under_load_through(&addresses, CLIENTS, request, |answered| {
        for generation in 2..=SWAPS + 1 {
            cluster.publish(&files(generation));
            cluster.wait_for_generation(generation);
            let enough = answered.load(Ordering::Relaxed) + BETWEEN;
            cluster.hosts[0].wait_until("more requests", |_| {
                answered.load(Ordering::Relaxed) >= enough
            });
        }
    });

    // Each browser's cookie leads to its own session, through each shard.
    for browser in &browsers {
        let browser = browser.lock().expect("no holder panics");
        for host in &cluster.hosts {
            let headers = [("cookie", browser.cookie.as_str())];
            let read = host
                .client()
                .send("GET", "/session", &headers, b"")
                .expect("an answer");
            let session: Value = serde_json::from_slice(&read.body).expect("JSON");
            let expected = serde_json::json!({"user": browser.user, "visits": browser.visits});
            assert_eq!(session, expected);
        }
    }
    let read = cluster.hosts[1].client().get(&shared).expect("an answer");
    assert_eq!(
        read.text(),
        added.into_inner().to_string(),
        "an addition was lost"
    );
    let pages: usize = applications
        .iter()
        .map(|application| {
            let log = application.log();
            assert!(!log.contains("Traceback"), "{log}");
            log.lines().filter(|line| line.contains("\"GET ")).count()
        })
        .sum();

    // What expires is gone: at first for clients, then, by a write, from the store.
    let abandoned = abandoned.into_inner().expect("no holder panics");
    for id in &abandoned {
        let path = format!("/sessions/{id}");
        let host = &cluster.hosts[2];
        host.wait_until("the end of the session", |host| {
            host.client().get(&path).expect("an answer").status == 404
        });
        let late = host.client().put(&path, b"late").expect("an answer");
        assert_eq!(late.status, 404, "{late:?}");
    }
    for browser in browsers {
        let mut browser = browser.into_inner().expect("no holder panics");
        let mut application = Client::new(applications[0].address);
        assert_eq!(browser.open(&mut application, "/logout"), "bye");
    }
    let deleted = cluster.hosts[0].client().send("DELETE", &shared, &[], b"");
    assert_eq!(deleted.expect("an answer").status, 204);
    for host in &cluster.hosts {
        host.wait_for_status("an empty store", |status| status["store"]["entries"] == 0);
        assert_eq!(host.metric("ostrakon_swap_refusals_total"), 0);
    }
    println!(
        "{pages} pages of Flask in {rounds} rounds over {SWAPS} swaps of 3 shards, {} sessions abandoned: \
         0 failed, 0 mixed up, 0 left",
        abandoned.len()
    );
}
