//! A StatefulSet of real hosts, run by the controller of `ostrakon dev`.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ostrakon_dev::{
    Addresses, Backoff, Controller, Handle, MAX_SHARDS, News, Numbers, Options, Propagation,
    Standing, StateDirectory, What,
};
use ostrakon_test_support::net::Net;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::client::{Client, Response};
use crate::host::{CANARY, Files, PATIENCE, assert_no_canary, binary};

/// How many lines of each shard's log a failing test shows.
const LOG_LINES: usize = 30;

/// Shards that start in order, end in reverse order, are restarted when they die, and keep
/// their data by ordinal. All methods can be called from several threads. Dropping the set
/// kills the shards.
#[derive(Debug)]
pub struct StatefulSet {
    /// The options of the next start.
    pub options: Options,
    controller: Option<Controller>,
    runtime: Runtime,
    news: Mutex<(Vec<News>, Option<UnboundedReceiver<News>>)>,
    config: Mutex<Files>,
    directory: TempDir,
    _net: Net,
}

impl StatefulSet {
    /// A set of `shards` shards with this ConfigMap, the canary as a secret, and no data. It
    /// does not run yet.
    ///
    /// # Panics
    /// When there is no free network for it.
    pub fn new(config: &Files, shards: u32) -> Self {
        let net = Net::claim();
        let addresses = Addresses::new(net.first(), 8080, 9090, 7070);
        Self {
            options: Options {
                binary: binary(),
                shards: Some(shards),
                addresses: addresses.expect("the address ends in .1"),
                grace: Duration::from_secs(30),
                numbers: Numbers::default(),
                propagation: Propagation::default(),
                // Tests kill more often than a cluster does, and have less time.
                backoff: Backoff {
                    first: Duration::from_millis(50),
                    most: Duration::from_millis(500),
                    ..Backoff::default()
                },
                log: "info".to_owned(),
                arguments: Vec::new(),
                environment: Vec::new(),
            },
            controller: None,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be created"),
            news: Mutex::default(),
            config: Mutex::new(config.clone()),
            directory: tempfile::tempdir().expect("a directory can be created"),
            _net: net,
        }
    }

    /// Starts the set, and waits until it is settled.
    ///
    /// # Panics
    /// When it does not settle.
    pub fn start(&mut self) {
        self.begin();
        self.settle();
    }

    /// Starts the set without waiting.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn begin(&mut self) {
        assert!(self.controller.is_none(), "it runs");
        let place =
            StateDirectory::open(self.directory.path()).expect("the state directory is free");
        let controller =
            Controller::start(place, self.options.clone()).expect("its ports are free");
        let handle = controller.handle();
        *self.news.lock().expect("no holder panics") =
            (Vec::new(), Some(handle.news().expect("the set runs")));
        let canary = ("canary-of-all".to_owned(), Bytes::from(CANARY));
        let secrets = ostrakon_dev::Files::from([canary]);
        handle.publish_secrets(secrets).expect("the set runs");
        self.controller = Some(controller);
        let config = self.config.lock().expect("no holder panics").clone();
        self.publish(&config);
    }

    /// Ends all shards in reverse order. Their data stays, for a check or another start.
    ///
    /// # Panics
    /// When they do not end.
    pub fn stop(&mut self) {
        self.handle().stop();
        self.within("the end", async |handle| handle.ended().await);
        self.news_so_far();
        self.controller = None;
    }

    /// The controller's handle.
    ///
    /// # Panics
    /// When the set does not run.
    pub(crate) fn handle(&self) -> Handle {
        self.controller
            .as_ref()
            .expect("the set runs")
            .handle()
            .clone()
    }

    /// Changes the ConfigMap; each shard sees the change after its delay.
    ///
    /// # Panics
    /// When the set does not run.
    pub fn publish(&self, config: &Files) {
        self.config
            .lock()
            .expect("no holder panics")
            .clone_from(config);
        let files = config.iter();
        let files = files.map(|(name, content)| (name.clone(), Bytes::from(content.clone())));
        self.handle()
            .publish(files.collect())
            .expect("the set runs");
    }

    /// Asks for another number of shards without waiting for it.
    ///
    /// # Panics
    /// When that number is not possible.
    pub fn begin_scale(&self, shards: u32) {
        self.handle().scale(shards).expect("the set can be scaled");
    }

    /// Changes the number of shards, and waits until all data is where it belongs.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn scale(&self, shards: u32) {
        self.begin_scale(shards);
        assert_eq!(self.settle().wanted, shards);
    }

    /// Restarts all shards one after another, and waits until all have restarted.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn restart(&self) {
        self.handle().restart().expect("the set runs");
        self.settle();
    }

    /// Kills a shard's process with SIGKILL, if it has one, without waiting. Returns the
    /// process's id.
    ///
    /// # Panics
    /// When the set does not run.
    pub fn kill(&self, shard: u32) -> Option<u32> {
        self.within("a kill", async |handle| handle.kill(shard).await.ok())
    }

    /// Halts a shard's process with SIGSTOP, if it has one.
    ///
    /// # Panics
    /// When the set does not run.
    pub fn pause(&self, shard: u32) -> Option<u32> {
        self.within("a pause", async |handle| handle.pause(shard).await.ok())
    }

    /// Resumes a halted process.
    ///
    /// # Panics
    /// When the set does not run.
    pub fn resume(&self, shard: u32) -> Option<u32> {
        self.within("a resumption", async |handle| {
            handle.resume(shard).await.ok()
        })
    }

    /// Waits until all shards are ready with the newest content, and all data is where it belongs.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn settle(&self) -> Standing {
        self.within("a settled set", async |handle| {
            handle.settled().await.expect("the set runs")
        })
    }

    /// The controller's view of the set.
    ///
    /// # Panics
    /// When the set does not run.
    pub fn standing(&self) -> Standing {
        self.within("its standing", async |handle| {
            handle.standing().await.expect("the set runs")
        })
    }

    fn within<T>(&self, what: &str, wait: impl AsyncFnOnce(&Handle) -> T) -> T {
        let handle = self.handle();
        let waited = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, wait(&handle)).await });
        waited.unwrap_or_else(|_| {
            let standing = self.runtime.block_on(handle.standing());
            panic!("{what} does not come: {standing:#?}")
        })
    }

    /// All news since the start.
    ///
    /// # Panics
    /// When another thread has panicked in this method.
    pub fn news_so_far(&self) -> Vec<News> {
        let mut news = self.news.lock().expect("no holder panics");
        let (so_far, receiver) = &mut *news;
        while let Some(Ok(news)) = receiver.as_mut().map(UnboundedReceiver::try_recv) {
            so_far.push(news);
        }
        so_far.clone()
    }

    /// Waits until a given event has happened since the start, and returns its time.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_for(&self, what: &str, is_it: impl Fn(Option<u32>, &What) -> bool) -> Instant {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let news = self.news_so_far();
            if let Some(news) = news.iter().find(|news| is_it(news.shard, &news.what)) {
                return news.at;
            }
            assert!(Instant::now() < deadline, "{what} does not come: {news:#?}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// A client of a shard's public port.
    pub fn client(&self, shard: u32) -> Client {
        Client::new(self.options.addresses.public(shard))
    }

    /// Sends one request to a shard's admin port.
    ///
    /// # Errors
    /// When there is no whole response.
    ///
    /// # Panics
    /// When the response contains the canary.
    pub fn admin(&self, shard: u32, method: &str, path: &str) -> io::Result<Response> {
        let address = self.options.addresses.admin(shard);
        let response = Client::new(address).send(method, path, &[("connection", "close")], b"")?;
        let text = String::from_utf8_lossy(&response.body);
        assert!(!text.contains(CANARY), "{path} tells a secret");
        Ok(response)
    }

    /// A shard's `/status`, if it answers.
    pub fn status(&self, shard: u32) -> Option<Value> {
        let response = self.admin(shard, "GET", "/status").ok()?;
        serde_json::from_slice(&response.body).ok()
    }

    /// A shard's data directory. It must not be opened while the shard runs.
    pub fn data(&self, shard: u32) -> PathBuf {
        StateDirectory::shard(self.directory.path(), shard).join("data")
    }

    /// The directory that is mounted in a shard as its ConfigMap.
    pub fn mounted(&self, shard: u32) -> PathBuf {
        StateDirectory::shard(self.directory.path(), shard).join("config")
    }

    /// A shard's log, over all its processes.
    pub fn log(&self, shard: u32) -> String {
        let log = fs::read(StateDirectory::shard(self.directory.path(), shard).join("log"));
        String::from_utf8_lossy(&log.unwrap_or_default()).into_owned()
    }
}

impl Drop for StatefulSet {
    fn drop(&mut self) {
        let shards: Vec<_> = (0..MAX_SHARDS)
            .filter(|&shard| self.data(shard).exists())
            .collect();
        self.controller = None;
        for shard in shards {
            let log = self.log(shard);
            if thread::panicking() {
                let lines: Vec<_> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
                // Even if this cannot be written, the panic is reported.
                let _ = writeln!(
                    io::stderr(),
                    "shard {shard} logged last:\n{}",
                    last.join("\n")
                );
            } else {
                assert!(
                    !log.contains(CANARY),
                    "the log of shard {shard} tells a secret"
                );
                assert_no_canary(&self.data(shard));
                assert_no_canary(&self.mounted(shard));
            }
        }
    }
}
