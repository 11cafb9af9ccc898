//! A real host process, and the volumes and data directory that it runs on.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::client::{Client, Response};
use crate::volume::Volume;

pub use ostrakon_test_support::PATIENCE;

/// A secret that every shard of every test gets. No log line, no response of the admin port and no
/// file of any shard may contain it. Each of these is searched, as it arrives or when its test
/// ends.
pub const CANARY: &str = "canary-of-the-whole-run-93f1c7";

/// The content of a ConfigMap.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The ConfigMap of a guest and its settings.
pub fn config(guest: &[u8], settings: &[(&str, &str)]) -> Files {
    let mut files = Files::from([("guest.wasm".to_owned(), guest.to_vec())]);
    for (name, content) in settings {
        files.insert((*name).to_owned(), content.as_bytes().to_vec());
    }
    files
}

/// A guest's component, as `cargo xtask` builds it: `kv`, `counter`, ...
///
/// # Panics
/// When it was not built.
pub fn guest(name: &str) -> Vec<u8> {
    let directory = std::env::var_os("OSTRAKON_TEST_GUESTS")
        .map_or_else(|| target().join("guests"), PathBuf::from);
    let path = directory.join(format!("{name}.wasm"));
    fs::read(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}: run the tests with `cargo xtask test`",
            path.display()
        )
    })
}

/// The `ostrakon` binary under test: `OSTRAKON_TEST_HOST`, or the one that was built beside
/// this test.
///
/// # Panics
/// When it was not built.
pub fn binary() -> PathBuf {
    if let Some(binary) = std::env::var_os("OSTRAKON_TEST_HOST") {
        return binary.into();
    }
    let test = std::env::current_exe().expect("a test has a path");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("a test is in target/<profile>/deps");
    let binary = profile.join("ostrakon");
    assert!(
        binary.exists(),
        "{} is missing: run the tests with `cargo xtask test`",
        binary.display()
    );
    binary
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}

/// How many lines of a host's log a failing test shows.
const LAST_LINES: usize = 60;

/// The state of a shard that outlives its process: volumes and data.
#[derive(Debug)]
pub struct Shard {
    /// The mounted ConfigMap.
    pub config: Volume,
    /// The mounted Secret.
    pub secrets: Volume,
    pub data: PathBuf,
    pub ordinal: u32,
    /// The public port; 0 lets the system choose one.
    pub listen: SocketAddr,
    /// More arguments for `ostrakon serve`.
    pub arguments: Vec<String>,
    /// The command that runs the host, if the host is not run directly. It must end by executing
    /// the command in its last arguments.
    pub runner: Vec<String>,
    /// The `ostrakon` binary.
    pub binary: PathBuf,
    /// Shared with the hosts that run on it, so that the directory exists as long as they do.
    directory: Arc<TempDir>,
}

impl Shard {
    /// A shard with this ConfigMap, the canary as a secret, and no data.
    ///
    /// # Panics
    /// When the test's directory cannot be created.
    pub fn new(files: &Files) -> Self {
        let directory = Arc::new(tempfile::tempdir().expect("a directory can be created"));
        let path = |name| directory.path().join(name);
        let mut config = Volume::create(path("config")).expect("the volume is made");
        let mut secrets = Volume::create(path("secrets")).expect("the volume is made");
        config.publish(files).expect("the volume is filled");
        let canary = Files::from([("canary-of-all".to_owned(), CANARY.into())]);
        secrets.publish(&canary).expect("the volume is filled");
        Self {
            config,
            secrets,
            data: path("data"),
            ordinal: 0,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            arguments: Vec::new(),
            runner: Vec::new(),
            binary: binary(),
            directory,
        }
    }

    /// The directory of all its files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts a host, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn start(&self) -> Host {
        let host = self.spawn();
        host.wait_until("ready", |host| {
            host.admin("GET", "/readyz").is_ok_and(|r| r.status == 200)
        });
        host
    }

    /// The command that starts a host, on ports that the system chooses unless given otherwise.
    pub fn command(&self) -> Command {
        let mut command = match self.runner.split_first() {
            None => Command::new(&self.binary),
            Some((runner, arguments)) => {
                let mut command = Command::new(runner);
                command.args(arguments).arg(&self.binary);
                command
            }
        };
        command
            .arg("serve")
            .arg("--config-dir")
            .arg(self.config.directory())
            .arg("--secrets-dir")
            .arg(self.secrets.directory())
            .arg("--data-dir")
            .arg(&self.data)
            .args([
                "--listen",
                &self.listen.to_string(),
                "--admin",
                "127.0.0.1:0",
                "--ordinal",
                &self.ordinal.to_string(),
            ])
            .args(["--log-format", "json"])
            .args(&self.arguments)
            // The tests may run in a Pod, but are not part of its cluster.
            .env_remove("KUBERNETES_SERVICE_HOST")
            .stdin(Stdio::null())
            // The test's standard output is not inherited: its reader would wait for this process,
            // too.
            .stdout(Stdio::null());
        command
    }

    /// Starts a host that must end with exit code 64 and one line that contains `said`. Returns
    /// its log.
    ///
    /// # Panics
    /// When it ends otherwise.
    pub fn is_refused(&self, said: &str) -> String {
        let (status, log) = self.spawn().wait();
        assert_eq!(status.code(), Some(64), "{log}");
        let last = last_words(&log);
        assert!(last.contains(said), "{said}: {last}");
        log
    }

    /// Starts a host, and waits until its ports are open.
    ///
    /// # Panics
    /// When it ends before that.
    pub fn spawn(&self) -> Host {
        let mut host = Host::spawn(&mut self.command());
        host.directory = Some(Arc::clone(&self.directory));
        host
    }
}

/// The last line of a process that ends with an error. Like all others it is a line of JSON.
///
/// # Panics
/// When the last line is different.
pub fn last_words(log: &str) -> String {
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line:?}")))
        .collect();
    let errors = lines.iter().filter(|line| line["level"] == "ERROR");
    let last = lines.last().expect("the process says why it ends");
    assert_eq!(errors.count(), 1, "{log}");
    assert_eq!(last["level"], "ERROR", "{log}");
    last["message"]
        .as_str()
        .expect("the message is a text")
        .to_owned()
}

impl Host {
    /// Runs a command that becomes a host whose log is JSON, and waits until its ports are
    /// open.
    ///
    /// # Panics
    /// When it ends before that.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("the host starts");
        let stderr = child.stderr.take().expect("the log is piped");
        let log = Arc::new(Log::default());
        let lines = Arc::clone(&log);
        thread::spawn(move || {
            let mut read = BufReader::new(stderr).split(b'\n');
            while lines.may_read() {
                match read.next() {
                    Some(Ok(line)) => lines.push(String::from_utf8_lossy(&line).into_owned()),
                    _ => return lines.end(),
                }
            }
            // The pipe is closed, though the host may still run.
        });
        let starting = log.wait_for("its ports", |line| line.contains("\"starting\""));
        let starting: Value = serde_json::from_str(&starting).expect("the log is JSON");
        let address = |name: &str| -> SocketAddr {
            let field = starting["fields"].get(name).or_else(|| starting.get(name));
            let address = field
                .and_then(Value::as_str)
                .expect("the address is logged");
            address.parse().expect("the log has an address")
        };
        Self {
            address: address("listen"),
            admin: address("admin"),
            child: Some(child),
            log,
            directory: None,
        }
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        if !thread::panicking() {
            assert_no_canary(&self.data);
            assert_no_canary(self.config.directory());
        }
    }
}

/// Searches each file below a directory for the canary.
pub(crate) fn assert_no_canary(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            assert_no_canary(&path);
        } else if path.is_file()
            && let Ok(content) = fs::read(&path)
        {
            let mut places = content.windows(CANARY.len());
            let found = places.any(|bytes| bytes == CANARY.as_bytes());
            assert!(!found, "{} tells a secret", path.display());
        }
    }
}

/// A running host. Dropping it kills it.
#[derive(Debug)]
pub struct Host {
    /// The public port.
    pub address: SocketAddr,
    pub admin: SocketAddr,
    child: Option<Child>,
    log: Arc<Log>,
    /// The data directory, which exists as long as the host runs.
    directory: Option<Arc<TempDir>>,
}

impl Host {
    /// A client of the public port.
    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// Sends one request to the admin port.
    ///
    /// # Errors
    /// When there is no whole response.
    ///
    /// # Panics
    /// When the response contains the canary.
    pub fn admin(&self, method: &str, path: &str) -> std::io::Result<Response> {
        let sent = Client::new(self.admin).send(method, path, &[("connection", "close")], b"");
        if let Ok(response) = &sent {
            let mut places = response.body.windows(CANARY.len());
            let found = places.any(|bytes| bytes == CANARY.as_bytes());
            assert!(!found, "{path} tells a secret");
        }
        sent
    }

    /// The shard's `/status`.
    ///
    /// # Panics
    /// When there is none.
    pub fn status(&self) -> Value {
        let response = self
            .admin("GET", "/status")
            .expect("the admin port answers");
        serde_json::from_slice(&response.body).expect("the status is JSON")
    }

    /// The number of the live generation; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.status()["generation"]["generation"]
            .as_u64()
            .unwrap_or_default()
    }

    /// A counter or gauge, summed over all labels; `name` may include labels.
    ///
    /// # Panics
    /// When there are no metrics, or this one is not a whole number.
    pub fn metric(&self, name: &str) -> u64 {
        let response = self
            .admin("GET", "/metrics")
            .expect("the admin port answers");
        let values = response.text().lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let is_it = series == name || series.strip_prefix(name)?.starts_with('{');
            is_it.then(|| value.parse::<u64>().expect("the metric is a whole number"))
        });
        values.sum()
    }

    /// Waits until the status is as wanted, and returns it.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_for_status(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            last = self.status();
            if wanted(&last) {
                return last;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("{what} does not come: {last:#}");
    }

    /// Waits until a condition holds.
    ///
    /// # Panics
    /// When that does not happen in time, or the host ends.
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(
                !self.log.has_ended(),
                "the host ended before {what}:\n{}",
                self.log()
            );
            assert!(
                Instant::now() < deadline,
                "{what} does not come:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The log so far.
    ///
    /// # Panics
    /// When the thread that reads the log has panicked.
    pub fn log(&self) -> String {
        self.log
            .lines
            .lock()
            .expect("no holder panics")
            .0
            .join("\n")
    }

    /// Reads the host's log from now on, stops reading it, or closes it.
    ///
    /// # Panics
    /// When the thread that reads the log has panicked.
    pub fn set_reading(&self, reading: Reading) {
        *self.log.reading.lock().expect("no holder panics") = reading;
        self.log.resumed.notify_all();
    }

    /// The process's id.
    ///
    /// # Panics
    /// After it has ended.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("the process runs").id()
    }

    /// Sends a signal by name: `TERM`, `KILL`, ...
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.id().to_string())
            .status();
        assert!(
            sent.is_ok_and(|status| status.success()),
            "SIG{name} cannot be sent"
        );
    }

    /// Waits until the host ends, by itself or by a signal. Returns its status and its log.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let mut child = self.child.take().expect("the process runs");
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().expect("the process can be waited for") {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("the host does not end:\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(1));
        };
        let reading = *self.log.reading.lock().expect("no holder panics");
        if reading != Reading::Closed {
            self.set_reading(Reading::On);
            self.log.wait_end();
        }
        (status, self.log())
    }

    /// Kills the host with SIGKILL, and waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill(self) {
        self.signal("KILL");
        self.wait();
    }

    /// Tells the host to end with SIGTERM, and checks that it ends with code 0. Returns its
    /// log.
    ///
    /// # Panics
    /// When it does not.
    pub fn stop(self) -> String {
        self.signal("TERM");
        let (status, log) = self.wait();
        assert!(status.success(), "{status}:\n{log}");
        log
    }
}

impl Drop for Host {
    #[expect(clippy::print_stderr, reason = "shown where the test fails")]
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            let log = self.log();
            let last: Vec<_> = log.lines().rev().take(LAST_LINES).collect();
            let last: Vec<_> = last.into_iter().rev().collect();
            eprintln!("the host's last lines:\n{}", last.join("\n"));
        } else {
            assert!(!self.log().contains(CANARY), "the log tells a secret");
        }
    }
}

/// How a host's log is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// The log is read as it arrives.
    #[default]
    On,
    /// The log is not read, and fills its pipe.
    Paused,
    /// The pipe is closed on this side after one more line.
    Closed,
}

/// The lines of a process so far, and whether there will be more.
#[derive(Debug, Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    reading: Mutex<Reading>,
    changed: Condvar,
    resumed: Condvar,
}

impl Log {
    fn push(&self, line: String) {
        self.lines.lock().expect("no holder panics").0.push(line);
        self.changed.notify_all();
    }

    /// Waits while reading is paused; `false` once the pipe is to be closed.
    fn may_read(&self) -> bool {
        let reading = self.reading.lock().expect("no holder panics");
        let resumed = self
            .resumed
            .wait_while(reading, |reading| *reading == Reading::Paused);
        *resumed.expect("no holder panics") != Reading::Closed
    }

    fn end(&self) {
        self.lines.lock().expect("no holder panics").1 = true;
        self.changed.notify_all();
    }

    fn has_ended(&self) -> bool {
        self.lines.lock().expect("no holder panics").1
    }

    fn wait_end(&self) {
        let lines = self.lines.lock().expect("no holder panics");
        let ended = self
            .changed
            .wait_timeout_while(lines, PATIENCE, |(_, ended)| !*ended);
        drop(ended.expect("no holder panics"));
    }

    fn wait_for(&self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        let mut lines = self.lines.lock().expect("no holder panics");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = lines.0.iter().find(|line| is_it(line)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !lines.1 && !left.is_zero(),
                "the host does not say {what}:\n{}",
                lines.0.join("\n")
            );
            lines = self
                .changed
                .wait_timeout(lines, left)
                .expect("no holder panics")
                .0;
        }
    }
}
