//! The exporter's loop: gathers a batch, sends it, repeats.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, StatusCode};
use ostrakon_network::http::client;
use ostrakon_observe::metrics::{Metrics, Unexported};
use ostrakon_observe::trace::{Queue, Span};
use prost::Message as _;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::message::{Export, KeyValue, Resource, ResourceSpans, Scope, ScopeSpans};
use super::{Endpoint, Options};

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// The sizes and times by which spans are gathered and sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The most spans in one request.
    pub(super) batch: usize,
    /// How long the first span of a batch waits for others.
    pub(super) gather: Duration,
    /// How long the collector may take to answer.
    pub(super) patience: Duration,
    /// How often a batch is sent at most, and the first pause between attempts, which doubles.
    pub(super) attempts: u32,
    pub(super) pause: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            batch: 512,
            gather: Duration::from_secs(1),
            patience: Duration::from_secs(10),
            attempts: 4,
            pause: Duration::from_secs(1),
        }
    }
}

pub(super) struct Sending {
    endpoint: Endpoint,
    headers: http::HeaderMap,
    resource: Resource,
    metrics: Arc<Metrics>,
    pace: Pace,
    /// Whether the last batch was rejected. A run of failures is logged once.
    is_failing: bool,
}

#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error("the collector did not answer in time")]
    Late,
    #[error("the collector answered {0}")]
    Status(StatusCode),
}

impl NotTaken {
    /// Whether OTLP permits sending the batch again.
    fn may_pass(&self) -> bool {
        match self {
            Self::Client(_) | Self::Late => true,
            Self::Status(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
        }
    }
}

impl Sending {
    pub(super) fn new(options: &Options, ordinal: u32, metrics: Arc<Metrics>, pace: Pace) -> Self {
        let own = [
            ("service.name", options.service.clone()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id", ordinal.to_string()),
        ];
        let is_given = |key: &str| options.attributes.iter().any(|(given, _)| given == key);
        let own = own
            .into_iter()
            .filter(|(key, _)| *key == "service.name" || !is_given(key))
            .map(|(key, value)| KeyValue::new(key, value.into()));
        let given = options
            .attributes
            .iter()
            .filter(|(key, _)| key != "service.name")
            .map(|(key, value)| KeyValue::new(key, value.clone().into()));
        let shard = KeyValue::new("ostrakon.shard", ordinal.into());
        Self {
            endpoint: options.endpoint.clone(),
            headers: options.headers.clone(),
            resource: Resource {
                attributes: own.chain([shard]).chain(given).collect(),
            },
            metrics,
            pace,
            is_failing: false,
        }
    }

    /// Sends spans until told to end, and then sends the queued rest once; or until no more spans
    /// can arrive.
    pub(super) async fn run(mut self, mut queue: Queue, told: oneshot::Receiver<()>) {
        let mut batch = Vec::new();
        let going_on = async {
            while self.gather(&mut queue, &mut batch).await {
                self.export(&mut batch, &queue).await;
            }
        };
        tokio::select! {
            biased;
            _ = told => {}
            () = going_on => {}
        }
        // One attempt for each of the last batches, so that the end of the process is not delayed
        // for long.
        self.pace.attempts = 1;
        loop {
            let room = self.pace.batch.saturating_sub(batch.len());
            let more = (0..room).map_while(|_| queue.spans.try_recv().ok());
            batch.extend(more);
            if batch.is_empty() {
                self.count_dropped(&queue);
                return;
            }
            self.export(&mut batch, &queue).await;
        }
    }

    /// Waits for a batch. Returns whether there is one.
    async fn gather(&self, queue: &mut Queue, batch: &mut Vec<Span>) -> bool {
        if queue.spans.recv_many(batch, self.pace.batch).await == 0 {
            return false;
        }
        let until = Instant::now() + self.pace.gather;
        while batch.len() < self.pace.batch {
            let room = self.pace.batch - batch.len();
            match timeout_at(until, queue.spans.recv_many(batch, room)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        true
    }

    /// Sends the batch or drops it. It is empty afterwards.
    async fn export(&mut self, batch: &mut Vec<Span>, queue: &Queue) {
        let body = self.encode(batch);
        let mut pause = self.pace.pause;
        for attempt in 1.. {
            match self.send(body.clone()).await {
                Ok(()) => {
                    self.metrics.spans_exported(batch.len() as u64);
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!("the collector accepts spans again");
                    }
                    break;
                }
                Err(error) if attempt >= self.pace.attempts || !error.may_pass() => {
                    let spans = batch.len();
                    self.metrics
                        .spans_dropped(Unexported::Refused, spans as u64);
                    if !std::mem::replace(&mut self.is_failing, true) {
                        tracing::warn!(%error, spans, "spans are not exported and were dropped");
                    }
                    break;
                }
                Err(error) => {
                    tracing::debug!(%error, ?pause, "spans were not accepted and will be sent again");
                }
            }
            self.count_dropped(queue);
            sleep(pause).await;
            pause *= 2;
        }
        batch.clear();
        self.count_dropped(queue);
    }

    fn count_dropped(&self, queue: &Queue) {
        let dropped = queue.take_dropped();
        self.metrics.spans_dropped(Unexported::QueueFull, dropped);
    }

    fn encode(&self, batch: &[Span]) -> Bytes {
        let scope = Scope {
            name: "ostrakon".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let spans = ScopeSpans {
            scope: Some(scope),
            spans: batch.iter().cloned().map(Into::into).collect(),
        };
        let export = Export {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![spans],
            }],
        };
        Bytes::from(export.encode_to_vec())
    }

    async fn send(&self, body: Bytes) -> Result<(), NotTaken> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.path.clone().into();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(CONTENT_TYPE, PROTOBUF);
        let delivered = client::deliver(&self.endpoint.authority, request);
        let delivered = timeout(self.pace.patience, delivered).await;
        let (status, _) = delivered.map_err(|_| NotTaken::Late)??;
        if status.is_success() {
            Ok(())
        } else {
            Err(NotTaken::Status(status))
        }
    }
}
