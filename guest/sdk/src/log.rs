//! The host's log.
//!
//! [`write()`] takes a text as it is; the macros [`debug!`](crate::debug), [`info!`](crate::info),
//! [`warn!`](macro@crate::warn) and [`error!`](macro@crate::error) take what `format!` takes.

pub use crate::bindings::ostrakon::shard::log::Level;
use crate::imports;

/// Writes a line. The host cuts it at 4 KiB, and drops and counts lines beyond 100 a second.
pub fn write(level: Level, message: &str) {
    imports::log_write(level, message);
}

/// Writes a line at level debug; takes what `format!` takes.
#[macro_export]
macro_rules! debug {
    ($($message:tt)*) => { $crate::log::write($crate::log::Level::Debug, &::std::format!($($message)*)) };
}

/// Writes a line at level info; takes what `format!` takes.
#[macro_export]
macro_rules! info {
    ($($message:tt)*) => { $crate::log::write($crate::log::Level::Info, &::std::format!($($message)*)) };
}

/// Writes a line at level warn; takes what `format!` takes.
#[macro_export]
macro_rules! warn {
    ($($message:tt)*) => { $crate::log::write($crate::log::Level::Warn, &::std::format!($($message)*)) };
}

/// Writes a line at level error; takes what `format!` takes.
#[macro_export]
macro_rules! error {
    ($($message:tt)*) => { $crate::log::write($crate::log::Level::Error, &::std::format!($($message)*)) };
}
