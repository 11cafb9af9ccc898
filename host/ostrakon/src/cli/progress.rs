//! The progress of a change, for people.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;

/// The marks in a full bar.
const BAR: u64 = 24;

/// A change in a shard's status: `topology.progress`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Progress {
    pub(super) moving: bool,
    pub(super) sources: Vec<Source>,
}

/// The state of a source, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Source {
    pub(super) shard: u32,
    away: bool,
    heard_seconds_ago: Option<f64>,
    left: Option<u64>,
    moved: Option<u64>,
    stayed: u64,
    rate: Option<f64>,
    seconds_left: Option<f64>,
    resumed: bool,
    held_up_by: Vec<u32>,
}

impl Progress {
    /// `None` where there is no change to show.
    pub(super) fn of(progress: &Value) -> Option<Self> {
        serde_json::from_value(progress.clone()).ok()
    }

    /// One line for each source.
    pub(super) fn shown(&self) -> String {
        let shard = |source: &Source| source.shard.to_string().len();
        let width = self.sources.iter().map(shard).max().unwrap_or(1);
        self.sources.iter().fold(String::new(), |mut text, source| {
            let (shard, bar, words) = (source.shard, source.bar(), source.words());
            writeln!(text, "shard {shard:<width$} {bar} {words}")
                .expect("writing to a string cannot fail");
            text
        })
    }
}

impl Source {
    /// The number of settled partitions, and of all partitions; `None` where they are not
    /// known.
    fn done(&self) -> Option<(u64, u64)> {
        let done = self.moved?.saturating_add(self.stayed);
        Some((done, done.saturating_add(self.left?)))
    }

    fn bar(&self) -> String {
        let drawn = |marks| -> String {
            let mark = |at| if at < marks { '#' } else { '.' };
            (0..BAR).map(mark).collect()
        };
        let Some((done, all)) = self.done() else {
            return format!("[{}]    ? %", drawn(0));
        };
        // A full bar and 100 % only when all is done.
        let of = |whole: u64| done.saturating_mul(whole).checked_div(all).unwrap_or(whole);
        format!("[{}] {:>3} %", drawn(of(BAR)), of(100))
    }

    /// The partitions moved and left, in words.
    pub(super) fn words(&self) -> String {
        let Some(moved) = self.moved else {
            let what = if self.away { "away" } else { "not begun" };
            return format!("{what}: it has reported nothing yet");
        };
        let mut words = match self.left {
            Some(left) => format!("{} left", grouped(left)),
            None => "counting what is left".to_owned(),
        };
        let _ = write!(words, ", {} moved", grouped(moved));
        if self.resumed {
            words.push_str(" since its restart");
        }
        if self.away {
            let ago = self.heard_seconds_ago.unwrap_or(0.0);
            return format!("away; {} ago {words}", time(ago));
        }
        if self.left == Some(0) {
            return words;
        }
        if let Some(rate) = self.rate {
            let _ = write!(words, ", {rate:.0}/s");
        }
        match self.seconds_left {
            Some(seconds) => {
                let _ = write!(words, ", about {}", time(seconds));
            }
            None if self.rate == Some(0.0) => words.push_str(", standing still"),
            None => {}
        }
        if !self.held_up_by.is_empty() {
            let shards: Vec<_> = self.held_up_by.iter().map(u32::to_string).collect();
            let plural = if shards.len() > 1 { "s" } else { "" };
            let _ = write!(words, ", held up by shard{plural} {}", shards.join(" and "));
        }
        words
    }
}

/// A number with a comma before every three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A time in seconds with as many digits as a person reads.
fn time(seconds: f64) -> String {
    if seconds < 100.0 {
        return format!("{:.0} s", seconds.ceil());
    }
    let minutes = seconds / 60.0;
    if minutes < 100.0 {
        return format!("{:.0} min", minutes.ceil());
    }
    format!("{:.0} h", (minutes / 60.0).ceil())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(source: &Value, expected: &str) {
        let progress = json!({ "epoch": 4, "moving": true, "sources": [source] });
        let progress = Progress::of(&progress).expect("the value is a progress");
        assert_eq!(progress.shown(), format!("shard {expected}\n"));
    }

    #[test]
    fn a_source_is_a_bar_and_what_it_has_done_and_has_to_do() {
        check(
            &json!({
                "shard": 0, "away": false, "heard_seconds_ago": 0.0, "epoch": 4, "left": 7500,
                "moved": 1500, "stayed": 1000, "rate": 1249.6, "seconds_left": 6.002,
                "resumed": false,
            }),
            "0 [######..................]  25 % 7,500 left, 1,500 moved, 1250/s, about 7 s",
        );
        check(
            &json!({ "shard": 12, "left": 1, "moved": 999, "stayed": 0, "rate": 0.0 }),
            "12 [#######################.]  99 % 1 left, 999 moved, 0/s, standing still",
        );
        check(
            &json!({ "shard": 0, "left": 1, "moved": 999, "rate": 0.0, "held_up_by": [3, 4] }),
            "0 [#######################.]  99 % 1 left, 999 moved, 0/s, standing still, held up by shards 3 and 4",
        );
        check(
            &json!({ "shard": 1, "left": 0, "moved": 0, "stayed": 0, "seconds_left": 0.0 }),
            "1 [########################] 100 % 0 left, 0 moved",
        );
    }

    #[test]
    fn what_is_not_known_is_said() {
        check(
            &json!({ "shard": 1, "away": true }),
            "1 [........................]    ? % away: it has reported nothing yet",
        );
        check(
            &json!({ "shard": 1, "away": false }),
            "1 [........................]    ? % not begun: it has reported nothing yet",
        );
        check(
            &json!({ "shard": 1, "left": null, "moved": 5, "resumed": true, "rate": 10.0 }),
            "1 [........................]    ? % counting what is left, 5 moved since its restart, 10/s",
        );
        check(
            &json!({
                "shard": 1, "away": true, "heard_seconds_ago": 11.2, "left": 5, "moved": 5,
                "rate": 9.0, "seconds_left": 1.0,
            }),
            "1 [############............]  50 % away; 12 s ago 5 left, 5 moved",
        );
    }

    #[test]
    fn numbers_and_times_are_as_people_read_them() {
        let numbers = [0, 999, 1000, 1_234_567].map(grouped);
        assert_eq!(numbers, ["0", "999", "1,000", "1,234,567"]);
        let times = [0.0, 0.4, 99.0, 101.0, 6001.0].map(time);
        assert_eq!(times, ["0 s", "1 s", "99 s", "2 min", "2 h"]);
    }
}
