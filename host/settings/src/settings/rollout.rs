//! `[rollout]`: how all shards go over to another generation.

use std::time::Duration;

use serde::Deserialize;

use super::bounds::{HOUR, MINUTE, count, time};
use super::{Error, Share};

/// `[rollout]`: how all shards go over to another generation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table, as in `[rollout]`")]
pub struct Rollout {
    /// How long shards that are away are waited for before the others go live without them.
    /// Default 1 min; 1 ms to 1 h.
    #[serde(with = "humantime_serde")]
    pub wait: Duration,
    /// How long requests are held at most so that none begins on a new generation anywhere before
    /// the last one on the old has ended everywhere. Default 0, for no barrier; up to 10 s.
    #[serde(with = "humantime_serde")]
    pub barrier: Duration,
    /// How many generations are kept, to go back to or to start with. Default 10; 2 to 100.
    pub keep: usize,
    /// The shares of the partitions that a new generation serves, one after the other. Each is larger
    /// than the one before, and the last is all. Default `["100%"]`; up to 20 steps.
    pub steps: Vec<Share>,
    /// How long each step is watched, also the last. If the new generation fails more than the one
    /// before it, or is slower, all shards go back by themselves. Default 2 min; 0, for not at all, or
    /// up to 24 h.
    #[serde(with = "humantime_serde")]
    pub bake: Duration,
    /// What the keys of the partitions begin with that the new generation serves before all others, in
    /// a step of their own. Default none; up to 100.
    pub first: Vec<String>,
    /// The number of requests that the new generation has to have answered before a step is over,
    /// besides the time. Default 0; up to 1,000,000,000.
    pub requests: u64,
    /// How much larger than before the share of requests that fail may be. Default 0.1 %; above 0 and
    /// up to 100 %.
    pub failures: Share,
    /// How many times as long as before the median request may take. Default 2; 2 to 1,000.
    pub slower: u32,
}

/// The longest [`Rollout::barrier`].
pub const MOST_BARRIER: Duration = Duration::from_secs(10);

const MOST_STEPS: u64 = 20;
const MOST_FIRST: u64 = 100;

impl Default for Rollout {
    fn default() -> Self {
        Self {
            wait: MINUTE,
            barrier: Duration::ZERO,
            keep: 10,
            steps: vec![Share::ALL],
            bake: 2 * MINUTE,
            first: Vec::new(),
            requests: 0,
            failures: Share::PER_MILLE,
            slower: 2,
        }
    }
}

impl Rollout {
    /// The shares of the partitions that a new generation serves before it serves all, in millionths.
    pub fn steps_before_all(&self) -> Vec<u32> {
        let first = (!self.first.is_empty()).then_some(0);
        let shares = self.steps.iter().map(|share| share.millionths());
        let before_all = shares.filter(|share| *share < Share::ALL.millionths());
        first.into_iter().chain(before_all).collect()
    }

    /// Checks it against its bounds.
    pub(super) fn check(&self) -> Result<(), Error> {
        time("rollout.wait", self.wait, HOUR)?;
        count("rollout.keep", self.keep as u64, 2, 100)?;
        if !self.barrier.is_zero() {
            time("rollout.barrier", self.barrier, MOST_BARRIER)?;
        }
        let steps = self.steps.len() as u64;
        count("the number of rollout.steps", steps, 1, MOST_STEPS)?;
        let millionths = |share: &Share| share.millionths();
        let rises = |pair: &[Share]| millionths(&pair[0]) < millionths(&pair[1]);
        if let Some(pair) = self.steps.windows(2).find(|pair| !rises(pair)) {
            return Err(Error::StepsFall {
                step: pair[1],
                before: pair[0],
            });
        }
        if let Some(last) = self.steps.last().filter(|last| **last != Share::ALL) {
            return Err(Error::StepsEnd { last: *last });
        }
        let first = self.first.len() as u64;
        count("the number of rollout.first", first, 0, MOST_FIRST)?;
        if self.first.iter().any(String::is_empty) {
            return Err(Error::FirstIsAll);
        }
        if !self.bake.is_zero() {
            time("rollout.bake", self.bake, 24 * HOUR)?;
        } else if !self.steps_before_all().is_empty() {
            return Err(Error::NotBaked { what: "steps" });
        } else if self.requests > 0 {
            return Err(Error::NotBaked { what: "requests" });
        }
        count("rollout.requests", self.requests, 0, 1_000_000_000)?;
        count("rollout.slower", self.slower.into(), 2, 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    fn parsed(text: &str) -> Result<Rollout, String> {
        let settings = Settings::parse(&format!("[rollout]\n{text}"));
        let rollout = settings.map(|settings| settings.rollout);
        rollout.map_err(|error| error.to_string())
    }

    #[test]
    fn steps_rise_to_all_and_what_comes_first_has_its_own() {
        let steps = |text| parsed(text).unwrap().steps_before_all();
        assert!(steps("").is_empty());
        assert_eq!(steps("steps = ['1%', '10%', '100%']"), [10_000, 100_000]);
        assert_eq!(steps("first = ['test/']"), [0]);
        assert_eq!(
            steps("first = ['test/']\nsteps = ['50%', '100%']"),
            [0, 500_000]
        );
    }

    #[test]
    fn what_contradicts_itself_is_told() {
        for (text, told) in [
            (
                "steps = ['10%', '5%', '100%']",
                "rollout.steps has 5% after 10%; each step is larger than the one before it",
            ),
            (
                "steps = ['10%', '10%', '100%']",
                "rollout.steps has 10% after 10%; each step is larger than the one before it",
            ),
            (
                "steps = ['1%', '10%']",
                "rollout.steps ends with 10%; the last step is \"100%\"",
            ),
            (
                "steps = []",
                "the number of rollout.steps is 0; it must be 1 to 20",
            ),
            ("steps = ['0%', '100%']", "write a share above 0%"),
            (
                "steps = ['1%', '100%']\nbake = '0s'",
                "rollout.bake is 0s, and rollout.steps needs a time in which a step is watched",
            ),
            (
                "first = ['a']\nbake = '0s'",
                "rollout.bake is 0s, and rollout.steps needs a time in which a step is watched",
            ),
            (
                "requests = 10\nbake = '0s'",
                "rollout.bake is 0s, and rollout.requests needs a time",
            ),
            (
                "first = ['']",
                "rollout.first has \"\", with which all keys begin",
            ),
            (
                "bake = '25h'",
                "rollout.bake is 1day 1h; it must be 1ms to 1day",
            ),
            (
                "requests = 2000000000",
                "rollout.requests is 2000000000; it must be 0 to 1000000000",
            ),
            ("failures = '0%'", "write a share above 0%"),
            ("slower = 1", "rollout.slower is 1; it must be 2 to 1000"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
        assert_eq!(parsed("bake = '0s'").unwrap().bake, Duration::ZERO);
    }
}
