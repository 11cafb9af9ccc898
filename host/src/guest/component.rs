//! A component on its way to serve: compiled, then linked.

use bytes::Bytes;
use wasmtime::component::Component;

use super::bindings::ServicePre;
use super::cache::Cache;
use super::context::Context;
use super::engine::Engine;
use crate::blocking::blocking;
use crate::digest::Digest;

/// A component does not compile.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(String);

/// A component's imports or exports are not those of the contract.
#[derive(Debug, thiserror::Error)]
#[error("{0}: build it for world ostrakon:shard/service@0.1.0")]
pub struct LinkError(String);

/// A compiled component.
#[derive(Clone)]
pub struct Compiled {
    component: Component,
    digest: Digest,
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_tuple("Compiled")
            .field(&self.digest)
            .finish()
    }
}

impl Compiled {
    /// Compiles a component, or takes its compiled form from the cache. Takes
    /// a processor for 15 ms per 24 KB, in parallel: not for a runtime's worker
    /// thread.
    ///
    /// # Errors
    /// When the bytes are not a valid component.
    pub fn new(
        engine: &Engine,
        cache: Option<&Cache>,
        digest: Digest,
        component: &[u8],
    ) -> Result<Self, CompileError> {
        if let Some(component) = cache.and_then(|cache| cache.compiled(engine, &digest)) {
            return Ok(Self { component, digest });
        }
        let component = Component::new(&engine.wasmtime, component)
            .map_err(|error| CompileError(format!("{error:#}")))?;
        Ok(Self { component, digest })
    }

    /// The same on a thread for that.
    ///
    /// # Errors
    /// As [`Compiled::new`].
    pub async fn apart(
        engine: &Engine,
        cache: &Cache,
        digest: Digest,
        component: &Bytes,
    ) -> Result<Self, CompileError> {
        let (engine, cache, component) = (engine.clone(), cache.clone(), component.clone());
        blocking(move || Self::new(&engine, Some(&cache), digest, &component)).await
    }

    /// Puts the compiled form into the cache, if it is not there. A failure
    /// costs the next start the time of compiling, so it is only logged.
    pub fn keep(&self, engine: &Engine, cache: &Cache) {
        match self.component.serialize() {
            Ok(code) => cache.keep_compiled(engine, &self.digest, &code),
            Err(error) => tracing::warn!(%error, "the compiled guest cannot be serialised"),
        }
    }

    /// Fits the component's imports and exports to the contract.
    ///
    /// # Errors
    /// Says which import or export is missing or of the wrong type.
    pub fn link(&self, engine: &Engine) -> Result<Linked, LinkError> {
        let explain = |error: wasmtime::Error| LinkError(format!("{error:#}"));
        let pre = engine
            .linker
            .instantiate_pre(&self.component)
            .map_err(explain)?;
        let pre = ServicePre::new(pre).map_err(explain)?;
        Ok(Linked {
            pre,
            engine: engine.clone(),
        })
    }
}

/// A component that can be instantiated.
#[derive(Clone)]
pub struct Linked {
    pub(super) pre: ServicePre<Context>,
    pub(super) engine: Engine,
}

impl std::fmt::Debug for Linked {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Linked").finish_non_exhaustive()
    }
}
