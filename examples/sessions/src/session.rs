//! The sessions of a partition.

use std::time::Duration;

use ostrakon_guest::{Error, Response, Result, collections::Indexed, router::Call};
use serde::{Deserialize, Serialize};

/// How many expired sessions one write deletes at most.
const SWEEP: usize = 100;

/// A stored session. Its data is an entry of its own, so that a touch does not rewrite it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) expires: Duration,
    /// In seconds.
    pub(crate) ttl: u64,
    /// Random, so that no two sessions have the same, and new with each change.
    pub(crate) version: String,
    pub(crate) content_type: String,
}

impl Session {
    /// Adds what a client needs to know about a session. No cache may keep it.
    pub(crate) fn describe(&self, call: &Call<'_>, response: Response) -> Response {
        let left = self
            .expires
            .saturating_sub(call.now())
            .as_secs()
            .to_string();
        response
            .header("etag", ["\"", &self.version, "\""].concat())
            .header("session-ttl", left)
            .header("cache-control", "no-store")
    }

    /// RFC 9110, section 13.1.1.
    pub(crate) fn check(&self, call: &Call<'_>) -> Result<()> {
        let wanted = call.header("if-match");
        let tag = ["\"", &self.version, "\""].concat();
        let mut tags = wanted
            .iter()
            .flat_map(|line| line.split(|byte| *byte == b','));
        let fits = |wanted: &[u8]| [b"*", tag.as_bytes()].contains(&wanted.trim_ascii());
        if wanted.is_empty() || tags.any(fits) {
            return Ok(());
        }
        let message =
            "the session has changed: read it again, and repeat the change on what you read";
        Err(Error::new(412, "precondition_failed", message))
    }
}

pub(crate) fn sessions(call: &Call<'_>) -> Indexed<String, Session, Duration> {
    call.store()
        .indexed("sessions", |_, session: &Session| vec![session.expires])
}

pub(crate) fn data(id: &str) -> String {
    ["data/", id].concat()
}

pub(crate) fn live(call: &Call<'_>, id: &str) -> Result<Option<Session>> {
    let session = sessions(call).get(id.to_owned())?;
    Ok(session.filter(|session| call.now() < session.expires))
}

pub(crate) fn forget(call: &Call<'_>, id: &str) -> Result<()> {
    sessions(call).remove(id.to_owned())?;
    call.store().delete(data(id))?;
    Ok(())
}

/// Deletes expired sessions of this partition.
pub(crate) fn sweep(call: &Call<'_>) -> Result<()> {
    let expired = sessions(call)
        .index()
        .until(call.now() + Duration::from_nanos(1));
    for expired in expired.take(SWEEP).collect::<Result<Vec<_>>>()? {
        forget(call, &expired.1)?;
    }
    Ok(())
}
