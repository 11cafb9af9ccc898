//! Shards that have data but do not run, because fewer shards are wanted than have data.
//!
//! They were ended before they could give their partitions away, or the whole cluster came back
//! with fewer shards. No data is lost, but only their return makes it available again.

use std::fmt;

use ostrakon_protocol::Ordinal;

use super::{AskError, Cluster};

/// The shards that are missing; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub shards: Vec<Ordinal>,
    /// How many shards are wanted, by the settings or the `StatefulSet`.
    pub wanted: u32,
    pub having_data: u32,
}

impl fmt::Display for Missing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shards, all) = (named(&self.shards), self.having_data);
        let (have, are) = match self.shards.len() {
            1 => ("has", "is"),
            _ => ("have", "are"),
        };
        write!(
            out,
            "{shards} {have} partitions and {are} not there, so requests for these get 503: data is in {all} shards, and {} wanted; run {all} again (`kubectl scale --replicas={all}`), and fewer only when those have given their partitions away",
            match self.wanted {
                1 => "1 is".to_owned(),
                wanted => format!("{wanted} are"),
            }
        )
    }
}

/// Formats `shard 3`, or `shards 3, 4 and 5`.
pub(super) fn named(shards: &[Ordinal]) -> String {
    match shards {
        [] => "no shard".to_owned(),
        [one] => format!("shard {one}"),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(ToString::to_string).collect();
            format!("shards {} and {last}", first.join(", "))
        }
    }
}

impl Cluster {
    /// The shards that have data and do not run, because fewer are wanted. Only the coordinator
    /// knows how many are wanted.
    pub fn missing(&self) -> Option<Missing> {
        if self.0.me != Ordinal::COORDINATOR {
            return None;
        }
        let view = self.0.writer.views().get()?;
        let plan = view.membership.as_ref()?.shard.plan()?;
        let wanted = self.desired(&view, Some(plan))?.shards;
        let mut shards = self.away();
        shards.retain(|shard| shard.0 >= wanted);
        (!shards.is_empty()).then(|| Missing {
            shards,
            wanted,
            having_data: plan.shards(),
        })
    }

    /// The faults of the cluster that this shard knows of, in plain words.
    pub fn problems(&self) -> Vec<String> {
        let missing = self.missing();
        let is_missing = |shard: &Ordinal| {
            let missing = missing.as_ref();
            missing.is_some_and(|missing| missing.shards.contains(shard))
        };
        let mut away = self.away();
        away.retain(|shard| !is_missing(shard));
        let mut problems: Vec<_> = missing.iter().map(ToString::to_string).collect();
        if !away.is_empty() {
            let shards = named(&away);
            let their = if away.len() == 1 { "its" } else { "their" };
            problems.push(format!(
                "{shards} cannot be asked, and requests for {their} partitions get 503: see that each of them runs and can be reached from this shard"
            ));
        }
        problems
    }

    /// Why the request was not forwarded to a shard, for the client.
    pub(super) fn why_away(&self, shard: Ordinal, error: &AskError) -> String {
        if let Some(missing) = self.missing()
            && missing.shards.contains(&shard)
        {
            return missing.to_string();
        }
        if self.is_away(shard) {
            let shards = self.plan().map_or(0, |plan| plan.shards());
            return format!(
                "shard {shard} has not been there for a while: see that all {shards} shards that have data run ({error})"
            );
        }
        format!("shard {shard} does not answer: {error}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_what_to_do() {
        let missing = |shards: &[u32], wanted| Missing {
            shards: shards.iter().copied().map(Ordinal).collect(),
            wanted,
            having_data: 5,
        };
        assert_eq!(
            missing(&[3, 4], 3).to_string(),
            "shards 3 and 4 have partitions and are not there, so requests for these get 503: data is in 5 shards, and 3 are wanted; run 5 again (`kubectl scale --replicas=5`), and fewer only when those have given their partitions away"
        );
        let one = missing(&[4], 1).to_string();
        assert!(one.starts_with("shard 4 has partitions and is not there"));
        assert!(one.contains("in 5 shards, and 1 is wanted"), "{one}");
        assert_eq!(named(&[1, 2, 3].map(Ordinal)), "shards 1, 2 and 3");
    }
}
