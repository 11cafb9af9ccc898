//! The options that a shard is started with.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use ostrakon_cluster as cluster;
use ostrakon_kubernetes as kubernetes;
use ostrakon_otlp as otlp;

/// The command line and environment of `ostrakon serve`, resolved.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    /// The mounted ConfigMap's directory.
    pub config_dir: PathBuf,
    /// The component that serves where the ConfigMap has none.
    pub default_guest: Option<PathBuf>,
    pub data_dir: PathBuf,
    /// The mounted Secret's directory, if there is one.
    pub secrets_dir: Option<PathBuf>,
    /// The public port's address.
    pub listen: SocketAddr,
    /// Whether the public port must speak HTTPS only, from the start.
    pub https_only: bool,
    pub admin: SocketAddr,
    pub ordinal: u32,
    /// Its part among others; `None` where it is alone.
    pub cluster: Option<cluster::Options>,
    /// This Pod's place in its cluster, if the process is in a Pod.
    pub pod_identity: Result<kubernetes::PodIdentity, kubernetes::NoIdentity>,
    /// The number of threads that answer requests.
    pub threads: NonZeroUsize,
    /// The most memory for the store's pages, in bytes.
    pub store_cache_bytes: usize,
    /// How many of the last requests are kept, to try new generations with them.
    pub keep_requests: usize,
    /// Whether the whole data file is checked before it is opened.
    pub check: bool,
    /// Where spans are exported to, if they are.
    pub otlp: Option<otlp::Options>,
    /// The log filter for settings without one.
    pub log_filter: String,
}
