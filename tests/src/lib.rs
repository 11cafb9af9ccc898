//! What the tests and the project's own commands share.

pub mod volume;
