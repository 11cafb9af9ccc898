//! `[rehearsal]`: what a new generation goes through before it goes live.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::Error;
use super::bounds::{MINUTE, count, time};

/// `[rehearsal]`: a new generation runs on copies of live requests before it goes live.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a table, as in `[rehearsal]`"
)]
pub struct Rehearsal {
    /// How long it rehearses at most. Default 0, for no rehearsal; up to 5 min.
    #[serde(with = "humantime_serde")]
    pub time: Duration,
    /// The number of requests after which it has rehearsed enough. Default 1,000; 1 to 1,000,000.
    pub requests: u64,
    /// The share of live requests that it is tried with. Default 10 %; above 0 and up to 100 %.
    pub share: Share,
    /// What its answers and writes may have that the live generation's do not. Default `anything`.
    pub differ: Differ,
    /// Whether examples of differences show whole paths, and parts of bodies and values. Default
    /// false.
    pub show_data: bool,
}

impl Default for Rehearsal {
    fn default() -> Self {
        Self {
            time: Duration::ZERO,
            requests: 1000,
            share: Share(100_000),
            differ: Differ::default(),
            show_data: false,
        }
    }
}

/// A share, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// All of it.
    pub const ALL: Self = Self(1_000_000);
    pub const PER_MILLE: Self = Self(1000);

    pub fn millionths(self) -> u32 {
        self.0
    }

    /// `None` if it is 0, or more than all.
    pub fn of_millionths(millionths: u32) -> Option<Self> {
        (1..=Self::ALL.0)
            .contains(&millionths)
            .then_some(Self(millionths))
    }
}

/// As settings say it: `10%`.
impl fmt::Display for Share {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}%", f64::from(self.0) / 10_000.0)
    }
}

impl std::str::FromStr for Share {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANTED: &str = "write a share above 0% and up to 100%, such as \"10%\" or \"0.5%\"";
        let number = text.strip_suffix('%').ok_or(WANTED)?;
        let is_plain = |byte: u8| byte.is_ascii_digit() || byte == b'.';
        if !number.bytes().all(is_plain) {
            return Err(WANTED);
        }
        let percent: f64 = number.parse().map_err(|_| WANTED)?;
        let millionths = (percent * 10_000.0).round();
        if !(1.0..=1_000_000.0).contains(&millionths) {
            return Err(WANTED);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is 1 to 1,000,000"
        )]
        Ok(Self(millionths as u32))
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What may differ between the live generation and one that rehearses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(
    from = "Written",
    expecting = "write \"anything\", \"nothing\", or a list of beginnings of paths"
)]
pub enum Differ {
    /// All that is no failure.
    #[default]
    Anything,
    Nothing,
    /// Answers to requests whose paths begin with one of these, and what those write.
    Paths(Vec<String>),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Anything,
    Nothing,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "write \"anything\", \"nothing\", or a list of beginnings of paths"
)]
enum Written {
    Word(Word),
    Paths(Vec<String>),
}

impl From<Written> for Differ {
    fn from(written: Written) -> Self {
        match written {
            Written::Word(Word::Anything) => Self::Anything,
            Written::Word(Word::Nothing) => Self::Nothing,
            Written::Paths(paths) => Self::Paths(paths),
        }
    }
}

impl Differ {
    /// Whether the answer to a request with this path may differ.
    pub fn allows(&self, path: &str) -> bool {
        match self {
            Self::Anything => true,
            Self::Nothing => false,
            Self::Paths(paths) => paths.iter().any(|allowed| path.starts_with(allowed)),
        }
    }
}

impl Rehearsal {
    /// Checks it against its bounds.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn check(&self) -> Result<(), Error> {
        if !self.time.is_zero() {
            time("rehearsal.time", self.time, 5 * MINUTE)?;
        }
        count("rehearsal.requests", self.requests, 1, 1_000_000)?;
        if let Differ::Paths(paths) = &self.differ
            && let Some(path) = paths.iter().find(|path| !path.starts_with('/'))
        {
            return Err(Error::NoPath { path: path.clone() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    fn parsed(text: &str) -> Result<Rehearsal, String> {
        let settings = Settings::parse(&format!("[rehearsal]\n{text}"));
        let rehearsal = settings.map(|settings| settings.rehearsal);
        rehearsal.map_err(|error| error.to_string())
    }

    #[test]
    fn shares_are_percentages() {
        for (text, millionths) in [("100%", 1_000_000), ("10%", 100_000), ("0.0001%", 1)] {
            let share: Share = text.parse().unwrap();
            assert_eq!(
                (share.millionths(), share.to_string()),
                (millionths, text.to_owned())
            );
        }
        for wrong in [
            "0%", "101%", "10", "", "%", "-1%", "1e1%", "NaN%", "0.00001%", "1.2.3%",
        ] {
            assert!(
                wrong.parse::<Share>().unwrap_err().contains("\"10%\""),
                "{wrong}"
            );
        }
    }

    #[test]
    fn what_may_differ_is_a_word_or_paths() {
        let differ = |text: &str| parsed(&format!("differ = {text}")).map(|it| it.differ);
        assert!(differ("'anything'").unwrap().allows("/a"));
        assert!(!differ("'nothing'").unwrap().allows("/a"));
        let paths = differ("['/news', '/a/']").unwrap();
        assert!(paths.allows("/news?x=1") && paths.allows("/a/b") && !paths.allows("/a"));
        let error = differ("'something'").unwrap_err();
        assert!(
            error.contains("write \"anything\", \"nothing\", or a list"),
            "{error}"
        );
        let error = differ("['news']").unwrap_err();
        assert!(error.contains("rehearsal.differ has \"news\"; "), "{error}");
    }

    #[test]
    fn its_bounds_are_told() {
        for (text, told) in [
            ("time = '6m'", "rehearsal.time is 6m; it must be 1ms to 5m"),
            (
                "requests = 0",
                "rehearsal.requests is 0; it must be 1 to 1000000",
            ),
            ("share = 0.1", "expected a string"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
        assert_eq!(parsed("time = '0s'").unwrap(), Rehearsal::default());
    }
}
