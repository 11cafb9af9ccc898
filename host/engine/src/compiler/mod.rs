//! Compiles one component at a time, in a confined child process with limits on memory and time.

mod attempts;
mod child;
mod error;
mod room;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};

pub use attempts::Attempts;
pub use error::CompileError;

use ostrakon_base::blocking::Blocking;
use ostrakon_base::digest::Digest;
use ostrakon_observe::metrics::{self, Metrics};
use ostrakon_settings::settings::Settings;

use super::cache::Cache;
use super::component::Compiled;
use super::engine::{Engine, translate};

/// Compiles components, one after another. Clones share the turn.
#[derive(Clone, Debug)]
pub struct Compiler(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    place: Mode,
    turn: Arc<Semaphore>,
    /// The number of compiles that a trial gives way to, waiting or running.
    urgent: watch::Sender<usize>,
    metrics: Option<Arc<Metrics>>,
}

#[derive(Debug)]
enum Mode {
    Here,
    Children(Option<Attempts>),
}

impl Mode {
    fn blocking(&self) -> Blocking {
        match self {
            Self::Here => Blocking::Inline,
            Self::Children(_) => Blocking::OnThreads,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To serve requests, or to compute owners of partitions.
    Serve,
    /// To report what the component would change. Gives way to the others.
    Trial,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub memory: usize,
    /// Processor time, summed over all threads.
    pub cpu: Duration,
    /// Elapsed time, from when its turn comes.
    pub deadline: Duration,
}

impl Limits {
    /// The limits in a generation's settings.
    pub fn of(settings: &Settings) -> Self {
        let guest = &settings.guest;
        Self {
            memory: guest.compile_memory,
            cpu: guest.compile_cpu,
            deadline: guest.compile_deadline,
        }
    }
}

impl Compiler {
    /// Compiles in child processes that run this program, which must be `ostrakon`. `attempts`
    /// records the compiles that this process did not survive.
    pub fn in_children(attempts: Option<Attempts>, metrics: Option<Arc<Metrics>>) -> Self {
        Self::new(Mode::Children(attempts), metrics)
    }

    /// Compiles on the calling thread, without limits: for tests of trusted components, which run
    /// in another program.
    pub fn here() -> Self {
        Self::new(Mode::Here, None)
    }

    fn new(place: Mode, metrics: Option<Arc<Metrics>>) -> Self {
        Self(Arc::new(Inner {
            place,
            turn: Arc::new(Semaphore::new(1)),
            urgent: watch::Sender::default(),
            metrics,
        }))
    }

    /// Compiles a component that passed [`examine`](crate::examine), or takes its compiled form
    /// from the cache. Dropping the future ends the compile.
    ///
    /// # Errors
    /// If the bytes are not a valid component, or compiling them exceeds a limit.
    pub async fn compile(
        &self,
        engine: &Engine,
        cache: Option<&Cache>,
        digest: Digest,
        component: &Bytes,
        purpose: Purpose,
        limits: Limits,
    ) -> Result<Compiled, CompileError> {
        let blocking = self.0.place.blocking();
        if let Some(cache) = cache {
            let (engine, cache) = (engine.clone(), cache.clone());
            let cached = blocking.run(move || Compiled::cached(&engine, &cache, digest));
            if let Some(compiled) = cached.await {
                return Ok(compiled);
            }
        }
        let in_turn = self.in_turn(digest, component, limits);
        let code = match purpose {
            Purpose::Serve => {
                let _urgent = Urgent::new(&self.0.urgent);
                in_turn.await
            }
            Purpose::Trial => {
                let mut urgent = self.0.urgent.subscribe();
                tokio::select! {
                    biased;
                    _ = urgent.wait_for(|urgent| *urgent > 0) => Err(CompileError::GaveWay),
                    code = in_turn => code,
                }
            }
        }?;
        let engine = engine.clone();
        let load = move || Compiled::load(&engine, digest, &code);
        blocking.run(load).await
    }

    /// Returns once nothing is being compiled, and no note of a compile is left.
    pub async fn rest(&self) {
        drop(self.0.turn.acquire().await);
    }

    /// Waits for its turn, then compiles.
    async fn in_turn(
        &self,
        digest: Digest,
        component: &Bytes,
        limits: Limits,
    ) -> Result<Vec<u8>, CompileError> {
        let turn = Arc::clone(&self.0.turn).acquire_owned().await;
        let turn = turn.expect("the semaphore is never closed");
        let mut counted = Counted::new(self.0.metrics.as_ref());
        let component = component.clone();
        let code = match &self.0.place {
            Mode::Here => {
                let _turn = turn;
                translate(&component)
            }
            Mode::Children(attempts) => {
                let attempts = attempts.clone();
                child::compile(child::Work {
                    turn,
                    digest,
                    component,
                    limits,
                    attempts,
                })
                .await
            }
        };
        counted.result = match &code {
            Ok(_) => metrics::Compile::Done,
            Err(error) => error.result(),
        };
        code
    }
}

/// A compile that a trial gives way to, until dropped.
struct Urgent<'a>(&'a watch::Sender<usize>);

impl<'a> Urgent<'a> {
    fn new(urgent: &'a watch::Sender<usize>) -> Self {
        urgent.send_modify(|urgent| *urgent += 1);
        Self(urgent)
    }
}

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|urgent| *urgent -= 1);
    }
}

/// Counts how a compile ended, even if its caller is dropped.
struct Counted<'a> {
    metrics: Option<&'a Arc<Metrics>>,
    since: Instant,
    result: metrics::Compile,
}

impl<'a> Counted<'a> {
    fn new(metrics: Option<&'a Arc<Metrics>>) -> Self {
        Self {
            metrics,
            since: Instant::now(),
            result: metrics::Compile::Unwanted,
        }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if let Some(metrics) = self.metrics {
            metrics.compiled(self.result, self.since.elapsed());
        }
    }
}

#[cfg(test)]
mod tests;
