//! Compiling: one component at a time, in a child process that can do nothing
//! else, within limits of memory and time.

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
    /// How many wait for a turn, or have it, that a trial gives way to.
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

/// What a component is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To serve, or to say where partitions are.
    Serve,
    /// To be asked what it would change: it gives way to the others.
    Trial,
}

/// What compiling a component may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory, in bytes.
    pub memory: usize,
    /// Processor time, of all threads together.
    pub cpu: Duration,
    /// Time, from when its turn comes.
    pub deadline: Duration,
}

impl Limits {
    /// Those of a generation's settings.
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
    /// Compiles in child processes of this program, which must be `ostrakon`.
    /// `attempts` remembers what this process did not survive.
    pub fn in_children(attempts: Option<Attempts>, metrics: Option<Arc<Metrics>>) -> Self {
        Self::new(Mode::Children(attempts), metrics)
    }

    /// Compiles on the calling thread, whatever it takes: for tests of trusted
    /// components, where this program is another one.
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

    /// Compiles a component that was examined, or takes its compiled form from
    /// the cache. Dropping the future ends it.
    ///
    /// # Errors
    /// When the bytes are not a valid component, or compiling them takes too
    /// much.
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

    /// Returns when nothing is being compiled, and no note is left that it was.
    pub async fn rest(&self) {
        drop(self.0.turn.acquire().await);
    }

    /// Waits for its turn, and makes the code.
    async fn in_turn(
        &self,
        digest: Digest,
        component: &Bytes,
        limits: Limits,
    ) -> Result<Vec<u8>, CompileError> {
        let turn = Arc::clone(&self.0.turn).acquire_owned().await;
        let turn = turn.expect("it is never closed");
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

/// One that a trial gives way to, until it is dropped.
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

/// Counts how compiling ended, also where whoever waits for it goes.
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
