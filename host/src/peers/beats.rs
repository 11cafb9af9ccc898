//! The pings and pongs that wait to be written.

use super::frame::Frame;

/// The pings and pongs that wait to be written: the latest of each, so that
/// a peer that pings without end makes no heap of them.
#[derive(Debug, Default)]
pub(super) struct Beats {
    ping: Option<u64>,
    pong: Option<u64>,
}

impl Beats {
    pub(super) fn ping(&mut self, number: u64) {
        self.ping = Some(number);
    }

    pub(super) fn pong(&mut self, number: u64) {
        self.pong = Some(number);
    }

    pub(super) fn take(&mut self) -> Option<Frame> {
        let pong = self.pong.take().map(Frame::Pong);
        pong.or_else(|| self.ping.take().map(Frame::Ping))
    }
}
