//! The bounds and times of the transport.

use std::time::Duration;

use super::hello::Versions;

/// The bounds and times that a side of the transport keeps to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The longest frame sent or taken, in bytes, without its length field.
    pub max_frame: u32,
    /// The most requests in flight on one connection.
    pub max_in_flight: u32,
    /// The most bytes of request bodies in flight on one connection; a single
    /// longer body waits until it has the connection to itself.
    pub max_in_flight_bytes: u32,
    /// The most requests that one served connection works on at a time.
    pub max_running: u32,
    /// The longest time a handshake may take.
    pub handshake_timeout: Duration,
    /// The most connections that may be in their handshake at a time; one more
    /// takes the place of the oldest.
    pub max_greeting: usize,
    /// How long a connection may go on with what is in flight on it once what
    /// the other side has shown does not suffice any more.
    pub revoked_timeout: Duration,
    /// How often it is looked whether the other side is alive; while something is
    /// owed, with a ping.
    pub probe_pace: Duration,
    /// How long the other side may say nothing at all while it owes an answer.
    pub probe_limit: Duration,
    /// The pause between two pings while nothing is owed; give both sides the same.
    pub ping_idle: Duration,
    /// The time that may pass after a ping was due without a byte from the
    /// other side, while nothing is owed.
    pub ping_answer: Duration,
    /// The time within which the other side must confirm that we go away.
    pub goaway_timeout: Duration,
    /// The longest time to reach a peer, handshake included.
    pub connect_timeout: Duration,
    /// How long the next way to a peer waits for the one before: where it said that
    /// it is, its name, where it was.
    pub stagger: Duration,
    /// How often a peer's name is asked for again while connecting takes its time.
    pub look_again: Duration,
    /// The connections a pool keeps to each peer (0 counts as 1).
    pub connections: usize,
    /// The pause after a first failure to connect; it doubles with each more.
    pub backoff_first: Duration,
    /// The longest pause between two attempts to connect.
    pub backoff_most: Duration,
    /// The protocol versions spoken.
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
