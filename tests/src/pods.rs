//! Shards that behave like Kubernetes Pods: peers find them by a name that a cache learns late, and
//! each replacement has another address.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::host::{CANARY, Files, Host, Shard};
use crate::name_server::NameServer;
use crate::network::Network;

/// How long after the start of a Pod's process its name exists: the kubelet reports the address, a
/// controller stores it, and the name server is updated.
const NAMED_AFTER: Duration = Duration::from_secs(1);
/// How long Kubernetes takes to replace a Pod that has ended.
const ABSENT_FOR: Duration = Duration::from_secs(2);
/// The token of the peers.
pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// The first characters of keys, for three shards: those of the second, the third and the first
/// shard.
pub const LETTERS: [char; 3] = ['a', 'b', 'c'];

/// The Pods of one StatefulSet.
#[derive(Debug)]
pub struct Pods<'a> {
    network: &'a Network,
    pub names: NameServer,
    /// By ordinal.
    list: Vec<Pod>,
    /// The addresses that clients are sent to.
    ready: Arc<Mutex<Vec<SocketAddr>>>,
}

#[derive(Debug)]
pub struct Pod {
    pub shard: Shard,
    host: Option<Host>,
    /// How often it was replaced.
    life: u8,
}

impl Pod {
    fn name(&self) -> String {
        format!("server-{}", self.shard.ordinal)
    }

    fn address(&self) -> Ipv4Addr {
        let ordinal = u8::try_from(self.shard.ordinal).expect("the number is small");
        Ipv4Addr::new(10, 1, self.life, ordinal + 1)
    }

    /// The Pod's running process.
    ///
    /// # Panics
    /// When no process runs.
    pub fn host(&self) -> &Host {
        self.host.as_ref().expect("the process runs")
    }

    fn spawn(&mut self, network: &Network, names: &NameServer) {
        let address = self.address();
        network.add(address);
        self.shard.listen = (address, 8080).into();
        let listen = format!("{address}:7070");
        let peers = "server-{}.server-peers:7070";
        let arguments = ["--peers", peers, "--peer-listen", &listen];
        self.shard.arguments = arguments.map(str::to_owned).to_vec();
        self.host = Some(self.shard.spawn());
        let (names, name) = (names.clone(), self.name());
        thread::spawn(move || {
            thread::sleep(NAMED_AFTER);
            names.set(&name, Some(address));
        });
    }

    fn wait_until_ready(&self) {
        self.host().wait_until("ready", |host| {
            host.admin("GET", "/readyz").is_ok_and(|r| r.status == 200)
        });
    }
}

impl<'a> Pods<'a> {
    /// Starts `count` Pods at once, and returns when all are ready.
    ///
    /// # Panics
    /// When they do not become ready.
    pub fn start(network: &'a Network, names: NameServer, count: u32, files: &Files) -> Self {
        let mut pods = Self {
            network,
            names,
            list: Vec::new(),
            ready: Arc::default(),
        };
        pods.add(count, files);
        pods
    }

    /// Starts `count` more Pods.
    ///
    /// # Panics
    /// When they do not become ready.
    pub fn add(&mut self, count: u32, files: &Files) {
        let before = self.list.len();
        for _ in 0..count {
            let mut shard = Shard::new(files);
            shard.ordinal = u32::try_from(self.list.len()).expect("the number is small");
            let secret = [("canary-of-all", CANARY), ("peer-token", TOKEN)];
            let secret = secret.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
            shard
                .secrets
                .publish(&secret.into())
                .expect("the files can be published");
            let mut pod = Pod {
                shard,
                host: None,
                life: 0,
            };
            pod.spawn(self.network, &self.names);
            self.list.push(pod);
        }
        for pod in &self.list[before..] {
            pod.wait_until_ready();
            self.ready().push(pod.host().address);
        }
    }

    fn ready(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.ready.lock().expect("no holder of this lock panics")
    }

    pub fn pod(&self, ordinal: usize) -> &Pod {
        &self.list[ordinal]
    }

    /// Publishes a ConfigMap to all Pods.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn publish(&mut self, files: &Files) {
        for pod in &mut self.list {
            pod.shard
                .config
                .publish(files)
                .expect("the files can be published");
        }
    }

    /// Waits until each Pod reports that `count` shards have all data.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_for(&self, count: u64) {
        for pod in &self.list {
            pod.host().wait_for_status("the topology", |status| {
                let topology = &status["topology"];
                topology["shards"] == count && topology["stable"] == true
            });
        }
    }

    /// Makes each of three Pods ask each other one: from then on they know where the others are.
    ///
    /// # Panics
    /// When a Pod does not reach another.
    pub fn meet(&self) {
        for pod in &self.list {
            for letter in LETTERS {
                let answer = pod.host().client().get(&format!("/load/{letter}"));
                let answer = answer.expect("an answer");
                assert_eq!(answer.status, 200, "`{letter}`: {answer:?}");
            }
        }
    }

    /// Sends no more clients to a Pod from now on.
    pub fn take_out(&self, ordinal: usize) {
        let address = self.list[ordinal].host().address;
        self.ready().retain(|ready| *ready != address);
    }

    /// Drops all packets to and from a Pod, or stops dropping them.
    pub fn cut(&self, ordinal: usize, is_cut: bool) {
        let address = self.list[ordinal].address();
        if is_cut {
            self.network.remove(address);
        } else {
            self.network.add(address);
        }
    }

    /// Waits until a Pod's process ends with an exit code.
    ///
    /// # Panics
    /// When it does not end, or ends with another code.
    pub fn end_by_itself(&mut self, ordinal: usize, code: i32) {
        let (status, log) = self.list[ordinal]
            .host
            .take()
            .expect("the process runs")
            .wait();
        assert_eq!(status.code(), Some(code), "{log}");
    }

    /// Restarts a Pod's process as the kubelet does: at the same address.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn restart(&mut self, ordinal: usize) {
        let pod = &mut self.list[ordinal];
        pod.host = Some(pod.shard.spawn());
        pod.wait_until_ready();
    }

    /// Replaces a Pod by one with its data at another address, and returns when that one is
    /// ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn replace(&mut self, ordinal: usize) {
        self.exchange(ordinal);
        let pod = &self.list[ordinal];
        pod.wait_until_ready();
        let address = pod.host().address;
        self.ready().push(address);
    }

    /// As [`Pods::replace`], but returns when the new Pod has begun to start.
    ///
    /// # Panics
    /// When the old Pod does not end.
    pub fn exchange(&mut self, ordinal: usize) {
        self.take_out(ordinal);
        let pod = &mut self.list[ordinal];
        pod.host.take().expect("the process runs").stop();
        self.names.set(&pod.name(), None);
        self.network.remove(pod.address());
        thread::sleep(ABSENT_FOR);
        pod.life += 1;
        pod.spawn(self.network, &self.names);
    }
}

/// The record of a client's request.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The first character of its key, which determines the owner.
    pub letter: char,
    pub is_write: bool,
    pub began: Instant,
    pub waited: Duration,
    /// The status of the response; `None` where there was no whole response.
    pub status: Option<u16>,
    /// The body of the response, or the error.
    pub said: String,
}

impl Sample {
    /// Whether the response is the right one.
    pub fn is_good(&self) -> bool {
        self.status == Some(200) && self.said == "word"
    }
}

/// Runs clients that write and read keys of all shards through any ready Pod, until `meanwhile`
/// returns. Returns all requests. The clients of a shard share one key.
///
/// # Panics
/// When a client panics.
pub fn under_load(pods: &mut Pods<'_>, meanwhile: impl FnOnce(&mut Pods<'_>)) -> Vec<Sample> {
    let (ended, samples) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let ready = Arc::clone(&pods.ready);
    let first = pods.ready()[0];
    for letter in LETTERS {
        let sample = ask(first, letter, true);
        assert!(sample.is_good(), "{sample:?}");
    }
    thread::scope(|scope| {
        for letter in LETTERS {
            for is_write in [true, false] {
                let (ended, samples, ready) = (&ended, &samples, &*ready);
                scope.spawn(move || {
                    for number in 0.. {
                        if ended.load(Ordering::Relaxed) {
                            return;
                        }
                        let address = {
                            let ready = ready.lock().expect("no holder panics");
                            ready[number % ready.len()]
                        };
                        let sample = ask(address, letter, is_write);
                        samples.lock().expect("no holder panics").push(sample);
                    }
                });
            }
        }
        // Ends the clients even after a panic; otherwise they would run forever.
        let _end = End(&ended);
        meanwhile(pods);
    });
    samples.into_inner().expect("no holder panics")
}

/// The longest wait for each shard's keys.
pub fn worst(samples: &[Sample]) -> BTreeMap<char, Duration> {
    let mut worst = BTreeMap::new();
    for sample in samples {
        let longest = worst.entry(sample.letter).or_insert(Duration::ZERO);
        *longest = sample.waited.max(*longest);
    }
    worst
}

fn ask(address: SocketAddr, letter: char, is_write: bool) -> Sample {
    let path = if is_write {
        format!("/save/{letter}/word")
    } else {
        format!("/load/{letter}")
    };
    let began = Instant::now();
    let answer = Client::new(address).get(&path);
    let (status, said) = match &answer {
        Ok(answer) => (Some(answer.status), answer.text().to_owned()),
        Err(error) => (None, error.to_string()),
    };
    Sample {
        letter,
        is_write,
        began,
        waited: began.elapsed(),
        status,
        said,
    }
}

/// Stops the clients when dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
