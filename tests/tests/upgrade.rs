//! Hosts of different versions serve together while Pods are replaced: upgrades and downgrades, in
//! each order, and while the number of shards changes.
//!
//! The other version is this one behind relays that make it look like a later one to its peers.
//! `cargo xtask upgrade` runs the same test with the host of another commit.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use ostrakon_test_support::random::{Random, seed};
use ostrakon_tests::host::{binary, config, guest};
use ostrakon_tests::relay::Relays;
use ostrakon_tests::service;
use ostrakon_tests::set::StatefulSet;
use tempfile::TempDir;

/// The largest number of shards.
const SHARDS: u32 = 5;
/// The port of the relays, next to the peers' port.
const RELAY_PORT: u16 = 7071;

/// Starts the host of one version or the other, depending on whether the file with its Pod's name
/// exists.
const CHOOSE: &str = r#"#!/bin/sh
set -eu
here=$(dirname "$0")
if [ -e "$here/$POD_NAME" ]; then
    count=$#
    while [ "$count" -gt 0 ]; do
        argument=$1
        shift
        case $argument in
        *"{1}:7070") set -- "$@" "${argument%:7070}:PORT" ;;
        *) set -- "$@" "$argument" ;;
        esac
        count=$((count - 1))
    done
    exec "OTHER" "$@"
fi
exec "THIS" "$@"
"#;

/// Which shards run the other version.
struct Versions {
    directory: TempDir,
}

impl Versions {
    fn new(other: &Path, port: u16) -> Self {
        let versions = Self {
            directory: tempfile::tempdir().expect("a directory can be created"),
        };
        let script = CHOOSE
            .replace("OTHER", &other.display().to_string())
            .replace("THIS", &binary().display().to_string())
            .replace("PORT", &port.to_string());
        let path = versions.script();
        fs::write(&path, script).expect("the file can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        versions
    }

    fn script(&self) -> PathBuf {
        self.directory.path().join("ostrakon")
    }

    /// From their next start on, exactly these shards run the other version.
    fn set(&self, others: &[u32]) {
        for shard in 0..SHARDS {
            let mark = self.directory.path().join(format!("shard-{shard}"));
            if others.contains(&shard) {
                fs::write(&mark, "").expect("the file can be written");
            } else if mark.exists() {
                fs::remove_file(&mark).expect("it is ours");
            }
        }
    }
}

#[test]
fn shards_of_two_versions_serve_together_and_reshard_on_the_way_there_and_back() {
    let seed = seed();
    println!("OSTRAKON_TEST_SEED={seed}");
    let settings = [
        ("ostrakon.toml", "[drain]\nserve_for = \"1s\""),
        ("sharding", "jump"),
    ];
    let mut set = StatefulSet::new(&config(&guest("kv"), &settings), 3);
    let addresses = set.options.addresses;
    let other = std::env::var_os("OSTRAKON_TEST_OTHER_HOST");
    let relays = other.is_none().then(|| {
        let relays = (0..SHARDS).map(|shard| {
            let peer = addresses.peer(shard);
            ((peer.ip(), RELAY_PORT).into(), peer)
        });
        Relays::start(&relays.collect::<Vec<_>>())
    });
    let versions = match &other {
        Some(other) => Versions::new(Path::new(other), addresses.peer_port),
        None => Versions::new(&binary(), RELAY_PORT),
    };
    set.options.binary = versions.script();
    set.start();
    // In the order of a StatefulSet, the last first, and in the opposite order.
    let steps: [&[u32]; 6] = [
        &[2, 3, 4],
        &[1, 2, 3, 4],
        &[0, 1, 2, 3, 4],
        &[0],
        &[0, 1],
        &[],
    ];
    let load = service::under_load(&set, SHARDS, Random::new(seed), || {
        for others in steps {
            versions.set(others);
            set.restart();
            set.scale(SHARDS);
            set.scale(3);
        }
    });
    let keys = load.check(&mut set.client(0));
    println!(
        "{} requests over {} restarts of all shards in {} mixtures of two versions, and as many \
         changes from 3 shards to {SHARDS} and back: 0 failed, the longest took {} ms; {keys} keys, \
         each found",
        load.requests,
        steps.len(),
        steps.len(),
        load.worst
    );
    set.stop();
    if let Some(relays) = relays {
        let counts = relays.counts();
        let [connections, messages, frames, not_understood, otherwise] = [
            &counts.connections,
            &counts.messages,
            &counts.frames,
            &counts.not_understood,
            &counts.otherwise,
        ]
        .map(|count| count.load(Ordering::Relaxed));
        println!(
            "{connections} connections, {messages} messages with more fields, {frames} frames and \
             {not_understood} requests of no known kind"
        );
        assert_eq!(otherwise, 0);
        assert!(connections > 10 && messages > 1000 && frames > 100 && not_understood > 50);
    }
}
