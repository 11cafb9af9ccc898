//! What comes out of a rehearsal.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use ostrakon_base::digest::Digest;
use ostrakon_contract::contract::{Access, Request, Route, Target};
use ostrakon_engine::Failure;
use ostrakon_observe::metrics::Rehearsed;
use ostrakon_settings::settings::Rehearsal;
use serde::Serialize;

use super::migrating::Migrated;
use super::runs::{Answer, Ran};

/// How many examples are kept.
const MOST_EXAMPLES: usize = 10;

/// How many times of requests are kept.
const MOST_TIMES: usize = 1024;

/// How many bytes of a body, a value or a reason an example shows.
const SHOWN: usize = 64;
const MOST_REASON: usize = 256;

/// The longest first segment of a path that is shown.
const MOST_SEGMENT: usize = 32;

/// What came out of a rehearsal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// The content that rehearsed.
    pub candidate: Digest,
    /// The content that was live.
    pub live: Digest,
    pub outcome: Outcome,
    /// The number of requests that both guests were tried with: the sum of the next five.
    pub requests: u64,
    /// They answered and wrote the same, byte by byte.
    pub same: u64,
    /// They did not.
    pub differ: u64,
    /// The candidate failed, and the live guest did not.
    pub failed: u64,
    /// Both failed.
    pub both_failed: u64,
    /// The live guest's own second answer differed from its first in the same.
    pub unsteady: u64,
    /// Samples that there was no room or no time for.
    pub left_out: u64,
    /// The median time of a request that both answered, in microseconds, of the last 1,024.
    pub live_us: u64,
    pub candidate_us: u64,
    /// The first of those that differ or failed.
    pub examples: Vec<Example>,
    /// What came out of trying `migrate`, if the schema changes.
    pub migration: Option<Migrated>,
    /// Why it is refused, if it is.
    pub why: Option<String>,
    /// How long the live guest and the candidate took.
    #[serde(skip)]
    times: Vec<[Duration; 2]>,
    #[serde(skip)]
    timed: usize,
}

/// How a rehearsal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is under way.
    Rehearses,
    Passed,
    Refused,
    /// Other content took the candidate's place, or the shard stops.
    Stopped,
}

/// A request for which the guests differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Example {
    pub difference: Difference,
    pub method: String,
    /// The path's shape; with `rehearsal.show_data`, the path.
    pub path: String,
    /// A mark that tells the partition's key apart from others, if there is one.
    pub partition: Option<String>,
    pub detail: String,
}

/// In what two guests differ first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Difference {
    /// One failed.
    Failure,
    /// Where they route the request.
    Route,
    Status,
    Headers,
    Body,
    /// What they write.
    Writes,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Failure => "failure",
            Self::Route => "route",
            Self::Status => "status",
            Self::Headers => "headers",
            Self::Body => "body",
            Self::Writes => "writes",
        })
    }
}

/// Why a candidate does not go live.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

/// What one request says, and how long it took the live guest and the candidate.
#[derive(Debug)]
pub(super) struct Tried {
    pub(super) verdict: Verdict,
    pub(super) took: [Duration; 2],
    /// The mark of the partition's key, if it was routed to one.
    pub(super) partition: Option<String>,
}

#[derive(Debug)]
pub(super) enum Verdict {
    Same,
    Differs(Differs),
    Failed(String),
    BothFailed,
    Unsteady,
}

/// In what two runs differ first, and how.
#[derive(Debug)]
pub(super) struct Differs {
    pub(super) difference: Difference,
    /// Without data.
    said: String,
    /// What examples show, with data if they may.
    shown: String,
}

impl Differs {
    fn new(difference: Difference, show_data: bool, say: impl Fn(bool) -> String) -> Self {
        let said = say(false);
        Self {
            difference,
            shown: if show_data { say(true) } else { said.clone() },
            said,
        }
    }

    /// The live guest failed, and the candidate did not.
    pub(super) fn of_failure(failure: &Failure) -> Self {
        let say = |_| format!("the live guest failed: {failure}");
        Self::new(Difference::Failure, false, say)
    }
}

impl Verdict {
    pub(super) fn counted(&self) -> Rehearsed {
        match self {
            Self::Same => Rehearsed::Same,
            Self::Differs(_) => Rehearsed::Differ,
            Self::Failed(_) => Rehearsed::Failed,
            Self::BothFailed => Rehearsed::BothFailed,
            Self::Unsteady => Rehearsed::Unsteady,
        }
    }
}

impl Findings {
    /// Those of a rehearsal that has just begun.
    pub fn new(candidate: Digest, live: Digest) -> Self {
        Self {
            candidate,
            live,
            outcome: Outcome::Rehearses,
            requests: 0,
            same: 0,
            differ: 0,
            failed: 0,
            both_failed: 0,
            unsteady: 0,
            left_out: 0,
            live_us: 0,
            candidate_us: 0,
            examples: Vec::new(),
            migration: None,
            times: Vec::new(),
            timed: 0,
            why: None,
        }
    }

    /// Notes what a request said.
    pub(super) fn note(&mut self, settings: &Rehearsal, request: &Request, tried: Tried) {
        let Tried {
            verdict,
            took,
            partition,
        } = tried;
        self.requests += 1;
        let counted = match &verdict {
            Verdict::Same => &mut self.same,
            Verdict::Differs(_) => &mut self.differ,
            Verdict::Failed(_) => &mut self.failed,
            Verdict::BothFailed => &mut self.both_failed,
            Verdict::Unsteady => &mut self.unsteady,
        };
        *counted += 1;
        if matches!(verdict, Verdict::Same | Verdict::Differs(_)) {
            match self.times.get_mut(self.timed % MOST_TIMES) {
                Some(before) => *before = took,
                None => self.times.push(took),
            }
            self.timed += 1;
        }
        let is_allowed = settings.differ.allows(&request.path);
        let (difference, said, shown, is_refused) = match verdict {
            Verdict::Failed(failure) => (Difference::Failure, failure.clone(), failure, true),
            Verdict::Differs(Differs {
                difference,
                said,
                shown,
            }) => (difference, said, shown, !is_allowed),
            _ => return,
        };
        let shape = shape(&request.path);
        if is_refused && self.outcome == Outcome::Rehearses {
            self.outcome = Outcome::Refused;
            let asked = format!("{} {shape}", request.method);
            self.why = Some(self.reason(difference, &asked, cut(&said, MOST_REASON)));
        }
        if self.examples.len() < MOST_EXAMPLES {
            self.examples.push(Example {
                difference,
                method: request.method.to_string(),
                path: if settings.show_data {
                    cut(&request.path, MOST_REASON).to_owned()
                } else {
                    shape
                },
                partition,
                detail: cut(&shown, MOST_REASON).to_owned(),
            });
        }
    }

    /// Has nothing refused.
    pub(super) fn forgive(&mut self) {
        (self.outcome, self.why) = (Outcome::Rehearses, None);
    }

    /// Notes what came out of trying `migrate`.
    pub(super) fn note_migration(&mut self, tried: Result<Migrated, String>) {
        match tried {
            Ok(migrated) => self.migration = Some(migrated),
            Err(why) if self.outcome == Outcome::Rehearses => {
                self.outcome = Outcome::Refused;
                self.why = Some(format!("tried on a copy of the shard's data, {why}"));
            }
            Err(_) => {}
        }
    }

    /// Why it is refused, without data: the log, Events and other shards say it, too.
    fn reason(&self, difference: Difference, asked: &str, said: &str) -> String {
        let requests = self.requests;
        if difference == Difference::Failure {
            return format!(
                "of {requests} live requests that it was tried with, the last, {asked}, fails, and not with the live generation: {said}"
            );
        }
        format!(
            "of {requests} live requests that it was tried with, the last, {asked}, differs in {difference}, and rehearsal.differ does not allow that: {said}"
        )
    }

    /// The same with the times so far.
    pub(super) fn measured(mut self) -> Self {
        self.measure();
        self
    }

    fn measure(&mut self) {
        let median = |of: usize| {
            let mut times: Vec<_> = self.times.iter().map(|both| both[of]).collect();
            times.sort_unstable();
            times.get(times.len() / 2).copied().map_or(0, micros)
        };
        (self.live_us, self.candidate_us) = (median(0), median(1));
    }

    /// Ends the rehearsal, unless it has ended.
    pub(super) fn end(&mut self, left_out: u64, outcome: Outcome) {
        self.measure();
        self.left_out = left_out;
        if self.outcome == Outcome::Rehearses {
            self.outcome = outcome;
        }
    }

    pub(super) fn judgement(&self) -> Result<(), Refused> {
        match &self.why {
            Some(why) => Err(Refused(why.clone())),
            None => Ok(()),
        }
    }
}

/// In what a candidate's run differs from the live guest's first; `None` if in nothing.
pub(super) fn compare(live: &Ran, candidate: &Ran, show_data: bool) -> Option<Differs> {
    let differs =
        |difference, say: &dyn Fn(bool) -> String| Some(Differs::new(difference, show_data, say));
    if live.route != candidate.route {
        return differs(Difference::Route, &|show| {
            let [was, is] = [live, candidate].map(|ran| routed(&ran.route, show));
            format!("{is}, live {was}")
        });
    }
    let (live, candidate) = (live.answer.as_ref()?, candidate.answer.as_ref()?);
    let (was, is) = (&live.reply, &candidate.reply);
    if was.status != is.status {
        return differs(Difference::Status, &|_| {
            format!("{}, live {}", is.status.as_u16(), was.status.as_u16())
        });
    }
    if let Some(name) = header(&was.headers, &is.headers) {
        return differs(Difference::Headers, &|show| {
            headers(name, [&was.headers, &is.headers], show)
        });
    }
    if was.body != is.body {
        return differs(Difference::Body, &|show| bytes(&was.body, &is.body, show));
    }
    let (number, was, is) = write(live, candidate)?;
    differs(Difference::Writes, &|show| {
        let (was, is) = (written(was, show), written(is, show));
        format!("write {number} in the order of keys: {is}, live {was}")
    })
}

fn routed(route: &Route, show: bool) -> String {
    let access = match route.access {
        Access::Read => "read",
        Access::Write if route.relaxed => "relaxed write",
        Access::Write => "write",
    };
    match &route.target {
        Target::Partition(key) if show => format!("{access} {}", shown(key)),
        Target::Partition(key) => format!("{access} partition {}", mark(key)),
        Target::Here => format!("{access} here"),
        Target::Everywhere => format!("{access} everywhere"),
    }
}

/// The first header that differs.
fn header<'a>(live: &'a HeaderMap, candidate: &'a HeaderMap) -> Option<&'a HeaderName> {
    live.keys().chain(candidate.keys()).find(|name| {
        let (was, is) = (live.get_all(*name), candidate.get_all(*name));
        !was.iter().eq(is.iter())
    })
}

fn headers(name: &HeaderName, both: [&HeaderMap; 2], show: bool) -> String {
    if !show {
        return name.to_string();
    }
    let [was, is] = both.map(|headers| {
        let value = headers.get(name).map(|value| shown(value.as_bytes()));
        value.unwrap_or_else(|| "none".to_owned())
    });
    format!("{name}: {is}, live {was}")
}

/// Where two byte strings differ first.
fn bytes(live: &[u8], candidate: &[u8], show: bool) -> String {
    let at = live.iter().zip(candidate).take_while(|(was, is)| was == is);
    let at = at.count();
    let (was, is) = (live.len(), candidate.len());
    let detail = format!("{is} bytes, live {was}, from byte {at} on");
    if !show {
        return detail;
    }
    let (was, is) = (shown(&live[at..]), shown(&candidate[at..]));
    format!("{detail}: {is}, live {was}")
}

/// A write of an answer: the key, and the value if it is no deletion; none where there are no more.
type Written<'a> = Option<(&'a [u8], Option<&'a [u8]>)>;

/// The first writes that differ, and their number.
fn write<'a>(live: &'a Answer, candidate: &'a Answer) -> Option<(u64, Written<'a>, Written<'a>)> {
    let ((was, partition), (is, _)) = (live.wrote.as_ref()?, candidate.wrote.as_ref()?);
    let (mut was, mut is) = (was.writes(partition), is.writes(partition));
    for number in 1.. {
        match (was.next(), is.next()) {
            (None, None) => break,
            (was, is) if was != is => return Some((number, was, is)),
            _ => {}
        }
    }
    None
}

fn written(write: Written<'_>, show: bool) -> String {
    match write {
        None => "none".to_owned(),
        Some((key, Some(value))) if show => format!("{} = {}", shown(key), shown(value)),
        Some((key, None)) if show => format!("{} deleted", shown(key)),
        Some((key, Some(value))) => format!("entry {} set to {} bytes", mark(key), value.len()),
        Some((key, None)) => format!("entry {} deleted", mark(key)),
    }
}

/// What tells a key apart from others in this process, and does not tell the key.
pub(super) fn mark(key: &[u8]) -> String {
    static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    format!("{:016x}", HASHES.hash_one(key))
}

/// The beginning of bytes, as text.
fn shown(bytes: &[u8]) -> String {
    let beginning = &bytes[..bytes.len().min(SHOWN)];
    let more = if beginning.len() < bytes.len() {
        "..."
    } else {
        ""
    };
    format!("\"{}\"{more}", beginning.escape_ascii())
}

/// A path without what may be a user's: its first segment, if that is a word and others follow, and the
/// number of the others.
fn shape(path: &str) -> String {
    let (path, query) = match path.split_once('?') {
        Some((path, _)) => (path, "?*"),
        None => (path, ""),
    };
    let segments: Vec<_> = path.split('/').skip(1).take(MOST_SEGMENT).collect();
    let mut shape = String::new();
    for (number, segment) in segments.iter().enumerate() {
        let is_word = |byte: u8| byte.is_ascii_alphabetic() || b"-_.".contains(&byte);
        let is_first = number == 0 && segments.len() > 1 && segment.len() <= MOST_SEGMENT;
        let is_shown = is_first && segment.bytes().all(is_word);
        shape.push('/');
        shape.push_str(if is_shown || segment.is_empty() {
            segment
        } else {
            "*"
        });
    }
    shape + query
}

fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paths_shape_has_no_key() {
        for (path, expected) in [
            ("/save/alice/secret", "/save/*/*"),
            ("/", "/"),
            ("/list", "/*"),
            ("/list/", "/list/"),
            ("/x1/y", "/*/*"),
            ("/a?key=alice", "/*?*"),
            ("/%41lice/", "/*/"),
        ] {
            assert_eq!(shape(path), expected, "{path}");
        }
        assert!(shape(&"/a".repeat(10_000)).len() <= 2 * MOST_SEGMENT);
    }

    #[test]
    fn bytes_are_shown_only_if_they_may_be() {
        assert_eq!(
            bytes(b"word", b"worse", false),
            "5 bytes, live 4, from byte 3 on"
        );
        assert_eq!(
            bytes(b"word", b"worse", true),
            "5 bytes, live 4, from byte 3 on: \"se\", live \"d\""
        );
        let long = bytes(&[b'a'; 1000], &[0; 1000], true);
        assert!(long.len() < 10 * SHOWN, "{long}");
        assert_eq!(mark(b"alice"), mark(b"alice"));
        assert_ne!(mark(b"alice"), mark(b"bob"));
    }

    #[test]
    fn headers_are_compared_by_name_and_by_the_order_of_values() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, http::HeaderValue::from_static(value));
            }
            headers
        };
        let live = of(&[("a", "1"), ("b", "2"), ("b", "3")]);
        let same = of(&[("b", "2"), ("a", "1"), ("b", "3")]);
        assert_eq!(header(&live, &same), None);
        for other in [
            of(&[("a", "1"), ("b", "3"), ("b", "2")]),
            of(&[("a", "1")]),
            of(&[("a", "1"), ("b", "2"), ("b", "3"), ("b", "4")]),
        ] {
            let name = header(&live, &other).unwrap();
            assert_eq!(headers(name, [&live, &other], false), "b");
        }
    }
}
