//! The bounds and times of the transport.

use std::time::Duration;

use super::hello::Versions;

/// The bounds and times of one side of the transport.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The longest frame, sent or received, in bytes without its length field.
    pub max_frame: u32,
    /// The most requests in flight on one connection.
    pub max_in_flight: u32,
    /// The most bytes of request bodies in flight on one connection. A longer body waits until it
    /// has the connection to itself.
    pub max_in_flight_bytes: u32,
    /// The most requests that one served connection works on at the same time.
    pub max_running: u32,
    /// The longest time a handshake may take.
    pub handshake_timeout: Duration,
    /// The most connections in a handshake at the same time; one more evicts the oldest.
    pub max_greeting: usize,
    /// How long a connection's requests in flight may continue once the other side's credentials
    /// are no longer sufficient.
    pub revoked_timeout: Duration,
    /// How often the other side is checked for life. While something is owed, each check sends a
    /// ping.
    pub probe_pace: Duration,
    /// How long the other side may be silent while it owes an answer.
    pub probe_limit: Duration,
    /// The pause between two pings while nothing is owed. Use the same value on both sides.
    pub ping_idle: Duration,
    /// How long the other side may be silent after a ping was due, while nothing is owed.
    pub ping_answer: Duration,
    /// How long the other side may take to confirm that this side is going away.
    pub goaway_timeout: Duration,
    /// The longest time to reach a peer, handshake included.
    pub connect_timeout: Duration,
    /// How long each way to a peer gets before the next one is tried, too: the announced address,
    /// the name, the previous addresses.
    pub stagger: Duration,
    /// How often a peer's name is resolved again while an attempt to connect lasts.
    pub look_again: Duration,
    /// The connections a pool keeps to each peer (0 counts as 1).
    pub connections: usize,
    /// The pause after the first failure to connect; it doubles with each further failure.
    pub backoff_first: Duration,
    /// The longest pause between two attempts to connect.
    pub backoff_most: Duration,
    pub versions: Versions,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_frame: 32 << 20,
            max_in_flight: 1024,
            max_in_flight_bytes: 64 << 20,
            max_running: 1024,
            handshake_timeout: Duration::from_secs(5),
            max_greeting: 128,
            revoked_timeout: Duration::from_secs(30),
            probe_pace: Duration::from_millis(500),
            probe_limit: Duration::from_secs(2),
            ping_idle: Duration::from_secs(5),
            ping_answer: Duration::from_secs(10),
            goaway_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            stagger: Duration::from_millis(250),
            look_again: Duration::from_millis(500),
            connections: 1,
            backoff_first: Duration::from_millis(100),
            backoff_most: Duration::from_secs(2),
            versions: Versions::SPOKEN,
        }
    }
}
