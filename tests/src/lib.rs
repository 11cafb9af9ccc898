//! What the tests and the project's own commands share.

pub mod client;
pub mod host;
pub mod load;
pub mod volume;
