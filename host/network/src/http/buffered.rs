//! Memory that HTTP holds below a connection's requests: incomplete heads, and buffers that are
//! kept. Each connection has a free allowance, which the limit on connections accounts for; memory
//! above it is counted in the sum of heads.

use super::Limits;
use super::connection::MAX_STREAMS;
use super::frames::Frames;
use super::heads::{bound, most_in_parts};
use super::sums::Held;
use super::wire::Activity;

/// The size up to which a connection's read buffer is not counted.
const FREE: usize = 16 * 1024;
/// The most buffer memory that an h2 client's header table can keep alive. A table of 4 KiB has
/// room for 107 of the shortest URIs, and each may be the last of a frame with its head, and of
/// the buffer that it shares with the next one.
const KEPT_BY_TABLE: usize = 107 * (16 + 8) * 1024;
/// Bytes that an h2 client may send before its kept memory is counted.
const FREE_HTTP2: usize = 64 * 1024;
/// Concurrent requests of an h2 client that are not counted, and the memory that h2's tables keep
/// for each further one until the connection ends.
const FREE_STREAMS: usize = 8;
const KEPT_BY_STREAM: usize = 2560;

/// A connection's share of the sum of heads.
#[derive(Debug)]
pub(super) struct Buffered {
    held: Held,
    limits: Limits,
    /// Set if the connection uses h2.
    frames: Option<Frames>,
    received: usize,
    /// The largest number of requests that can have been open at once.
    streams: usize,
}

impl Buffered {
    pub(super) fn new(held: Held, limits: Limits, http2: bool) -> Self {
        Self {
            held,
            limits,
            frames: http2.then(Frames::new),
            received: 0,
            streams: 0,
        }
    }

    /// Counts bytes that the client has sent. Returns whether there is room for the memory that
    /// they make HTTP hold.
    pub(super) fn receive(&mut self, bytes: &[u8], activity: &Activity) -> bool {
        let bound = bound(self.limits.max_heads_bytes);
        let Some(frames) = &mut self.frames else {
            let most = self.limits.max_header_bytes + FREE;
            let held = activity.received(bytes).min(most);
            // The buffer doubles as it grows, and lives as long as the connection.
            return held <= FREE || self.held.grow(2 * held, bound);
        };
        frames.follow(bytes);
        activity.in_block(frames.in_block());
        let in_parts = if frames.goes_on() {
            most_in_parts(self.limits.max_header_bytes)
        } else {
            0
        };
        let kept = if frames.has_table() {
            self.received = (self.received + bytes.len()).min(KEPT_BY_TABLE);
            self.received.saturating_sub(FREE_HTTP2)
        } else {
            0
        };
        let streams = (activity.in_flight() + frames.take_begun()).min(MAX_STREAMS as usize);
        self.streams = self.streams.max(streams);
        let beyond = self.streams.saturating_sub(FREE_STREAMS);
        if beyond > 0 {
            activity.has_grown();
        }
        let wanted = in_parts + kept + beyond * KEPT_BY_STREAM;
        if wanted < self.held.bytes() {
            self.held.release();
        }
        self.held.grow(wanted, bound)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sums::Sums;
    use super::*;

    /// Regression: the framing of chunked bodies was counted as part of a head for as long as the
    /// connection lived.
    #[test]
    fn the_framing_of_a_body_does_not_count_as_a_head() {
        let activity = Activity::new();
        let limits = Limits::default();
        let mut buffered = Buffered::new(Sums::default().connect().share(), limits, false);
        activity.spoke();
        assert!(buffered.receive(&[b'x'; 200], &activity));
        for _ in 0..3 {
            assert!(buffered.receive(&[b'x'; 12_000], &activity));
            let request = activity.request(12_000);
            let mut reading = activity.reading();
            for _ in 0..100 {
                assert!(buffered.receive(&[b'1'; 6000], &activity));
            }
            assert!(buffered.receive(b"0\r\n\r\n", &activity));
            reading.is_read(100_000);
            drop((reading, request));
            assert_eq!(buffered.held.bytes(), 0);
        }
        // A head is counted regardless of what preceded it.
        for _ in 0..3 {
            assert!(buffered.receive(&[b'x'; 6000], &activity));
        }
        assert!(buffered.held.bytes() > FREE);
    }

    /// Regression: the part of a head that arrived behind another request was not counted, neither
    /// before nor after that request was answered.
    #[test]
    fn a_head_behind_another_request_counts_from_its_first_byte() {
        const HEAD: usize = 200;
        const BODY: usize = 5000;
        for body in [0, BODY] {
            let activity = Activity::new();
            let limits = Limits::default();
            let mut buffered = Buffered::new(Sums::default().connect().share(), limits, false);
            activity.spoke();
            // Requests that arrive one by one leave nothing counted, however many there are.
            let mut request = |behind: usize| {
                let first = vec![b'x'; HEAD + body / 2];
                assert!(buffered.receive(&first, &activity));
                let request = activity.request(HEAD);
                let mut reading = activity.reading();
                let rest = vec![b'x'; body - body / 2 + behind];
                assert!(buffered.receive(&rest, &activity));
                reading.is_read(body);
                drop((reading, request));
                buffered.held.bytes()
            };
            for _ in 0..100 {
                assert_eq!(request(0), 0, "a body of {body}");
            }
            // Part of a head behind a request, as much as one read takes, and then the rest of the
            // head.
            assert_eq!(request(10_000), 0, "a body of {body}");
            assert!(buffered.receive(&[b'x'; 10_000], &activity));
            assert_eq!(buffered.held.bytes(), 2 * 20_000, "a body of {body}");
        }
    }
}
