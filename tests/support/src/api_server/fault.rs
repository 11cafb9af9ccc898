//! What goes wrong with an API server.

use std::time::Duration;

/// What goes wrong; nothing by default.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Each request is refused with this status.
    pub refuse: Option<u16>,
    /// Requests are read and not answered, and watches say nothing more, though
    /// their connections stay.
    pub is_silent: bool,
    /// What watches say comes so much later.
    pub delay: Duration,
    /// Each watch is cut in the middle of its first line.
    pub breaks_lines: bool,
    /// How often watches that asked for it say that nothing changed; never, where
    /// there is none.
    pub bookmark_every: Option<Duration>,
    /// Watches end in good order after this time, if not before.
    pub watch_at_most: Option<Duration>,
}
