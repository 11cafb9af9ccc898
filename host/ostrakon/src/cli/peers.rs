//! Which shards a shard can ask, and what is wrong with the others, for people.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use humantime_serde::re::humantime::format_rfc3339_seconds;
use ostrakon_base::printable::Printable;
use serde::Deserialize;
use serde_json::Value;

/// A peer in a shard's status: `topology.peers`.
#[derive(Debug, Deserialize)]
struct Peer {
    shard: u32,
    reached: bool,
    since: f64,
    cause: Option<String>,
}

/// A line for each peer, or only for those that cannot be asked. Empty if there are none.
pub(super) fn rows(status: &Value, only_lost: bool) -> String {
    let peers = &status["topology"]["peers"];
    let peers: Vec<Peer> = serde_json::from_value(peers.clone()).unwrap_or_default();
    let width = peers.iter().map(|peer| peer.shard.to_string().len()).max();
    let width = width.unwrap_or(1);
    let shown = peers.iter().filter(|peer| !(only_lost && peer.reached));
    shown.fold(String::new(), |mut text, peer| {
        let Peer { shard, since, .. } = peer;
        let since = UNIX_EPOCH + Duration::try_from_secs_f64(*since).unwrap_or_default();
        let since = format_rfc3339_seconds(since);
        let _ = match &peer.cause {
            None => writeln!(text, "shard {shard:<width$} can be asked, since {since}"),
            Some(why) => writeln!(
                text,
                "shard {shard:<width$} cannot be asked, since {since}: {}",
                Printable(why)
            ),
        };
        text
    })
}

/// A line for each problem.
pub(super) fn problems(status: &Value) -> String {
    let problems = status["problems"].as_array().into_iter().flatten();
    problems
        .filter_map(Value::as_str)
        .fold(String::new(), |mut text, problem| {
            let _ = writeln!(text, "! {}", Printable(problem));
            text
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_peer_is_a_row_and_what_is_wrong_is_said() {
        let status = json!({
            "topology": { "peers": [
                { "shard": 1, "reached": true, "since": 0.0, "cause": null },
                { "shard": 12, "reached": false, "since": 60.5, "cause": "nobody is there" },
            ] },
            "problems": ["shard 12 cannot be asked"],
        });
        let lost = "shard 12 cannot be asked, since 1970-01-01T00:01:00Z: nobody is there\n";
        assert_eq!(rows(&status, true), lost);
        let both = format!("shard 1  can be asked, since 1970-01-01T00:00:00Z\n{lost}");
        assert_eq!(rows(&status, false), both);
        assert_eq!(problems(&status), "! shard 12 cannot be asked\n");
        assert_eq!(rows(&json!({}), false) + &problems(&json!({})), "");
    }
}
