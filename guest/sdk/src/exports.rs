//! Connects the component's exports to the guest.

use std::panic;

use crate::{
    Description, Error, Guest, Migration, Part, Request, RequestHead, Response, Result, Route,
    Settings, Shard, bindings,
    log::{self, Level},
};

/// Makes a type that implements [`Guest`](crate::Guest) the component's logic. Use it once, in a crate of type `cdylib`.
#[macro_export]
macro_rules! export {
    ($guest:ty) => {
        // Compiled natively, a guest is a library for tests and exports nothing.
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            ::std::thread_local! {
                static GUEST: ::std::cell::Cell<Option<&'static $guest>> = const { ::std::cell::Cell::new(None) };
            }
            struct Instance;
            impl $crate::exports::Instance for Instance {
                type Guest = $guest;
                fn get() -> Option<&'static $guest> {
                    GUEST.get()
                }
                fn keep(guest: &'static $guest) {
                    GUEST.set(Some(guest));
                }
            }
            type Exports = $crate::exports::Exports<Instance>;
            $crate::bindings::export_service!(Exports with_types_in $crate::bindings);
        };
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = $crate::exports::is_guest::<$guest>();
    };
}

/// Compiles only if a type is a guest, so that the macro reports errors in native builds, too.
pub const fn is_guest<G: Guest>() {}

/// Keeps an instance's guest for the lifetime of the instance.
pub trait Instance {
    /// The type that the component exports.
    type Guest: Guest;

    /// The guest; `None` before [`keep`](Self::keep) was called.
    fn get() -> Option<&'static Self::Guest>;

    /// Keeps the guest until the instance ends.
    fn keep(guest: &'static Self::Guest);
}

/// The component's exports, for the guest that an instance keeps.
pub struct Exports<I>(std::marker::PhantomData<I>);

impl<I: Instance> Exports<I> {
    /// The guest, which is created in the instance's first call.
    fn start() -> Result<&'static I::Guest, String> {
        if let Some(guest) = I::get() {
            return Ok(guest);
        }
        report_panics();
        let guest = Box::leak(Box::new(I::Guest::new(Settings(()))?));
        I::keep(guest);
        Ok(guest)
    }

    /// The guest, in all exports that run after `check`, which has accepted the settings.
    fn guest() -> &'static I::Guest {
        Self::start().unwrap_or_else(|reason| panic::panic_any(reason))
    }
}

impl<I: Instance> crate::bindings::Guest for Exports<I> {
    fn describe() -> Description {
        report_panics();
        I::Guest::describe(Settings(()))
    }

    fn check() -> Result<(), String> {
        Self::start()?.check()
    }

    fn owner(partition: Vec<u8>, shards: u32) -> u32 {
        Self::guest().owner(&partition, shards)
    }

    fn route(method: String, path_with_query: String) -> Route {
        Self::guest().route(&RequestHead::new(method, path_with_query))
    }

    fn handle(method: String, path_with_query: String, body: Vec<u8>) -> Response {
        let request = Request::new(RequestHead::new(method, path_with_query), body);
        reply(Self::guest().handle(&request))
    }

    fn gather(
        method: String,
        path_with_query: String,
        parts: Vec<bindings::ostrakon::shard::types::Part>,
    ) -> Response {
        let request = Request::new(RequestHead::new(method, path_with_query), Vec::new());
        let parts = parts.into_iter().map(Part::from).collect();
        reply(Self::guest().gather(&request, parts))
    }

    fn migrate(from: u32) -> Result<(), String> {
        Self::start()?.migrate(from, &Migration(Shard(())))
    }
}

pub(crate) fn reply(result: Result<Response, Error>) -> Response {
    result.unwrap_or_else(Response::from)
}

/// Makes the host's log show why a guest panicked, because the trap that follows has no message.
fn report_panics() {
    panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("panic");
        let (file, line) = panic
            .location()
            .map_or(("", 0), |location| (location.file(), location.line()));
        log::write(
            Level::Error,
            &["panic: ", message, ", at ", file, ":", &line.to_string()].concat(),
        );
    }));
}
