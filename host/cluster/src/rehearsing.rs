//! Rehearsals on an operator's behalf: content that is in no volume is tried with the live requests of
//! all shards, and thrown away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use ostrakon_base::causes::with_causes;
use ostrakon_engine::Purpose;
use ostrakon_protocol::Ordinal;
use ostrakon_settings::settings::{Differ, Rehearsal, Share};
use ostrakon_shard::rehearsal::{Candidate, Findings, NotTried};
use ostrakon_shard::swap;
use ostrakon_shard::writer::Writer;
use ostrakon_volumes::volume::Files;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::message::{PeerRequest, PeerResponse};
use super::{AskError, Cluster, Guests, MakeError};

/// How long another shard may take beside the rehearsal itself: it has to compile the guest, and to end
/// what is under way.
const PATIENCE: Duration = Duration::from_mins(1);

/// Why content was not tried.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    #[error("the body is not what `ostrakon rehearse` sends: are they of one version?")]
    Body,
    #[error("it would be refused")]
    Content(#[source] MakeError),
    #[error("its schema is {guest}, older than the stored data's {data}")]
    Schema { guest: u32, data: u32 },
    #[error("the shard has no live generation yet: try again soon")]
    NotYet,
    #[error(transparent)]
    NotTried(#[from] NotTried),
    /// The live generation's settings cannot be read.
    #[error(
        "the live generation's settings are missing or damaged in the data directory: restart the shard"
    )]
    NotKept,
}

/// What one shard found, or why it found nothing.
#[derive(Clone, Debug, Serialize)]
pub struct OfShard {
    pub shard: u32,
    /// As `rehearsal` in `/status`.
    pub findings: Option<serde_json::Value>,
    pub error: Option<String>,
}

/// How content is to be tried, as shards tell each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Terms {
    pub(super) time_ms: u64,
    pub(super) requests: u64,
    /// In millionths.
    pub(super) share: u32,
    /// Beginnings of paths for which it may differ; none if it always may.
    pub(super) differ: Option<Vec<String>>,
    pub(super) show_data: bool,
}

impl From<&Rehearsal> for Terms {
    fn from(rehearsal: &Rehearsal) -> Self {
        Self {
            time_ms: u64::try_from(rehearsal.time.as_millis()).unwrap_or(u64::MAX),
            requests: rehearsal.requests,
            share: rehearsal.share.millionths(),
            differ: match &rehearsal.differ {
                Differ::Anything => None,
                Differ::Nothing => Some(Vec::new()),
                Differ::Paths(paths) => Some(paths.clone()),
            },
            show_data: rehearsal.show_data,
        }
    }
}

impl Terms {
    /// `None` if there cannot be such a rehearsal.
    fn rehearsal(self) -> Option<Rehearsal> {
        let rehearsal = Rehearsal {
            time: Duration::from_millis(self.time_ms),
            requests: self.requests,
            share: Share::of_millionths(self.share)?,
            differ: match self.differ {
                None => Differ::Anything,
                Some(paths) if paths.is_empty() => Differ::Nothing,
                Some(paths) => Differ::Paths(paths),
            },
            show_data: self.show_data,
        };
        rehearsal.check().ok()?;
        Some(rehearsal)
    }
}

/// Content that is to be tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A component, plain or packed, with the live generation's settings.
    Component(Bytes),
    /// A component and settings, as in a ConfigMap.
    Files(BTreeMap<String, Bytes>),
}

/// What a shard is asked by `ostrakon rehearse`.
///
/// # Panics
/// Never: names and bytes can be written.
pub fn encode(content: &Content, rehearsal: &Rehearsal) -> Bytes {
    let asked = (content, Terms::from(rehearsal));
    let bytes = rmp_serde::to_vec_named(&asked);
    bytes.expect("names and bytes can be written").into()
}

fn decode(body: &[u8]) -> Option<(Content, Rehearsal)> {
    let (content, terms) = rmp_serde::from_slice::<(Content, Terms)>(body).ok()?;
    Some((content, terms.rehearsal()?))
}

/// Tries content. Clones share the same.
#[derive(Clone, Debug)]
pub struct Rehearser {
    writer: Writer,
    guests: Guests,
    cluster: Option<Cluster>,
}

impl Rehearser {
    /// A rehearser for a shard, alone or in its cluster.
    pub fn new(writer: Writer, guests: Guests, cluster: Option<Cluster>) -> Self {
        Self {
            writer,
            guests,
            cluster,
        }
    }

    /// Tries content with the live requests of all shards, and returns what each found, in order.
    ///
    /// # Errors
    /// If it cannot be tried here; then it is tried nowhere.
    pub async fn rehearse(&self, body: &[u8]) -> Result<Vec<OfShard>, RehearsalError> {
        let (content, rehearsal) = decode(body).ok_or(RehearsalError::Body)?;
        let files = self.files(content)?;
        let rehearsal = &rehearsal;
        let me = Ordinal(self.guests.identity.ordinal);
        let begun = begin(&self.guests, &self.writer, &files, rehearsal).await?;
        let here = async {
            let found = begun.end(&self.writer, &self.guests).await;
            vec![of_shard(me, found)]
        };
        let shards = self.cluster.as_ref().and_then(Cluster::plan);
        let shards = shards.map_or(0, |plan| plan.shards());
        let others = (0..shards).map(Ordinal).filter(|shard| *shard != me);
        let others = self.cluster.iter().flat_map(|cluster| {
            let (others, files) = (others.clone(), &files);
            others.map(async |shard| {
                let found = cluster.has_rehearsed(shard, files, rehearsal).await;
                OfShard {
                    shard: shard.0,
                    findings: found.as_ref().ok().cloned(),
                    error: found.err(),
                }
            })
        });
        let (mut here, others) = tokio::join!(here, join_all(others));
        here.extend(others);
        here.sort_by_key(|found| found.shard);
        Ok(here)
    }

    fn files(&self, content: Content) -> Result<Files, RehearsalError> {
        let component = match content {
            Content::Component(component) => component,
            Content::Files(files) => return Ok(Files::new(files)),
        };
        let view = self.writer.views().get().ok_or(RehearsalError::NotYet)?;
        let live = self.guests.kept.find(view.digest);
        let live = live.ok_or(RehearsalError::NotKept)?;
        Ok(swap::with_component(&live, component))
    }
}

fn of_shard(shard: Ordinal, found: Result<Findings, RehearsalError>) -> OfShard {
    OfShard {
        shard: shard.0,
        findings: found.as_ref().ok().map(|found| serde_json::json!(found)),
        error: found.err().map(|error| with_causes(&error)),
    }
}

/// A candidate that is ready to be tried.
struct Begun(Candidate);

/// Prepares content as a swap does.
async fn begin(
    guests: &Guests,
    writer: &Writer,
    files: &Files,
    rehearsal: &Rehearsal,
) -> Result<Begun, RehearsalError> {
    if writer.views().get().is_none() {
        return Err(RehearsalError::NotYet);
    }
    if writer.stage().is_busy() {
        return Err(NotTried::Busy.into());
    }
    let made = guests.make_with_secrets(files, Purpose::Trial).await;
    let guest = Arc::new(made.map_err(RehearsalError::Content)?);
    let schema = guest.description().schema;
    let migrate_from = match writer.schema() {
        Some(data) if schema < data => {
            return Err(RehearsalError::Schema {
                guest: schema,
                data,
            });
        }
        data => data.filter(|data| *data < schema),
    };
    Ok(Begun(Candidate {
        guest,
        digest: files.digest(),
        settings: rehearsal.clone(),
        ordinal: guests.identity.ordinal,
        directory: guests.directory.clone(),
        migrate_from,
    }))
}

impl Begun {
    async fn end(self, writer: &Writer, guests: &Guests) -> Result<Findings, RehearsalError> {
        let live = writer.views().get().ok_or(RehearsalError::NotYet)?;
        let metrics = Arc::clone(&guests.metrics);
        Ok(writer.stage().try_out(self.0, live, metrics).await?)
    }
}

impl Cluster {
    /// Has another shard try content. Returns what it found.
    async fn has_rehearsed(
        &self,
        shard: Ordinal,
        files: &Files,
        rehearsal: &Rehearsal,
    ) -> Result<serde_json::Value, String> {
        let ask = PeerRequest::Rehearse {
            files: BTreeMap::clone(files.contents()),
            terms: rehearsal.into(),
        };
        let asked = timeout(rehearsal.time + PATIENCE, self.ask(shard, &ask)).await;
        match asked.map_err(|_| "it does not answer in time".to_owned())? {
            Ok(PeerResponse::Rehearsed { findings }) => {
                let found = serde_json::from_str(&findings);
                found.map_err(|_| AskError::Answer.to_string())
            }
            Ok(PeerResponse::Later { reason }) => Err(reason),
            Ok(_) => Err(AskError::Answer.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Tries content here, for another shard.
    pub(super) async fn rehearse_here(
        &self,
        files: BTreeMap<String, Bytes>,
        terms: Terms,
    ) -> PeerResponse {
        let refused = |reason| PeerResponse::Later { reason };
        let Some(rehearsal) = terms.rehearsal() else {
            return refused("there is no such rehearsal here".to_owned());
        };
        let (guests, writer) = (&self.0.guests, &self.0.writer);
        let files = Files::new(files);
        let found = async {
            let begun = begin(guests, writer, &files, &rehearsal).await?;
            begun.end(writer, guests).await
        };
        match found.await {
            Ok(found) => PeerResponse::Rehearsed {
                findings: serde_json::json!(found).to_string(),
            },
            Err(error) => refused(with_causes(&error)),
        }
    }
}
