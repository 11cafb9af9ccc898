//! Gets a component's description of itself, without a shard.

use std::sync::Arc;

use bytes::Bytes;
use ostrakon_base::digest::Digest;
use ostrakon_contract::contract::Description;
use ostrakon_observe::metrics::Metrics;
use ostrakon_settings::settings::Settings;
use ostrakon_volumes::secrets::Secrets;

use super::compiler::{CompileError, Compiler, Limits, Purpose};
use super::component::LinkError;
use super::context::{Environment, Identity};
use super::engine::{Engine, EngineError};
use super::failure::Failure;
use super::instance::Instance;
use super::log::GuestLog;

/// Calls `describe` of a component that passed [`examine`](crate::examine), without settings and
/// secrets.
///
/// # Errors
/// If the component cannot be compiled or linked, or its `describe` fails.
pub async fn describe(component: Bytes, compiler: &Compiler) -> Result<Description, DescribeError> {
    let engine = Engine::new()?;
    let settings = Settings::default();
    let (digest, limits) = (Digest::of(&component), Limits::of(&settings));
    let compiling = compiler.compile(&engine, None, digest, &component, Purpose::Serve, limits);
    let linked = compiling.await?.link(&engine)?;
    let deadline = settings.guest.check_deadline;
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")));
    let lines = settings.guest.log_lines_per_second;
    let log = GuestLog::new("described".to_owned(), lines, Arc::clone(&metrics));
    let environment = Environment {
        settings: Arc::new(settings),
        identity: Identity {
            ordinal: 0,
            shards: 1,
        },
        files: Arc::default(),
        secrets: Secrets::default(),
        metrics,
    };
    let new = Instance::new(
        &engine,
        &linked.pre,
        Arc::new(environment),
        Arc::new(log),
        deadline,
    );
    Ok(new.await?.describe(deadline).await?)
}

/// Why a component's description could not be obtained.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// Guests cannot run on this machine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The component's imports or exports do not match the contract.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// `describe` failed.
    #[error(transparent)]
    Call(#[from] Failure),
}
