//! From the component's exports to the guest.

use std::{cell::Cell, panic};

use crate::{
    Description, Error, Guest, Migration, Part, Request, RequestLine, Response, Result, Route,
    Settings, Shard,
    log::{self, Level},
};

/// Makes a type that implements [`Guest`](crate::Guest) the component's logic. Once in a crate, whose type is `cdylib`.
#[macro_export]
macro_rules! export {
    ($guest:ty) => {
        // Compiled natively, a guest is a library for tests and exports nothing.
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            ::std::thread_local! {
                static GUEST: ::std::cell::OnceCell<$guest> = const { ::std::cell::OnceCell::new() };
            }
            struct Instance;
            impl $crate::exports::Instance for Instance {
                type Guest = $guest;
                fn with<T>(call: impl FnOnce(&::std::cell::OnceCell<$guest>) -> T) -> T {
                    GUEST.with(call)
                }
            }
            type Exports = $crate::exports::Exports<Instance>;
            $crate::bindings::export_service!(Exports with_types_in $crate::bindings);
        };
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = $crate::exports::is_guest::<$guest>();
    };
}

/// Compiles where a type is a guest: so the macro says natively, too, what is wrong.
pub const fn is_guest<G: Guest>() {}

/// Where an instance of the component keeps its guest.
pub trait Instance {
    /// The guest's type.
    type Guest: Guest;

    /// Calls with the cell that holds the guest once it is made.
    fn with<T>(call: impl FnOnce(&std::cell::OnceCell<Self::Guest>) -> T) -> T;
}

/// The component's exports, over the guest that an instance keeps.
pub struct Exports<I>(std::marker::PhantomData<I>);

impl<I: Instance> Exports<I> {
    fn guest<T>(call: impl FnOnce(&I::Guest) -> T) -> Result<T, String> {
        report_panics();
        I::with(|cell| {
            if let Some(guest) = cell.get() {
                return Ok(call(guest));
            }
            let guest = I::Guest::new(&Settings(()))?;
            Ok(call(cell.get_or_init(|| guest)))
        })
    }

    /// For all exports that come after `check`, which has found the settings to be good.
    fn checked<T>(call: impl FnOnce(&I::Guest) -> T) -> T {
        match Self::guest(call) {
            Ok(result) => result,
            Err(reason) => panic::panic_any(reason),
        }
    }
}

impl<I: Instance> crate::bindings::Guest for Exports<I> {
    fn describe() -> Description {
        report_panics();
        I::Guest::describe(&Settings(()))
    }

    fn check() -> Result<(), String> {
        Self::guest(Guest::check)?
    }

    fn owner(partition: Vec<u8>, shards: u32) -> u32 {
        Self::checked(|guest| guest.owner(&partition, shards))
    }

    fn route(method: String, path_with_query: String) -> Route {
        Self::checked(|guest| guest.route(&RequestLine::new(method, path_with_query)))
    }

    fn handle(method: String, path_with_query: String, body: Vec<u8>) -> Response {
        let request = Request::new(RequestLine::new(method, path_with_query), body);
        Self::checked(|guest| reply(guest.handle(&request)))
    }

    fn gather(method: String, path_with_query: String, parts: Vec<Part>) -> Response {
        let request = Request::new(RequestLine::new(method, path_with_query), Vec::new());
        Self::checked(|guest| reply(guest.gather(&request, parts)))
    }

    fn migrate(from: u32) -> Result<(), String> {
        Self::guest(|guest| guest.migrate(from, &Migration(Shard(()))))?
    }
}

pub(crate) fn reply(result: Result<Response, Error>) -> Response {
    result.unwrap_or_else(Response::from)
}

/// Sees to it that the host's log says why a guest panicked: the trap that follows says nothing.
fn report_panics() {
    thread_local!(static REPORTED: Cell<bool> = const { Cell::new(false) });
    if REPORTED.replace(true) {
        return;
    }
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
