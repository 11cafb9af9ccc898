//! The builds of the host that are compared, each on a shard that holds the keys.

use std::path::PathBuf;

use anyhow::Context as _;
use ostrakon_tests::host::{Host, Shard, config, guest};

use crate::clients::Target;

/// A host, and the shard whose keys it serves.
pub(crate) struct Filled {
    pub(crate) host: Host,
    pub(crate) shard: Shard,
}

impl Filled {
    /// The host that is measured.
    pub(crate) fn this(keys: usize) -> anyhow::Result<Self> {
        Self::start(Shard::new(&config(&guest("kv"), &[])), keys)
    }

    pub(crate) fn target(&self) -> Target {
        Target::http(self.host.address)
    }

    fn start(shard: Shard, keys: usize) -> anyhow::Result<Self> {
        let host = shard.start();
        let filled = Self { host, shard };
        filled.target().fill(keys)?;
        Ok(filled)
    }
}

/// Another build of the host.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Baseline {
    /// Of this commit, with a native handler in place of the guest.
    Native,
    /// Of another commit, with its guest.
    Before,
}

impl Baseline {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Before => "before",
        }
    }

    /// Starts this build and saves the keys, if it was built.
    pub(crate) fn start(self, keys: usize) -> anyhow::Result<Option<Filled>> {
        let (variable, missing) = match self {
            Self::Native => ("OSTRAKON_BENCH_NATIVE", "with a native handler"),
            Self::Before => (
                "OSTRAKON_BENCH_BEFORE",
                "of another commit (--before COMMIT)",
            ),
        };
        let Some(binary) = std::env::var_os(variable).map(PathBuf::from) else {
            println!("\nno host {missing} was built: nothing is compared with it");
            return Ok(None);
        };
        let guest = match self {
            Self::Native => guest("kv"),
            Self::Before => {
                let guest = binary.with_file_name("kv.wasm");
                std::fs::read(&guest).with_context(|| guest.display().to_string())?
            }
        };
        let mut shard = Shard::new(&config(&guest, &[]));
        shard.binary = binary;
        Filled::start(shard, keys).map(Some)
    }
}

/// Prints the metrics whose names contain a word, without the buckets of histograms.
pub(crate) fn print_metrics(host: &Host, word: &str) -> anyhow::Result<()> {
    let metrics = host.admin("GET", "/metrics")?;
    let lines = metrics.text().lines();
    let found: Vec<_> = lines
        .filter(|line| !line.starts_with('#') && !line.contains("_bucket"))
        .filter(|line| line.contains(word))
        .collect();
    if found.is_empty() {
        println!("the host has no metric of {word}s");
    }
    for line in found {
        println!("  {line}");
    }
    Ok(())
}
