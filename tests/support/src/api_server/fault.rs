//! Faults of an API server.

use std::time::Duration;

/// The faults; none by default.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Each request is refused with this status.
    pub refuse: Option<u16>,
    /// Requests are read but not answered, and watches send nothing more. Their connections stay
    /// open.
    pub is_silent: bool,
    /// The delay of each line of a watch.
    pub delay: Duration,
    /// Each watch is cut in the middle of its first line.
    pub breaks_lines: bool,
    /// How often watches that asked for bookmarks send one without a change; `None` means
    /// never.
    pub bookmark_every: Option<Duration>,
    /// Watches end regularly after this time at the latest.
    pub watch_at_most: Option<Duration>,
}
