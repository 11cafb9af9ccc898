//! The addresses of the set's shards.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The most shards of a set: as many as there are addresses that differ in their last part.
pub const MAX_SHARDS: u32 = 254;

/// A loopback address for each shard, with the same ports on all of them, as Pods have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    first: Ipv4Addr,
    /// The port for clients.
    pub port: u16,
    pub admin_port: u16,
    pub peer_port: u16,
}

impl Addresses {
    /// The addresses from `first` on. Returns `None` unless `first` is a loopback address that
    /// ends in `.1`.
    pub fn new(first: Ipv4Addr, port: u16, admin_port: u16, peer_port: u16) -> Option<Self> {
        let fits = first.is_loopback() && first.octets()[3] == 1;
        fits.then_some(Self {
            first,
            port,
            admin_port,
            peer_port,
        })
    }

    pub fn of(&self, ordinal: u32) -> IpAddr {
        Ipv4Addr::from_bits(self.first.to_bits() + ordinal).into()
    }

    pub fn public(&self, ordinal: u32) -> SocketAddr {
        SocketAddr::new(self.of(ordinal), self.port)
    }

    pub fn admin(&self, ordinal: u32) -> SocketAddr {
        SocketAddr::new(self.of(ordinal), self.admin_port)
    }

    pub fn peer(&self, ordinal: u32) -> SocketAddr {
        SocketAddr::new(self.of(ordinal), self.peer_port)
    }

    /// All peer ports, in the format of `--peers`.
    pub(super) fn peers(&self) -> String {
        let [a, b, c, _] = self.first.octets();
        format!("{a}.{b}.{c}.{{1}}:{}", self.peer_port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_has_the_next_address_and_the_same_ports() {
        let addresses = Addresses::new(Ipv4Addr::new(127, 0, 5, 1), 80, 81, 82).unwrap();
        assert_eq!(addresses.public(0).to_string(), "127.0.5.1:80");
        assert_eq!(addresses.admin(2).to_string(), "127.0.5.3:81");
        assert_eq!(addresses.peer(MAX_SHARDS - 1).to_string(), "127.0.5.254:82");
        assert_eq!(addresses.peers(), "127.0.5.{1}:82");
        for other in ["127.0.0.2", "10.0.0.1", "0.0.0.0"] {
            assert_eq!(Addresses::new(other.parse().unwrap(), 80, 81, 82), None);
        }
    }
}
