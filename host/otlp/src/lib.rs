//! Exporting spans to a collector by OTLP: protobuf over HTTP/1.1.
//!
//! | task | ends | its failure |
//! | --- | --- | --- |
//! | the exporter, on a thread and runtime of its own, of lower priority | by `Exporter::end`, or with the last tracer | what the collector does not take is dropped and counted |

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

/// The most spans that wait: some megabytes at most.
const ROOM: usize = 4096;

/// How long the last spans may take to be sent when the process ends.
const LAST: Duration = Duration::from_secs(1);

/// Where spans go, and what is said of all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The collector.
    pub endpoint: Endpoint,
    /// More headers for it. Their values are marked as sensitive.
    pub headers: HeaderMap,
    /// `service.name`.
    pub service: String,
    /// More attributes of the resource, which is this process.
    pub attributes: Vec<(String, String)>,
    /// Which traces are recorded.
    pub sampler: Sampler,
}

/// The exporter's thread.
#[derive(Debug)]
pub struct Exporter {
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Exporter {
    /// Starts exporting for shard `ordinal`; gives the tracer whose spans are exported.
    ///
    /// # Errors
    /// When the system has no thread or event queue to give.
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
                // A name that is being looked up is not waited for.
                runtime.shutdown_background();
                // Nobody may wait for it.
                let _ = done.send(());
            })?;
        Ok((tracer, Self { end, ended }))
    }

    /// Sends what waits, and ends; within a second, also where the collector hangs.
    pub async fn end(self) {
        // It has ended already, or it hears it.
        let _ = self.end.send(());
        let _ = tokio::time::timeout(LAST, self.ended).await;
    }
}
