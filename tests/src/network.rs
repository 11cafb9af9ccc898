//! A network of a test's own, in which addresses come and go as Pods' do: what is sent to
//! one that is not there, or no longer, is dropped without a word.
//!
//! The test runs itself once more in new namespaces, which an ordinary user can make, too,
//! where the system allows user namespaces. Where it does not, the test fails and says so.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Command;

/// Says to a test that it runs in its own network, and which test it is.
const INSIDE: &str = "OSTRAKON_TEST_NETWORK";

/// All of 10.0.0.0/8 is a cable that nobody is at the other end of, until an address is added.
const SCRIPT: &str = "
set -e
ip link set lo up
ip link add nowhere type veth peer name nobody
ip link set nowhere arp off up
ip link set nobody arp off up
ip route add 10.0.0.0/8 dev nowhere
mount --bind \"$RESOLV_CONF\" /etc/resolv.conf
exec \"$@\"
";

/// What a Pod of namespace `shop` has in its `/etc/resolv.conf`.
const RESOLV_CONF: &str = "nameserver 127.0.0.53
search shop.svc.cluster.local svc.cluster.local cluster.local
options ndots:5
";

/// The domain that the names of a headless Service's Pods are in.
pub const DOMAIN: &str = "server-peers.shop.svc.cluster.local";

/// The network that a test has for itself.
#[derive(Debug)]
pub struct Network(());

/// Runs a test, whose name is given, in a network of its own.
///
/// # Panics
/// When there can be none, or the test panics.
pub fn alone(test: &str, body: impl FnOnce(&Network)) {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == test) {
        body(&Network(()));
        return;
    }
    let mut names = tempfile::NamedTempFile::new().expect("a file");
    names
        .write_all(RESOLV_CONF.as_bytes())
        .expect("it is written");
    let itself = std::env::current_exe().expect("a test has a path");
    let ended = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount"])
        .args(["sh", "-c", SCRIPT, "sh"])
        .arg(itself)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, test)
        .env("RESOLV_CONF", names.path())
        .status()
        .expect("`unshare` of util-linux is needed");
    assert!(
        ended.success(),
        "it failed in a network of its own; that needs `ip` of iproute2, and root or a system where users may make \
         namespaces (sysctl kernel.unprivileged_userns_clone)"
    );
}

impl Network {
    /// From now on what is sent to an address arrives.
    ///
    /// # Panics
    /// When it has it already.
    pub fn add(&self, address: Ipv4Addr) {
        Self::change("add", address);
    }

    /// From now on what is sent to an address, and from it, is dropped.
    ///
    /// # Panics
    /// When it does not have it.
    pub fn remove(&self, address: Ipv4Addr) {
        Self::change("del", address);
    }

    fn change(what: &str, address: Ipv4Addr) {
        let changed = Command::new("ip")
            .args(["address", what, &format!("{address}/32"), "dev", "lo"])
            .status();
        assert!(
            changed.is_ok_and(|changed| changed.success()),
            "ip address {what} {address}"
        );
    }
}
