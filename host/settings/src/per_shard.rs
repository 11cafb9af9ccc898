//! Texts, such as addresses, that differ between shards only by the shard's ordinal.

use std::fmt;
use std::str::FromStr;

use ostrakon_protocol::Ordinal;
use serde::{Deserialize, Serialize};

/// A text in which `{}` stands for a shard's ordinal, and `{1}` for the ordinal counted from 1:
/// `127.0.0.{1}:7070` is `127.0.0.1:7070` for shard 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PerShard(String);

/// The text contains no ordinal, so it is the same for every shard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is the same for every shard: write `{{}}` where the ordinal belongs, or `{{1}}` for the ordinal counted from 1"
)]
pub struct Same(String);

impl PerShard {
    /// The text for one shard, with its ordinal inserted.
    pub fn of(&self, shard: Ordinal) -> String {
        let from_one = u64::from(shard.0) + 1;
        self.0
            .replace("{}", &shard.to_string())
            .replace("{1}", &from_one.to_string())
    }
}

impl FromStr for PerShard {
    type Err = Same;

    fn from_str(text: &str) -> Result<Self, Same> {
        if text.contains("{}") || text.contains("{1}") {
            return Ok(Self(text.to_owned()));
        }
        Err(Same(text.to_owned()))
    }
}

impl TryFrom<String> for PerShard {
    type Error = Same;

    fn try_from(text: String) -> Result<Self, Same> {
        text.parse()
    }
}

impl From<PerShard> for String {
    fn from(text: PerShard) -> Self {
        text.0
    }
}

impl fmt::Display for PerShard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ordinal_is_put_in_counted_from_0_or_from_1() {
        let of = |text: &str, shard| text.parse::<PerShard>().map(|text| text.of(Ordinal(shard)));
        assert_eq!(of("kv-{}.kv:7070", 12), Ok("kv-12.kv:7070".to_owned()));
        assert_eq!(of("127.0.0.{1}:7070", 0), Ok("127.0.0.1:7070".to_owned()));
        assert_eq!(of("kv-{}.{}", 3), Ok("kv-3.3".to_owned()));
        assert_eq!(of("kv-0:7070", 0), Err(Same("kv-0:7070".to_owned())));
    }
}
