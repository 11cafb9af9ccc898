//! The ways in which a call of a guest can fail.

use ostrakon_settings::settings::Settings;
use ostrakon_store::ReadError;
use wasmtime::Trap;
use wasmtime::component::ResourceTableError;

use super::context::MAX_HANDLES;
use super::meter::{self, Excess};

/// wasmtime's message for a guest that passes more data than the store's fuel for host calls
/// allows. No error type identifies this case; tests check that the message is still the same.
const FUEL: &str = "fuel allocated for hostcalls has been exhausted";

/// Why a guest gave no valid reply. None of the request's writes are stored.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The guest trapped: a panic, an illegal operation, or a misuse of an import.
    #[error("the guest trapped: {0}")]
    Trap(String),
    /// The guest hit its memory limit and trapped, or made the host hold too much.
    #[error("the guest ran out of memory: {0}")]
    Memory(String),
    #[error("the guest did not answer in time")]
    Deadline,
    #[error("the guest's reply cannot be sent: {0}")]
    Reply(String),
    /// The guest routed the request to a partition whose key is empty or too long.
    #[error("the partition key has {0} bytes: give it 1 to {1}")]
    PartitionKey(usize, usize),
    /// The data could not be read, or not with this opening of the store.
    #[error("the data cannot be read")]
    Store(#[source] ReadError),
}

impl Failure {
    /// Derives the failure from wasmtime's error for a call that ended early.
    pub(super) fn of(error: wasmtime::Error, memory_denied: bool, settings: &Settings) -> Self {
        let error = match error.downcast::<ReadError>() {
            Ok(error) => return Self::Store(error),
            Err(error) => error,
        };
        let text = match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => return Self::Deadline,
            Some(trap) => trap.to_string(),
            // The first line of the chain is a wasm backtrace.
            None => error.root_cause().to_string(),
        };
        if let Some(ResourceTableError::Full) = error.downcast_ref() {
            return Self::Memory(format!(
                "it holds more than {MAX_HANDLES} handles: make it drop those that it no longer needs"
            ));
        }
        if error.is::<Excess>() {
            return Self::Memory(text);
        }
        if text.contains(FUEL) {
            let (most, by) = meter::most_by(settings);
            return Self::Memory(format!(
                "it passes more than {most} bytes in one call, a limit that follows from {by}: pass less at once"
            ));
        }
        if memory_denied {
            Self::Memory(text)
        } else {
            Self::Trap(text)
        }
    }

    /// Whether the instance can be called again.
    pub(super) fn is_harmless(&self) -> bool {
        matches!(self, Self::Reply(_) | Self::PartitionKey(..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: the message was "a quarter of its memory" even if another setting decided.
    #[test]
    fn what_may_be_handed_over_is_told_in_bytes_with_the_setting_that_decides_it() {
        for (settings, told) in [
            (
                "guest.max_memory = '64MiB'",
                "18874368 bytes in one call, a limit that follows from guest.max_memory",
            ),
            (
                "guest.max_memory = '16MiB'\nguest.max_reply_bytes = '9MiB'\nstore.max_value_bytes = '1MiB'",
                "11534336 bytes in one call, a limit that follows from guest.max_reply_bytes",
            ),
            (
                "guest.max_memory = '16MiB'\nguest.max_reply_bytes = '1MiB'\nstore.max_value_bytes = '9MiB'",
                "bytes in one call, a limit that follows from store.max_value_bytes",
            ),
        ] {
            let settings = Settings::parse(settings).expect("they are valid");
            let error = wasmtime::Error::msg(FUEL);
            let said = Failure::of(error, false, &settings).to_string();
            assert!(said.contains(told), "{said}");
        }
    }
}
