//! Exports spans to a collector by OTLP: protobuf over HTTP/1.1.
//!
//! | task | ends | its failure |
//! | --- | --- | --- |
//! | the exporter, on a thread and runtime of its own, of lower priority | by `Exporter::end`, or with the last tracer | spans that the collector rejects are dropped and counted |

mod endpoint;
mod message;
mod sending;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use http::HeaderMap;
use tokio::runtime;
use tokio::sync::oneshot;

pub use endpoint::{BadEndpoint, Endpoint, headers, pairs};

use ostrakon_base::priority::lower_priority;
use ostrakon_observe::metrics::Metrics;
use ostrakon_observe::trace::{Sampler, Tracer};
use sending::{Pace, Sending};

/// The most queued spans, which take some megabytes at most.
const ROOM: usize = 4096;

/// How long sending the last spans may take when the process ends.
const LAST: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub endpoint: Endpoint,
    /// Additional headers for the collector. Their values are marked as sensitive.
    pub headers: HeaderMap,
    /// The resource attribute `service.name`.
    pub service: String,
    /// Additional attributes of the resource, which is this process.
    pub attributes: Vec<(String, String)>,
    pub sampler: Sampler,
}

#[derive(Debug)]
pub struct Exporter {
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Exporter {
    /// Starts the exporter of shard `ordinal`, and returns the tracer whose spans it exports.
    ///
    /// # Errors
    /// When the system has no thread or event queue available.
    pub fn start(
        options: &Options,
        ordinal: u32,
        metrics: Arc<Metrics>,
    ) -> io::Result<(Tracer, Self)> {
        let (tracer, queue) = Tracer::new(options.sampler, ROOM);
        let sending = Sending::new(options, ordinal, metrics, Pace::default());
        let (end, told) = oneshot::channel();
        let (done, ended) = oneshot::channel();
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::Builder::new()
            .name("otlp".to_owned())
            .spawn(move || {
                lower_priority();
                runtime.block_on(sending.run(queue, told));
                // A pending name look-up is not waited for.
                runtime.shutdown_background();
                // The receiver may be gone.
                let _ = done.send(());
            })?;
        Ok((tracer, Self { end, ended }))
    }

    /// Sends the queued spans and ends, within a second even if the collector hangs.
    pub async fn end(self) {
        // The thread may have ended already.
        let _ = self.end.send(());
        let _ = tokio::time::timeout(LAST, self.ended).await;
    }
}
