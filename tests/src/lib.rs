//! What the tests and the project's own commands share.

pub mod certificates;
pub mod client;
pub mod cluster;
pub mod host;
pub mod linearizable;
pub mod load;
pub mod random;
pub mod volume;
