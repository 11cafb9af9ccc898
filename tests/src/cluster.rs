//! Several shards on one machine that behave like Pods: each has an address of its own, and all
//! have the same ports.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use crate::host::{Files, Host, Shard};

const PUBLIC: u16 = 8080;
const PEERS: u16 = 7070;

/// Shards that know each other, and their hosts.
#[derive(Debug)]
pub struct Cluster {
    /// By ordinal.
    pub hosts: Vec<Host>,
    /// By ordinal. They outlive their hosts.
    pub shards: Vec<Shard>,
}

/// Makes `count` shards in 127.7.`part`.0/24, which no other test may use, without starting
/// them.
pub fn shards(part: u8, count: u8, files: &Files) -> Vec<Shard> {
    (0..count)
        .map(|ordinal| shard(part, ordinal, files))
        .collect()
}

fn shard(part: u8, ordinal: u8, files: &Files) -> Shard {
    let address = |port| SocketAddr::from((Ipv4Addr::new(127, 7, part, ordinal), port));
    let mut shard = Shard::new(files);
    shard.ordinal = ordinal.into();
    shard.listen = address(PUBLIC);
    let peers = format!("127.7.{part}.{{}}:{PEERS}");
    let listen = address(PEERS).to_string();
    let arguments = ["--peers", &peers, "--peer-listen", &listen];
    shard.arguments = arguments.map(str::to_owned).to_vec();
    shard
}

impl Cluster {
    /// Starts `count` shards in 127.7.`part`.0/24, which no other test may use, and waits until
    /// the topology has `among` shards.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn start(part: u8, count: u8, among: u64, files: &Files) -> Self {
        Self::start_each(part, among, &vec![files; count.into()])
    }

    /// As [`Cluster::start`], with a Secret.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn start_with(part: u8, count: u8, among: u64, files: &Files, secret: &Files) -> Self {
        Self::start_all(part, among, &vec![files; count.into()], Some(secret), &[])
    }

    /// As [`Cluster::start`], with a ConfigMap for each shard, as if the shards saw a change at
    /// different times.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn start_each(part: u8, among: u64, files: &[&Files]) -> Self {
        Self::start_all(part, among, files, None, &[])
    }

    /// As [`Cluster::start_each`], with more arguments for each shard.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn start_with_arguments(part: u8, among: u64, files: &[&Files], more: &[&str]) -> Self {
        Self::start_all(part, among, files, None, more)
    }

    fn start_all(
        part: u8,
        among: u64,
        files: &[&Files],
        secret: Option<&Files>,
        more: &[&str],
    ) -> Self {
        let mut shards: Vec<_> = (0..)
            .zip(files)
            .map(|(ordinal, files)| {
                let mut shard = shard(part, ordinal, files);
                let more = more.iter().map(|&argument| argument.to_owned());
                shard.arguments.extend(more);
                shard
            })
            .collect();
        if let Some(secret) = secret {
            for shard in &mut shards {
                shard
                    .secrets
                    .publish(secret)
                    .expect("the files can be published");
            }
        }
        // All at once, because the first shard waits for information from the others.
        let hosts = thread::scope(|scope| {
            let starting: Vec<_> = shards
                .iter()
                .map(|shard| scope.spawn(|| shard.start()))
                .collect();
            let started = starting.into_iter().map(thread::ScopedJoinHandle::join);
            started.map(|host| host.expect("the host starts")).collect()
        });
        let cluster = Self { hosts, shards };
        cluster.wait_for(among);
        cluster
    }

    /// The `public_url` setting of such a cluster.
    pub fn public_url(part: u8) -> String {
        format!("public_url = \"http://127.7.{part}.{{}}:{PUBLIC}\"")
    }

    /// Publishes a ConfigMap to all shards, one after another.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn publish(&mut self, files: &Files) {
        for shard in &mut self.shards {
            shard
                .config
                .publish(files)
                .expect("the files can be published");
        }
    }

    /// Waits until each of the first `count` shards reports that these have all data.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_for(&self, count: u64) {
        for (_, host) in (0..count).zip(&self.hosts) {
            host.wait_for_status("the topology", |status| {
                let topology = &status["topology"];
                topology["shards"] == count && topology["stable"] == true
            });
        }
    }

    /// Waits until each shard runs this generation.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_for_generation(&self, generation: u64) {
        for host in &self.hosts {
            host.wait_for_status("the generation", |status| {
                status["generation"]["generation"] == generation
            });
        }
    }

    /// The public addresses, separated by commas.
    pub fn servers(&self) -> String {
        let addresses = self.hosts.iter().map(|host| host.address.to_string());
        addresses.collect::<Vec<_>>().join(",")
    }
}
