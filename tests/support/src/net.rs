//! Loopback addresses that no other running test has.

use std::net::{Ipv4Addr, TcpListener};

/// Where a claim is made: of 127.x.y.0/24, on 127.x.y.255, which no shard has.
const CLAIM_PORT: u16 = 7069;

/// A /24 of 127.0.0.0/8 for one test: 127.64.0.0 to 127.127.255.0 are given out here, what is below
/// is for tests with addresses of their own. It is claimed by a listener that is held, so that it
/// is free again whatever becomes of the test.
#[derive(Debug)]
pub struct Net {
    first: Ipv4Addr,
    _claim: TcpListener,
}

impl Net {
    /// One that is free.
    ///
    /// # Panics
    /// When none is.
    pub fn claim() -> Self {
        // Begun at another place by each process, so that few are tried.
        let start = std::process::id().wrapping_mul(0x9E37_79B9) >> 18;
        let mut nets = (0..1 << 14).map(|step| (start + step) % (1 << 14));
        let claimed = nets.find_map(|number| {
            let net = Ipv4Addr::new(127, 64, 0, 0).to_bits() + (number << 8);
            let claim = TcpListener::bind((Ipv4Addr::from_bits(net + 255), CLAIM_PORT)).ok()?;
            Some(Self {
                first: Ipv4Addr::from_bits(net + 1),
                _claim: claim,
            })
        });
        claimed.expect("one of 16,384 nets is free")
    }

    /// The first address: 127.x.y.1.
    pub fn first(&self) -> Ipv4Addr {
        self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_net_is_for_one_and_free_again_after() {
        let nets: Vec<_> = (0..3).map(|_| Net::claim()).collect();
        let mut firsts: Vec<_> = nets.iter().map(Net::first).collect();
        for first in &firsts {
            let octets = first.octets();
            assert!(octets[0] == 127 && (64..128).contains(&octets[1]) && octets[3] == 1);
        }
        firsts.dedup();
        assert_eq!(firsts.len(), 3);
        let held = (Ipv4Addr::from_bits(firsts[0].to_bits() + 254), CLAIM_PORT);
        TcpListener::bind(held).unwrap_err();
        drop(nets);
        TcpListener::bind(held).unwrap();
    }
}
