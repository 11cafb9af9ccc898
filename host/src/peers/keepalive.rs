//! The watch over whether the other side is alive.

use std::time::Duration;

use tokio::time::Instant;

use super::settings::Settings;

/// The watch over whether the other side is alive: any byte from it counts.
///
/// It pings at a steady pace, also while bytes come: a side that takes long
/// to send a body, or that is not read for a while, hears nothing but pings.
pub(super) struct Keepalive {
    pace: Duration,
    limit: Duration,
    heard: Instant,
    next: Instant,
    number: u64,
}

/// What is due when the deadline of the watch has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping(u64),
    End(Duration),
}

impl Keepalive {
    pub(super) fn new(settings: &Settings) -> Self {
        let now = Instant::now();
        Self {
            pace: settings.ping_idle,
            limit: settings.ping_idle + settings.ping_answer,
            heard: now,
            next: now + settings.ping_idle,
            number: 0,
        }
    }

    /// The time at which to look again.
    pub(super) fn deadline(&self) -> Instant {
        self.next.min(self.heard + self.limit)
    }

    /// What is due now, when bytes last came at the time `heard`.
    pub(super) fn due(&mut self, heard: Instant) -> Due {
        self.heard = self.heard.max(heard);
        let now = Instant::now();
        if now >= self.heard + self.limit {
            Due::End(self.limit)
        } else if now >= self.next {
            self.next = now + self.pace;
            self.number += 1;
            Due::Ping(self.number)
        } else {
            Due::Nothing
        }
    }
}
