//! What a shard is started with.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use ostrakon_cluster as cluster;
use ostrakon_kubernetes as kubernetes;
use ostrakon_otlp as otlp;

/// The command line and environment of `ostrakon serve`, resolved.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    /// The mounted ConfigMap.
    pub config_dir: PathBuf,
    /// The component that serves where the ConfigMap has none.
    pub default_guest: Option<PathBuf>,
    /// Where the data is kept.
    pub data_dir: PathBuf,
    /// The mounted Secret, if there is one.
    pub secrets_dir: Option<PathBuf>,
    /// The public port.
    pub listen: SocketAddr,
    /// Whether the public port speaks nothing but HTTPS, from the start.
    pub https_only: bool,
    /// The admin port.
    pub admin: SocketAddr,
    /// The shard's ordinal.
    pub ordinal: u32,
    /// Its part among others; none where it is alone.
    pub cluster: Option<cluster::Options>,
    /// Where this Pod is in its cluster, if it is in a Pod.
    pub place: Result<kubernetes::PodIdentity, kubernetes::NoIdentity>,
    /// The threads that answer requests.
    pub threads: NonZeroUsize,
    /// The most memory for the store's pages, in bytes.
    pub store_cache_bytes: usize,
    /// Whether the whole data file is looked through before it is opened.
    pub check: bool,
    /// Where spans are exported to, if they are.
    pub otlp: Option<otlp::Options>,
    /// The log filter where the settings have none.
    pub log_filter: String,
}
