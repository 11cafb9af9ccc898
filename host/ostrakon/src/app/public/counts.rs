//! What a load costs, counted. Counts do not depend on the machine or on what else it does, so a
//! bound on them holds everywhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use ostrakon_base::digest::Digest;
use ostrakon_engine::{Compiler, Engine, Environment, Guest, Identity, Limits, Purpose};
use ostrakon_network::http::Server;
use ostrakon_observe::metrics::{Listener, Metrics};
use ostrakon_settings::settings::Settings;
use ostrakon_shard::service::Service;
use ostrakon_shard::writer::{Promotion, Writer};
use ostrakon_store::{Options, Store};
use ostrakon_volumes::secrets::Secrets;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{self, Handle, Runtime};
use tokio::sync::watch;

use super::Public;
use crate::app::credentials::{ClientsPort, Credentials};
use crate::app::performer;
use crate::drain::Drain;
use crate::readiness::Readiness;

/// The allocations of one load, from the socket to the socket. One less if the data file does not
/// have the value yet.
const ALLOCATIONS: u64 = 14;
/// The allocations that do not belong to a load, such as the date's once a second.
const BESIDE: u64 = 200;

const LOADS: u64 = 1000;
const SAVE: &[u8] = b"GET /save/key-0000000000000001/wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww HTTP/1.1\r\nhost: bench\r\n\r\n";
const LOAD: &[u8] = b"GET /load/key-0000000000000001 HTTP/1.1\r\nhost: bench\r\n\r\n";

/// The client is in the same thread, where everything is counted, and allocates nothing.
struct Client {
    stream: TcpStream,
    buffer: [u8; 1024],
}

impl Client {
    /// Sends a request and reads the response, which comes in one piece.
    async fn ask(&mut self, request: &[u8]) -> &[u8] {
        self.stream.write_all(request).await.unwrap();
        let length = self.stream.read(&mut self.buffer).await.unwrap();
        &self.buffer[..length]
    }

    async fn load(&mut self, times: u64) {
        for _ in 0..times {
            let response = self.ask(LOAD).await;
            assert!(response.starts_with(b"HTTP/1.1 200 OK\r\n"));
            assert!(response.ends_with(&[b'w'; 64]));
        }
    }
}

async fn kv(metrics: &Arc<Metrics>) -> Arc<Guest> {
    let guests = std::env::var_os("OSTRAKON_TEST_GUESTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests"),
        PathBuf::from,
    );
    let component = std::fs::read(guests.join("kv.wasm"));
    let component = component.expect("run the tests with `cargo xtask test`");
    let (engine, digest) = (Engine::new().unwrap(), Digest::of(&component));
    let (component, limits) = (component.into(), Limits::of(&Settings::default()));
    let compiler = Compiler::here();
    let compiled = compiler.compile(&engine, None, digest, &component, Purpose::Serve, limits);
    let linked = compiled.await.unwrap().link(&engine).unwrap();
    let environment = Environment {
        settings: Arc::default(),
        identity: Identity {
            ordinal: 0,
            shards: 1,
        },
        files: Arc::new(BTreeMap::new()),
        secrets: Secrets::default(),
        metrics: Arc::clone(metrics),
    };
    let guest = Guest::check(&linked, environment, "kv".to_owned()).await;
    Arc::new(guest.unwrap())
}

/// What is counted. It has a name, by which callgrind finds it.
#[inline(never)]
fn loads(runtime: &Runtime, client: &mut Client) {
    runtime.block_on(client.load(LOADS));
}

#[test]
fn a_load_allocates_so_often() {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (_shutdown, down) = watch::channel(false);
    let mut client = runtime.block_on(async {
        let metrics = Arc::new(Metrics::new("test"));
        let store = Store::open(Options::new(directory.path(), 1 << 20)).unwrap();
        let started = Writer::start(store, None, Handle::current(), Arc::clone(&metrics));
        let (writer, _) = started.unwrap();
        let digest = Digest::of(b"kv");
        let promotion = Promotion {
            guest: kv(&metrics).await,
            digest,
            component: digest,
            release: None,
            held: None,
        };
        writer.promote(promotion).await.unwrap();
        let settings = Arc::new(Settings::default());
        let limits = Arc::new(ArcSwap::from_pointee(performer::limits(&settings, 100)));
        let port = ClientsPort::new(false);
        let clients = Credentials::start(port, &Secrets::default(), &metrics).unwrap();
        let door = clients.port().door();
        let handler = Arc::new(Public {
            service: Service::new(0, writer, Arc::clone(&metrics), None),
            drain: Drain::new(Readiness::default()),
            metrics: Arc::clone(&metrics),
            clients,
            settings: Arc::new(ArcSwap::new(settings)),
        });
        let server = Server::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = server.local_addr();
        let port = (Listener::Public, door);
        tokio::spawn(server.run(handler, limits, metrics, port, down));
        let mut client = Client {
            stream: TcpStream::connect(address).await.unwrap(),
            buffer: [0; 1024],
        };
        client.ask(SAVE).await;
        client.load(100).await;
        client
    });
    let counted = allocation_counter::measure(|| loads(&runtime, &mut client));
    let of_one = counted.count_total / LOADS;
    assert!(
        counted.count_total <= ALLOCATIONS * LOADS + BESIDE,
        "a load allocates {of_one} times, {} bytes: more than {ALLOCATIONS} times",
        counted.bytes_total / LOADS
    );
    assert!(
        of_one + 1 >= ALLOCATIONS,
        "a load allocates only {of_one} times: lower the bound"
    );
}
