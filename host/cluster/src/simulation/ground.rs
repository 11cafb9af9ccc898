//! The parts that all seeds share: the guest, compiled once, in all its settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ostrakon_base::digest::Digest;
use ostrakon_engine::{Cache, Compiler, Engine, Environment, Guest, Identity, Limits, Purpose};
use ostrakon_observe::metrics::Metrics;
use ostrakon_protocol::{Placement, Release};
use ostrakon_settings::settings::Settings;
use ostrakon_shard::swap::Candidate;
use ostrakon_shard::writer::Promotion;
use ostrakon_volumes::secrets::Secrets;
use ostrakon_volumes::volume::Files;
use tempfile::TempDir;

use super::super::Way;

/// The most shards of a generation.
pub(super) const MAX_SHARDS: u32 = 5;

/// The guest's ways to place keys.
const SHARDINGS: [&str; 2] = ["modulo", "jump"];

/// Real time must not decide anything in a simulation.
const TIMES: &str = "
[guest]
read_budget = '5m'
read_deadline = '5m'
write_deadline = '5m'
check_deadline = '5m'
[writer]
max_wait = '1h'
[cluster]
max_wait = '4s'
";

/// The parts that all seeds share.
pub(super) struct Ground {
    pub(super) engine: Engine,
    pub(super) cache: Cache,
    pub(super) compiler: Compiler,
    generations: Generations,
    directory: TempDir,
}

/// The guest in all its settings.
#[derive(Clone)]
pub(super) struct Generations(Arc<Vec<Generation>>);

/// The guest with certain settings.
pub(super) struct Generation {
    pub(super) files: Files,
    guest: Arc<Guest>,
    component: Digest,
}

impl Ground {
    pub(super) fn new() -> Self {
        let component = Bytes::from(component());
        let directory = directory();
        let cache = Cache::open(directory.path()).expect("a directory can be created");
        let engine = Engine::new().expect("guests run on this machine");
        let digest = Digest::of(&component);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime can be created");
        let compiler = Compiler::here();
        let limits = Limits::of(&Settings::default());
        let compiling = compiler.compile(&engine, None, digest, &component, Purpose::Serve, limits);
        let compiled = runtime.block_on(compiling).expect("the guest compiles");
        compiled.keep(&engine, &cache);
        let linked = compiled.link(&engine).expect("the guest links");
        let made = |sharding: &str, shards: u32| {
            let settings = format!("{TIMES}shards = {shards}\n");
            let files = Files::new(BTreeMap::from([
                ("guest.wasm".to_owned(), component.clone()),
                ("ostrakon.toml".to_owned(), settings.into()),
                ("sharding".to_owned(), sharding.to_owned().into()),
            ]));
            let candidate =
                Candidate::new(&files).expect("the guest and its settings are well-formed");
            let environment = Environment {
                settings: candidate.settings,
                identity: Identity { ordinal: 0, shards },
                files: candidate.files,
                secrets: Secrets::default(),
                metrics: Arc::new(Metrics::new("simulation")),
            };
            let guest = Guest::check(&linked, environment, candidate.digest.short());
            let guest = runtime.block_on(guest).expect("the guest can serve");
            Generation {
                files,
                guest: Arc::new(guest),
                component: candidate.component_digest,
            }
        };
        let generations = SHARDINGS
            .iter()
            .flat_map(|sharding| (1..=MAX_SHARDS).map(|shards| made(sharding, shards)))
            .collect();
        let generations = Generations(Arc::new(generations));
        Self {
            engine,
            cache,
            compiler,
            generations,
            directory,
        }
    }

    /// The generation with this number of shards and this way to place.
    pub(super) fn generation(&self, shards: u32, sharding: usize) -> &Generation {
        &self.generations.0[sharding * MAX_SHARDS as usize + shards as usize - 1]
    }

    pub(super) fn generations(&self) -> &Generations {
        &self.generations
    }

    pub(super) fn directory(&self) -> TempDir {
        TempDir::new_in(self.directory.path()).expect("a directory can be created")
    }
}

impl Generations {
    /// The generation with a digest.
    pub(super) fn of_digest(&self, digest: Digest) -> Option<&Generation> {
        let mut generations = self.0.iter();
        generations.find(|generation| generation.files.digest() == digest)
    }
}

impl Generation {
    pub(super) fn promotion(&self, release: Option<Release>) -> Promotion {
        Promotion {
            release,
            held: None,
            guest: Arc::clone(&self.guest),
            digest: self.files.digest(),
            component: self.component,
        }
    }

    /// How it goes live, by these shares of the partitions before all of them.
    pub(super) fn way(&self, steps: Vec<u32>) -> Way {
        Way {
            wait: None,
            barrier: None,
            steps,
            guest: Some(Arc::clone(&self.guest)),
        }
    }

    pub(super) fn placement(&self) -> Placement {
        Placement {
            shards: self.guest.settings().cluster.shards,
            owner: self.files.digest(),
            sharding: self.guest.description().sharding,
        }
    }

    /// The shard that a key belongs to.
    pub(super) fn owner(&self, key: &[u8]) -> u32 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime can be created");
        let owner = self.guest.owner(key, self.placement().shards);
        runtime.block_on(owner).expect("`owner` returns a shard")
    }
}

/// A directory in memory where the system has such a place: lasting data is kept elsewhere.
fn directory() -> TempDir {
    let in_memory = TempDir::new_in("/dev/shm");
    in_memory
        .or_else(|_| TempDir::new())
        .expect("a directory can be created")
}

fn component() -> Vec<u8> {
    let directory = std::env::var_os("OSTRAKON_TEST_GUESTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests"),
        PathBuf::from,
    );
    std::fs::read(directory.join("kv.wasm")).expect("run the tests with `cargo xtask test`")
}
