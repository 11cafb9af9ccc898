//! A test's own network, in which addresses come and go like those of Pods: packets to an
//! address that does not exist are dropped silently.
//!
//! The test runs itself once more in new namespaces, which an ordinary user can create too,
//! where the system allows user namespaces. Elsewhere the test fails and says so.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Command;

/// The variable that tells a test that it runs in its own network, and which test it is.
const INSIDE: &str = "OSTRAKON_TEST_NETWORK";

/// All of 10.0.0.0/8 is routed to a cable with nothing at its other end, until an address is added.
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

/// The `/etc/resolv.conf` of a Pod in the namespace `shop`.
const RESOLV_CONF: &str = "nameserver 127.0.0.53
search shop.svc.cluster.local svc.cluster.local cluster.local
options ndots:5
";

/// The domain of the Pods' names in a headless Service.
pub(crate) const DOMAIN: &str = "server-peers.shop.svc.cluster.local";

#[derive(Debug)]
pub struct Network(());

/// Runs the test with the given name in a network of its own.
///
/// # Panics
/// When the network cannot be created, or the test panics.
pub fn alone(test: &str, body: impl FnOnce(&Network)) {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == test) {
        body(&Network(()));
        return;
    }
    let mut names = tempfile::NamedTempFile::new().expect("the file can be created");
    names
        .write_all(RESOLV_CONF.as_bytes())
        .expect("the file can be written");
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
    /// Adds an address: packets to it arrive from now on.
    ///
    /// # Panics
    /// When the address exists already.
    pub fn add(&self, address: Ipv4Addr) {
        Self::change("add", address);
    }

    /// Removes an address: packets to and from it are dropped from now on.
    ///
    /// # Panics
    /// When the address does not exist.
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
