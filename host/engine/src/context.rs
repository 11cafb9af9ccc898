//! The state of an instance: its current call, and the data and settings that the call may use.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chacha20::ChaCha20Rng;
use ostrakon_contract::contract::{Origin, Request};
use ostrakon_observe::metrics::{Export, Label, Metrics};
use ostrakon_settings::settings::Settings;
use ostrakon_store::{Migration, Snapshot, Transaction};
use ostrakon_volumes::secrets::Secrets;
use wasmtime::component::{HasData, ResourceTable};
use wasmtime::{ResourceLimiter, bail};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::copies::Copies;
use super::grace::Time;
use super::log::{GuestLog, Lines};
use super::stdio::LogStream;

/// The limit on handles of the host's (secrets, streams, pollables) that an instance may hold,
/// and may wait for in one call.
pub(super) const MAX_HANDLES: usize = 1024;

/// The limit on random bytes in one call, as in a browser.
pub(super) const MAX_RANDOM: u32 = 64 << 10;

/// Which shard this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its ordinal, from 0.
    pub ordinal: u32,
    /// The number of shards at the time of the lease: each lease of an instance has its own.
    pub shards: u32,
}

/// The state that all instances of a guest share.
pub struct Environment {
    /// The runtime's settings, with the limits on instances.
    pub settings: Arc<Settings>,
    /// The shard that the instances answer for.
    pub identity: Identity,
    /// The guest's settings: the ConfigMap's keys that are not the host's.
    pub files: Arc<BTreeMap<String, Bytes>>,
    pub secrets: Secrets,
    pub metrics: Arc<Metrics>,
}

/// The data that a call can use.
#[derive(Debug, Default)]
pub(super) enum Data {
    /// No data: pure exports.
    #[default]
    None,
    /// A `read` of one partition.
    Partition(Read, Arc<Snapshot>),
    /// A `write` to one partition, in the writer.
    Transaction(Box<Transaction>),
    /// A `here` or `everywhere` request.
    Shard(Arc<Snapshot>),
    Migration(Box<Migration>),
    /// For `gather`, by the shards' ordinals: what gave their parts, and whether that is this
    /// generation.
    Parts(BTreeMap<u32, (Origin, bool)>),
}

/// The partition of a `read`.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) partition: Vec<u8>,
    /// Whether another shard has it: then nothing is found here.
    pub(super) is_elsewhere: bool,
}

impl Read {
    /// The key under which its entries are stored.
    pub(super) fn stored(&self) -> &[u8] {
        // No partition has an empty key.
        if self.is_elsewhere {
            &[]
        } else {
            &self.partition
        }
    }
}

pub(super) struct Call {
    /// None during instantiation.
    pub(super) export: Option<Export>,
    pub(super) request: Option<Arc<Request>>,
    /// The number of shards that the call is answered among.
    pub(super) shards: u32,
    pub(super) data: Data,
    pub(super) copies: Copies,
    pub(super) time: Time,
    /// The time that the guest was told, in nanoseconds since 1970.
    pub(super) now: Option<u64>,
    /// The random bytes that the guest has not been given yet. Boxed: few guests ask for them.
    pub(super) random: Option<Box<ChaCha20Rng>>,
}

impl Call {
    pub(super) fn none(shards: u32) -> Self {
        Self {
            export: None,
            request: None,
            shards,
            data: Data::None,
            copies: Copies::ANY,
            time: Time::default(),
            now: None,
            random: None,
        }
    }
}

/// The data of an instance's wasmtime store.
pub(super) struct Context {
    pub(super) environment: Arc<Environment>,
    pub(super) lines: Lines,
    pub(super) call: Call,
    /// The last call of `route` asked for a reply before the write is durable.
    pub(super) relaxed: bool,
    pub(super) limiter: Limiter,
    pub(super) table: ResourceTable,
    wasi: WasiCtx,
}

impl Context {
    pub(super) fn new(environment: Arc<Environment>, log: Arc<GuestLog>) -> Self {
        // The guest inherits nothing: no arguments, environment, files or network.
        let lines = Lines::new(log);
        let wasi = WasiCtx::builder()
            .stdout(LogStream::new(lines.clone(), tracing::Level::INFO))
            .stderr(LogStream::new(lines.clone(), tracing::Level::WARN))
            .max_random_size(MAX_RANDOM.into())
            .build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        let limiter = Limiter {
            max: environment.settings.guest.max_memory,
            used: 0,
            denied: false,
        };
        let call = Call::none(environment.identity.shards);
        Self {
            environment,
            lines,
            call,
            relaxed: false,
            limiter,
            table,
            wasi,
        }
    }

    /// The current request, if the call concerns one.
    pub(super) fn request(&self, import: &str) -> wasmtime::Result<&Arc<Request>> {
        match &self.call.request {
            Some(request) => Ok(request),
            None => self.misused(import),
        }
    }

    /// Whether the call may see secrets. It may not if its result must be the same always and
    /// everywhere.
    pub(super) fn may_see_secrets(&self) -> bool {
        matches!(
            self.call.export,
            Some(Export::Check | Export::Handle | Export::Gather | Export::Migrate)
        )
    }

    /// Ends the call: the import is not available in this export or for this target.
    pub(super) fn misused<T>(&self, import: &str) -> wasmtime::Result<T> {
        let export = self
            .call
            .export
            .map_or("start", |export| Export::VALUES[export.index()]);
        let target = match &self.call.data {
            Data::None | Data::Migration(_) | Data::Parts(_) => "",
            Data::Partition(..) | Data::Transaction(_) => " of a `partition` request",
            Data::Shard(_) => " of a `here` or `everywhere` request",
        };
        bail!("`{import}` was called in `{export}`{target}, where it is not offered")
    }
}

impl WasiView for Context {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

/// Gives the bindings access to the imports' state.
pub(super) struct HasContext;

impl HasData for HasContext {
    type Data<'a> = &'a mut Context;
}

/// Limits the total size of an instance's memories and tables.
pub(super) struct Limiter {
    max: usize,
    /// The current size of the memories and tables, in bytes.
    pub(super) used: usize,
    /// Whether growth was denied since the call began.
    pub(super) denied: bool,
}

impl Limiter {
    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        if used > self.max {
            self.denied = true;
            return false;
        }
        self.used = used;
        true
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        const ELEMENT: usize = size_of::<usize>();
        Ok(self.grow(
            current.saturating_mul(ELEMENT),
            desired.saturating_mul(ELEMENT),
        ))
    }

    fn instances(&self) -> usize {
        100
    }

    fn memories(&self) -> usize {
        16
    }

    fn tables(&self) -> usize {
        100
    }
}

#[cfg(test)]
mod tests {
    use wasmtime_wasi::cli::WasiCliView as _;
    use wasmtime_wasi::filesystem::WasiFilesystemView as _;
    use wasmtime_wasi::p2::bindings::cli::environment::Host as _;
    use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;
    use wasmtime_wasi::p2::bindings::sockets::network::IpAddressFamily;
    use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket::Host as _;
    use wasmtime_wasi::p2::bindings::sockets::udp_create_socket::Host as _;
    use wasmtime_wasi::sockets::WasiSocketsView as _;

    use super::*;

    /// Every WASI interface that a guest can import exists, and gives access to nothing.
    #[tokio::test]
    async fn wasi_gives_no_file_no_environment_and_no_socket() {
        let metrics = Arc::new(Metrics::new("test"));
        let environment = Environment {
            settings: Arc::default(),
            identity: Identity {
                ordinal: 0,
                shards: 1,
            },
            files: Arc::default(),
            secrets: Secrets::default(),
            metrics: Arc::clone(&metrics),
        };
        let log = Arc::new(GuestLog::new("test".to_owned(), 1, metrics));
        let mut context = Context::new(Arc::new(environment), log);
        assert!(std::env::vars().next().is_some(), "the host has one");
        assert_eq!(context.cli().get_environment().unwrap(), []);
        assert_eq!(context.cli().get_arguments().unwrap(), [""; 0]);
        assert_eq!(context.cli().initial_cwd().unwrap(), None);
        assert!(context.filesystem().get_directories().unwrap().is_empty());
        for family in [IpAddressFamily::Ipv4, IpAddressFamily::Ipv6] {
            let mut sockets = context.sockets();
            sockets.create_tcp_socket(family).unwrap_err();
            sockets.create_udp_socket(family).await.unwrap_err();
        }
    }
}
