//! A Kubernetes API server with the part of the API that a host uses: lists and watches of
//! StatefulSets, and Events. It is as strict as the real one, and can have the same faults.

mod account;
mod events;
mod fault;
mod question;
mod refusal;
mod serve;
mod watching;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use fault::Faults;
pub use question::Question;
pub use world::{Rule, World};

use crate::PATIENCE;
use crate::certificates::Authority;
use crate::net::Net;
use account::Account;

/// The namespace of all its objects.
pub(crate) const NAMESPACE: &str = "shop";
/// The StatefulSet that exists at first.
pub const SET: &str = "shard";

/// A running API server. Dropping it ends it.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    account: Account,
    end: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    _net: Net,
}

/// The state shared by its thread and its owner.
#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    world: Mutex<World>,
    faults: Mutex<Faults>,
    /// Counts the events that watches wait for: changes of the world and of the faults.
    news: watch::Sender<u64>,
    /// Counts how often all connections were cut.
    cuts: watch::Sender<u64>,
    /// Whether the server should listen; `listens` says whether it does.
    is_open: watch::Sender<bool>,
    listens: watch::Sender<bool>,
}

impl ApiServer {
    /// Starts a server with the StatefulSet [`SET`] of this many replicas, and a Role that
    /// allows what a host needs.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start(replicas: i32) -> Self {
        let net = Net::claim();
        let address = SocketAddr::from((net.first(), 6443));
        let authority = Authority::new("kubernetes");
        let account = Account::new(&authority.pem);
        let shared = Arc::new(Shared {
            address,
            world: Mutex::new(World::new(replicas, account.token())),
            faults: Mutex::default(),
            news: watch::Sender::default(),
            cuts: watch::Sender::default(),
            is_open: watch::Sender::new(true),
            listens: watch::Sender::new(true),
        });
        let tls = serve::tls(&authority, address.ip());
        let (end, ended) = watch::channel(false);
        let running = Arc::clone(&shared);
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be created");
            runtime.block_on(async {
                let listener = TcpListener::bind(address).await.expect("a free port");
                ready.send(()).expect("the caller waits for the server");
                serve::run(listener, tls, running, ended).await;
            });
        });
        is_ready.recv().expect("the server starts");
        Self {
            shared,
            account,
            end,
            thread: Some(thread),
            _net: net,
        }
    }

    /// The host's environment variables that lead to this server, as in a Pod.
    pub fn environment(&self) -> Vec<(String, String)> {
        let address = self.shared.address;
        let pairs = [
            ("KUBERNETES_SERVICE_HOST", address.ip().to_string()),
            ("KUBERNETES_SERVICE_PORT", address.port().to_string()),
            (
                "OSTRAKON_SERVICE_ACCOUNT",
                self.account().display().to_string(),
            ),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// The directory in which its ServiceAccount is mounted.
    pub fn account(&self) -> PathBuf {
        self.account.directory()
    }

    /// Changes the world: StatefulSets, rules, versions.
    pub fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let changed = change(&mut self.shared.world());
        self.shared.tell();
        changed
    }

    /// `kubectl scale`.
    pub fn scale(&self, replicas: i32) {
        self.change(|world| world.scale(replicas));
    }

    /// Replaces the token, as Kubernetes does before it expires. The old token is no longer
    /// accepted.
    pub fn rotate_token(&self) {
        let token = self.account.rotate();
        self.shared.world().set_token(token);
    }

    /// Changes the faults from now on.
    pub fn fail(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.faults());
        self.shared.tell();
    }

    /// Cuts all connections abruptly.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Stops listening and cuts all connections, or listens again.
    ///
    /// # Panics
    /// When it cannot listen again.
    pub fn open(&self, is_open: bool) {
        self.shared.is_open.send_replace(is_open);
        self.wait_for("what it is to do", |server| {
            (*server.shared.listens.borrow() == is_open).then_some(())
        });
        if !is_open {
            self.cut();
        }
    }

    /// All posted Events, in their current state.
    pub fn events(&self) -> Vec<Value> {
        self.shared.world().events().cloned().collect()
    }

    /// All requests, refused or not.
    pub fn asked(&self) -> Vec<Question> {
        self.shared.world().asked().to_vec()
    }

    /// Waits until `is_so` returns a value, and returns that.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_for<T>(&self, what: &str, is_so: impl Fn(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(so) = is_so(self) {
                return so;
            }
            assert!(
                Instant::now() < deadline,
                "{what} does not come; asked was {:#?}",
                self.asked()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.end.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no holder panics")
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().expect("no holder panics")
    }

    fn tell(&self) {
        self.news.send_modify(|news| *news += 1);
    }
}
