//! The engine that compiles and runs guests, and its clock.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::thread;
use std::time::Duration;

use wasmtime::Config;
use wasmtime::component::Linker;

use super::bindings::Service;
use super::compiler::CompileError;
use super::context::{Context, HasContext};
use super::polls;

/// The precision of a guest's deadline.
const TICK: Duration = Duration::from_millis(1);
const TICKS_PER_SECOND: u64 = 1000;

/// The clock stops after this many ticks without a call.
const IDLE_TICKS: u32 = 100;

/// The limit on the stack of a guest's own frames, in bytes.
const MAX_WASM_STACK: usize = 512 << 10;

/// The engine cannot run on this machine.
#[derive(Debug, thiserror::Error)]
#[error("guests cannot run on this machine: {0}")]
pub struct EngineError(String);

impl EngineError {
    fn new(error: impl std::fmt::Display) -> Self {
        Self(format!("{error:#}"))
    }
}

/// The configuration for both compiling and running guests.
fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(MAX_WASM_STACK)
        .async_stack_size(MAX_WASM_STACK + (512 << 10));
    config
}

/// Compiles a component without any limit on memory and time. Only returns the compiled bytes: no
/// code is loaded.
///
/// # Errors
/// If the bytes are not a valid component, in the compiler's words.
pub fn translate(component: &[u8]) -> Result<Vec<u8>, CompileError> {
    let engine = wasmtime::Engine::new(&config());
    let engine = engine.map_err(|error| CompileError::Crashed(format!("{error:#}")))?;
    let code = engine.precompile_component(component);
    code.map_err(|error| {
        let mut reason = format!("{error:#}");
        if reason.contains("async") {
            reason.push_str(
                ": this host calls guests without the component model's async ABI, so build the \
                 guest with synchronous functions",
            );
        }
        CompileError::Invalid(reason)
    })
}

/// Runs guests' calls within deadlines, with code that was compiled for this engine. Clones share
/// the engine.
#[derive(Clone)]
pub struct Engine {
    pub(super) wasmtime: wasmtime::Engine,
    pub(super) linker: Arc<Linker<Context>>,
    clock: Arc<Clock>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine for this machine's processor. Its clock is a thread that ends when the last
    /// clone is dropped.
    ///
    /// # Errors
    /// If this processor or system cannot run the engine.
    pub fn new() -> Result<Self, EngineError> {
        let wasmtime = wasmtime::Engine::new(&config()).map_err(EngineError::new)?;
        let mut linker = Linker::new(&wasmtime);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(EngineError::new)?;
        polls::add_to_linker(&mut linker).map_err(EngineError::new)?;
        Service::add_to_linker::<_, HasContext>(&mut linker, |context| context)
            .map_err(EngineError::new)?;
        let clock = Clock::start(wasmtime.clone()).map_err(EngineError::new)?;
        Ok(Self {
            wasmtime,
            linker: Arc::new(linker),
            clock,
        })
    }

    /// The number of ticks after which a call that starts now has used up `deadline`.
    pub(super) fn ticks(deadline: Duration) -> u64 {
        // In this form, as a division of 128 bits takes dozens of nanoseconds.
        let part = deadline.subsec_nanos().div_ceil(TICK.subsec_nanos());
        let ticks = deadline.as_secs().saturating_mul(TICKS_PER_SECOND);
        // One more, since the current tick may be almost over.
        ticks.saturating_add(u64::from(part) + 1)
    }

    /// Keeps the clock running for a call, until dropped.
    pub(super) fn calling(&self) -> Calling<'_> {
        self.clock.active.fetch_add(1, Ordering::SeqCst);
        if self.clock.asleep.load(Ordering::SeqCst) {
            self.clock.thread.unpark();
        }
        Calling(&self.clock)
    }

    /// Identifies everything that compiled code depends on besides the component: the version of
    /// wasmtime, its settings and the processor's features.
    pub(super) fn compatibility(&self) -> u64 {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        BuildHasherDefault::<DefaultHasher>::new()
            .hash_one(self.wasmtime.precompile_compatibility_hash())
    }
}

/// A thread that advances the engine's epoch once per [`TICK`] during calls, and otherwise
/// sleeps.
struct Clock {
    thread: thread::Thread,
    active: AtomicUsize,
    asleep: AtomicBool,
}

/// A call in progress: the clock ticks while there is one.
pub(super) struct Calling<'a>(&'a Clock);

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Clock {
    fn start(engine: wasmtime::Engine) -> std::io::Result<Arc<Self>> {
        let (sender, receiver) = mpsc::sync_channel::<Weak<Self>>(1);
        let thread = thread::Builder::new()
            .name("guest-clock".to_owned())
            .spawn(move || {
                if let Ok(clock) = receiver.recv() {
                    run(&engine, &clock);
                }
            })?;
        let clock = Arc::new(Self {
            thread: thread.thread().clone(),
            active: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
        });
        sender
            .send(Arc::downgrade(&clock))
            .expect("the thread waits for its clock");
        Ok(clock)
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.thread.unpark();
    }
}

/// Runs until the clock is dropped.
fn run(engine: &wasmtime::Engine, clock: &Weak<Clock>) {
    let mut idle = 0;
    while let Some(clock) = clock.upgrade() {
        if clock.active.load(Ordering::SeqCst) > 0 {
            idle = 0;
        } else {
            idle += 1;
        }
        if idle >= IDLE_TICKS {
            clock.asleep.store(true, Ordering::SeqCst);
            let still_idle = clock.active.load(Ordering::SeqCst) == 0;
            let asleep = Arc::downgrade(&clock);
            drop(clock);
            // If a call starts or the clock is dropped before this thread parks, the unpark token
            // ends the parking at once.
            if still_idle && asleep.strong_count() > 0 {
                thread::park();
            }
            if let Some(clock) = asleep.upgrade() {
                clock.asleep.store(false, Ordering::SeqCst);
            }
            idle = 0;
        } else {
            drop(clock);
        }
        thread::sleep(TICK);
        engine.increment_epoch();
    }
}

#[cfg(test)]
mod tests {
    use wasm_encoder::{
        Alias, CanonicalFunctionSection, CanonicalOption, CodeSection, Component,
        ComponentAliasSection, ComponentTypeSection, ExportKind, ExportSection, Function,
        FunctionSection, InstanceSection, Module, ModuleArg, ModuleSection, TypeSection,
    };

    use super::*;

    #[test]
    fn a_guest_of_the_async_abi_is_refused_with_what_to_do() {
        let mut module = Module::new();
        let (mut types, mut functions) = (TypeSection::new(), FunctionSection::new());
        types.ty().function([], []);
        functions.function(0);
        let mut exports = ExportSection::new();
        exports.export("f", ExportKind::Func, 0);
        let mut code = CodeSection::new();
        let mut body = Function::new([]);
        body.instructions().end();
        code.function(&body);
        module
            .section(&types)
            .section(&functions)
            .section(&exports)
            .section(&code);
        let mut instances = InstanceSection::new();
        instances.instantiate(0, std::iter::empty::<(&str, ModuleArg)>());
        let mut aliases = ComponentAliasSection::new();
        aliases.alias(Alias::CoreInstanceExport {
            instance: 0,
            kind: ExportKind::Func,
            name: "f",
        });
        let mut of_component = ComponentTypeSection::new();
        of_component
            .function()
            .params(std::iter::empty::<(&str, wasm_encoder::ComponentValType)>())
            .result(None);
        let mut lifted = CanonicalFunctionSection::new();
        lifted.lift(0, 0, [CanonicalOption::Async]);
        let mut component = Component::new();
        component
            .section(&ModuleSection(&module))
            .section(&instances)
            .section(&aliases)
            .section(&of_component)
            .section(&lifted);
        let refused = translate(&component.finish()).expect_err("it is refused");
        let said = refused.to_string();
        assert!(said.contains("with synchronous functions"), "{said}");
    }
}
