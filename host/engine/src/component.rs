//! Compiled and linked components.

use ostrakon_base::digest::Digest;
use wasmtime::component::Component;

use super::bindings::ServicePre;
use super::cache::Cache;
use super::compiler::CompileError;
use super::context::Context;
use super::engine::Engine;
use super::extent::WORLD;

/// A component's imports or exports do not match the contract.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("{0}: build it for world {world}", world = WORLD)]
    Type(String),
    /// The component imports a function of the contract that this host does not know.
    #[error(
        "the guest needs a later version of the contract than this host's, {world}: upgrade the host first, or build the guest with the SDK of this host's version ({0})",
        world = WORLD
    )]
    Later(String),
}

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
    /// Loads code that was compiled for this engine.
    #[expect(
        unsafe_code,
        reason = "loading compiled code trusts it: this process, or a child that runs the same \
                  program and does nothing else, has just compiled it from the component"
    )]
    pub(super) fn load(engine: &Engine, digest: Digest, code: &[u8]) -> Result<Self, CompileError> {
        // SAFETY: see the reason above.
        let component = unsafe { Component::deserialize(&engine.wasmtime, code) };
        match component {
            Ok(component) => Ok(Self { component, digest }),
            Err(error) => Err(CompileError::Crashed(format!("{error:#}"))),
        }
    }

    /// Loads the compiled form from the cache, if it is there.
    pub(super) fn cached(engine: &Engine, cache: &Cache, digest: Digest) -> Option<Self> {
        let component = cache.compiled(engine, &digest)?;
        Some(Self { component, digest })
    }

    /// Stores the compiled form in the cache, unless it is there. A failure only makes the next
    /// start compile again, so it is only logged.
    pub fn keep(&self, engine: &Engine, cache: &Cache) {
        match self.component.serialize() {
            Ok(code) => cache.keep_compiled(engine, &self.digest, &code),
            Err(error) => tracing::warn!(%error, "the compiled guest cannot be serialised"),
        }
    }

    /// Matches the component's imports and exports against the contract.
    ///
    /// # Errors
    /// Names the import or export that is missing or of the wrong type.
    pub fn link(&self, engine: &Engine) -> Result<Linked, LinkError> {
        let explain = |error: wasmtime::Error| {
            let reason = format!("{error:#}");
            // All that a guest may import was examined, except for what is in these interfaces.
            if reason.contains("`ostrakon:shard/") && reason.contains("implementation is missing") {
                LinkError::Later(reason)
            } else {
                LinkError::Type(reason)
            }
        };
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
