//! The host's own answer to a request that no guest answered.

use bytes::Bytes;
use http::Response;
use ostrakon_engine::Failure;
use ostrakon_network::http::Refusal;
use ostrakon_store::CommitError;

use crate::service::Refused;

/// What a shard refuses, beside what HTTP does.
pub mod refusals {
    ostrakon_network::refusals! {
        /// Another shard has the partition; the client is to ask that one.
        REDIRECTED: TEMPORARY_REDIRECT "redirected"
            "another shard has this partition: send the same request to the address in the location header\n",
        /// The partition's key is empty or too long.
        BAD_PARTITION_KEY: BAD_REQUEST "bad-partition-key"
            "the partition key is empty or too long: use 1 byte to store.max_partition_key_bytes\n",
        /// Another shard has the partition; nothing was written.
        MISPLACED: MISDIRECTED_REQUEST "misplaced"
            "another shard has this partition, and nothing was written: ask the one that the ostrakon-shard header names\n",
        /// The guest trapped.
        GUEST_TRAPPED: INTERNAL_SERVER_ERROR "guest-trapped"
            "the guest trapped and nothing was stored: see the host's log\n",
        /// The guest's reply cannot be sent.
        GUEST_REPLY: INTERNAL_SERVER_ERROR "guest-reply"
            "the guest's reply is not valid and nothing was stored: see the host's log\n",
        /// The guest used more memory than it may.
        GUEST_MEMORY: INTERNAL_SERVER_ERROR "guest-memory"
            "the guest ran out of memory and nothing was stored: ask for less, or raise the limit\n",
        /// A part of the data is damaged.
        STORE_DAMAGED: INTERNAL_SERVER_ERROR "store-damaged"
            "a part of the data is damaged and nothing was stored: see the shard's status and log, and restore a backup\n",
        /// The guest missed its deadline.
        GUEST_DEADLINE: GATEWAY_TIMEOUT "guest-deadline"
            "the guest missed its deadline and nothing was stored: ask for less, or raise the deadline\n",
        /// All replies together are too large.
        REPLIES: SERVICE_UNAVAILABLE "replies"
            "the replies that clients, or this one, have not taken yet are too large together: take them, try again later, or raise max_replies_bytes\n",
        /// The writer's queue is full.
        WRITER_FULL: SERVICE_UNAVAILABLE "writer-full"
            "too many writes are waiting: try again later\n",
        /// The request waited too long for the writer; it did not run.
        WRITER_WAIT: SERVICE_UNAVAILABLE "writer-wait"
            "the write waited too long for its turn and did not run: try again later\n",
        /// Too many slow reads run already.
        SLOW_READS: SERVICE_UNAVAILABLE "too-many-slow-reads"
            "too many slow reads are running: try again later\n",
        /// The shard that has the partition, or one of all that are to answer, is away; nothing was run.
        SHARD_AWAY: SERVICE_UNAVAILABLE "shard-away"
            "a shard that is to answer is away, and nothing was run: try again later\n",
        /// The shard that has the partition was asked to write and did not answer.
        OUTCOME_UNKNOWN: BAD_GATEWAY "outcome-unknown"
            "the shard that has this partition did not answer: it may have written or not; read before you try again\n",
        /// Another shard ran the write, and there is no room for its reply.
        REPLY_DROPPED: BAD_GATEWAY "reply-dropped"
            "the write was run, and its reply was dropped, as replies that clients have not taken yet are too large together: read before you try again\n",
        /// There is no live generation yet.
        NO_GENERATION: SERVICE_UNAVAILABLE "no-generation"
            "the shard has no live guest yet: try again later, and see its status\n",
        /// The shard drains.
        SHUTTING_DOWN: SERVICE_UNAVAILABLE "shutting-down"
            "_shutting_down_",
        /// The store cannot be read or written.
        STORE_FAILED: SERVICE_UNAVAILABLE "store-failed"
            "the store failed and the request's outcome was not acknowledged: try again, and see the host's log\n",
        /// The data file is not where it was opened.
        STORE_MISSING: SERVICE_UNAVAILABLE "store-missing"
            "the shard's data file was moved or removed and nothing was stored: put it back, and see the shard's status\n",
        /// There is no space left to write to.
        STORE_FULL: INSUFFICIENT_STORAGE "store-full"
            "the disk is full and nothing was stored: free some space, or enlarge the volume\n",
    }
}

impl From<&Refused> for Refusal {
    fn from(refused: &Refused) -> Self {
        match refused {
            Refused::Starting => refusals::NO_GENERATION,
            Refused::RepliesFull => refusals::REPLIES,
            Refused::TooManySlow => refusals::SLOW_READS,
            Refused::WriterFull => refusals::WRITER_FULL,
            Refused::WriterWait => refusals::WRITER_WAIT,
            Refused::NotStored(CommitError::Full) => refusals::STORE_FULL,
            Refused::NotStored(CommitError::Missing(_)) => refusals::STORE_MISSING,
            Refused::NotStored(error) if error.is_damage() => refusals::STORE_DAMAGED,
            Refused::NotStored(CommitError::Failed(_)) | Refused::Stopping => {
                refusals::STORE_FAILED
            }
            Refused::Away(_) => refusals::SHARD_AWAY,
            Refused::Unknown(_) => refusals::OUTCOME_UNKNOWN,
            Refused::ReplyDropped => refusals::REPLY_DROPPED,
            Refused::Redirected { .. } => refusals::REDIRECTED,
            Refused::Misplaced { .. } => refusals::MISPLACED,
            Refused::Failed(failure) => match failure {
                Failure::Trap(_) => refusals::GUEST_TRAPPED,
                Failure::Memory(_) => refusals::GUEST_MEMORY,
                Failure::Deadline => refusals::GUEST_DEADLINE,
                Failure::Reply(_) => refusals::GUEST_REPLY,
                Failure::PartitionKey(..) => refusals::BAD_PARTITION_KEY,
                Failure::Store(error) if error.is_damage() => refusals::STORE_DAMAGED,
                Failure::Store(_) => refusals::STORE_FAILED,
            },
        }
    }
}

impl Refused {
    pub fn response(&self) -> Response<Bytes> {
        let refusal = Refusal::from(self);
        match self {
            // Names the shard, for people: the client can only wait.
            Self::Away(why) | Self::Unknown(why) => refusal.explained(why),
            _ => refusal.response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
    use ostrakon_network::http::refusals as of_http;
    use ostrakon_test_support::pages::{code, rows, section};

    use super::*;

    fn all() -> impl Iterator<Item = Refusal> {
        of_http::ALL.iter().chain(refusals::ALL).copied()
    }

    #[test]
    fn the_reference_has_exactly_these_codes_with_their_status() {
        let readme = include_str!("../../README.md");
        let rows = rows(readme, "| code | status | cause |").into_iter();
        let shown: HashSet<_> = rows
            .map(|row| (row[0].trim_matches('`').to_owned(), row[1].to_owned()))
            .collect();
        let all: HashSet<_> = all()
            .map(|refusal| {
                (
                    refusal.code().to_owned(),
                    refusal.status().as_str().to_owned(),
                )
            })
            .collect();
        assert_eq!(shown, all, "host/README.md, and the refusals");
    }

    /// Settings, the public port, what clients see: many tables name a refusal.
    #[test]
    fn each_refusal_that_a_page_names_with_a_status_is_one() {
        let all: HashSet<_> = all()
            .map(|refusal| format!("{} `{}`", refusal.status().as_u16(), refusal.code()))
            .collect();
        for (page, text) in [
            ("host/README.md", include_str!("../../README.md")),
            (
                "deploy/README.md",
                include_str!("../../../deploy/README.md"),
            ),
            (
                "guest/README.md",
                ends(include_str!("../../../guest/README.md")),
            ),
        ] {
            let mut named = 0;
            for (before, after) in text.match_indices(" `").map(|(at, _)| text.split_at(at)) {
                let status = before.rsplit([' ', '(']).next().unwrap_or_default();
                let code = after[2..].split('`').next().unwrap_or_default();
                let is_status = status.len() == 3 && status.bytes().all(|b| b.is_ascii_digit());
                if is_status && !code.starts_with('_') {
                    let refusal = format!("{status} `{code}`");
                    assert!(all.contains(&refusal), "{page}: {refusal}");
                    named += 1;
                }
            }
            assert!(named > 0, "{page} names no refusal");
        }
    }

    /// The part of the authors' guide on errors that end a request.
    fn ends(guide: &str) -> &str {
        section(guide, "### Errors that end a request")
    }

    #[test]
    fn the_authors_guide_has_each_refusal_that_a_guest_causes() {
        let rows = rows(
            ends(include_str!("../../../guest/README.md")),
            "| `ostrakon-error` | cause |",
        );
        let shown: HashSet<_> = rows.iter().flat_map(|row| code(row[0])).collect();
        for refusal in all().filter(|refusal| refusal.code().starts_with("guest-")) {
            assert!(shown.contains(refusal.code()), "{}", refusal.code());
        }
    }

    #[test]
    fn every_refusal_is_one_lower_case_line_with_a_code_of_its_own() {
        let mut codes = HashSet::new();
        for refusal in all() {
            let (code, text) = (refusal.code(), refusal.text());
            assert!(codes.insert(code), "{code} twice");
            assert!(
                code.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-'),
                "{code}"
            );
            assert_eq!(text, text.to_lowercase());
            assert_eq!(text.trim_end_matches('\n').lines().count(), 1, "{text}");
            assert!(!text.trim_end().ends_with('.'), "{text}");
            let response = refusal.response();
            assert_eq!(response.headers()["ostrakon-error"], code);
            assert_eq!(
                response.headers().contains_key(RETRY_AFTER),
                response.status() == 503
            );
            assert_eq!(
                response.headers().contains_key(WWW_AUTHENTICATE),
                response.status() == 401
            );
        }
    }

    #[test]
    fn shutting_down_is_said_as_the_courses_store_says_it() {
        let response = refusals::SHUTTING_DOWN.response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.body(), "_shutting_down_");
        assert_eq!(response.headers()[RETRY_AFTER], "1");
    }
}
