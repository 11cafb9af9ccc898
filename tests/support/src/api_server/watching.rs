//! A watch: lines with changes, for as long as the request specified.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::Shared;
use super::question::Question;
use super::refusal::Refusal;

/// A response body, streamed or whole. An error cuts the connection.
pub(super) struct Said(mpsc::UnboundedReceiver<Result<Bytes, Cut>>);

#[derive(Debug)]
pub(super) struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("cut")
    }
}

impl std::error::Error for Cut {}

impl Said {
    /// A whole body at once.
    pub(super) fn whole(body: &Value) -> Self {
        let (say, said) = mpsc::unbounded_channel();
        let _ = say.send(Ok(Bytes::from(body.to_string())));
        Self(said)
    }
}

impl Body for Said {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let said = self.0.poll_recv(context);
        said.map(|said| said.map(|said| said.map(Frame::data)))
    }
}

pub(super) fn watch(shared: &Arc<Shared>, question: Question) -> Result<Said, Refusal> {
    let version = question.version.as_deref().unwrap_or_default();
    let from = version.parse();
    let from: u64 = from.map_err(|_| Refusal::new(400, "resourceVersion: invalid"))?;
    let now = shared.world().version();
    if from > now {
        let message = format!("Too large resource version: {from}, current: {now}");
        return Err(Refusal::new(504, message));
    }
    let (say, said) = mpsc::unbounded_channel();
    let shared = Arc::clone(shared);
    tokio::spawn(async move { go_on(&shared, &question, from, &say).await });
    Ok(Said(said))
}

type Say = mpsc::UnboundedSender<Result<Bytes, Cut>>;

/// Runs a watch until its time is over or the client is gone.
async fn go_on(shared: &Shared, question: &Question, mut from: u64, say: &Say) {
    let mut news = shared.news.subscribe();
    let seconds = Duration::from_secs(question.seconds.unwrap_or(1800));
    let at_most = shared.faults().watch_at_most.unwrap_or(seconds);
    let end = Instant::now() + seconds.min(at_most);
    let mut said = Instant::now();
    loop {
        news.mark_unchanged();
        let faults = shared.faults().clone();
        if faults.is_silent {
            tokio::select! {
                _ = news.changed() => continue,
                () = say.closed() => return,
            }
        }
        let (changes, version) = {
            let world = shared.world();
            (world.since(from, question.name.as_deref()), world.version())
        };
        let Some(changes) = changes else {
            let message = format!("too old resource version: {from} ({version})");
            let gone = Refusal::new(410, message).body();
            line(say, &json!({ "type": "ERROR", "object": gone }));
            return;
        };
        for change in changes {
            sleep(faults.delay).await;
            let event = json!({ "type": change.kind, "object": change.object });
            if faults.breaks_lines {
                let half = event.to_string();
                let _ = say.send(Ok(Bytes::from(half[..half.len() / 2].to_owned())));
                // Gives the client time to read the half line before the cut.
                sleep(Duration::from_millis(5)).await;
                let _ = say.send(Err(Cut));
                return;
            }
            from = change.version;
            said = Instant::now();
            line(say, &event);
        }
        let bookmark = faults.bookmark_every.filter(|_| question.bookmarks);
        let bookmark = bookmark.map_or(end, |every| said + every);
        tokio::select! {
            _ = news.changed() => {}
            () = say.closed() => return,
            () = sleep_until(end) => return,
            () = sleep_until(bookmark) => {
                from = version;
                said = Instant::now();
                let metadata = json!({
                    "resourceVersion": version.to_string(), "creationTimestamp": null
                });
                line(say, &json!({ "type": "BOOKMARK", "object": {
                    "kind": "StatefulSet", "apiVersion": "apps/v1", "metadata": metadata,
                    "spec": { "serviceName": "" }, "status": { "replicas": 0 },
                }}));
            }
        }
    }
}

fn line(say: &Say, event: &Value) {
    // The client may be gone, which the loop above notices.
    let _ = say.send(Ok(Bytes::from(format!("{event}\n"))));
}
