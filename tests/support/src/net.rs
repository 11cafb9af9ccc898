//! Loopback networks that no other running test uses.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// The port of a claim: 127.x.y.0/24 is claimed at 127.x.y.255, which no shard uses.
const CLAIM_PORT: u16 = 7069;

/// A /24 of 127.0.0.0/8 for one test. Networks from 127.64.0.0 to 127.127.255.0 are assigned here;
/// lower ones are for tests with fixed addresses. A listener holds the claim, so the network is
/// free again however the test ends.
#[derive(Debug)]
pub struct Net {
    first: Ipv4Addr,
    _claim: TcpListener,
}

impl Net {
    /// Claims a free network.
    ///
    /// # Panics
    /// When none is free.
    pub fn claim() -> Self {
        // Each process starts the search at another network, so that it tries few. Each claim goes
        // on where the last one ended: the last user's processes may take a moment to end.
        static CLAIMS: AtomicU32 = AtomicU32::new(0);
        let start = std::process::id().wrapping_mul(0x9E37_79B9) >> 18;
        let mut nets = (0..1 << 14).map(|_| {
            let step = CLAIMS.fetch_add(1, Ordering::Relaxed);
            start.wrapping_add(step) % (1 << 14)
        });
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
        let next = Net::claim().first();
        assert!(!firsts.contains(&next), "{next} was used a moment ago");
    }
}
