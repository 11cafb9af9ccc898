//! Small utilities that several crates share. They depend on none of those crates.

pub mod blocking;
pub mod causes;
pub mod full;
pub mod recency;
pub mod priority;
pub mod regular;
pub mod signals;
pub mod stored;
pub mod unix_time;
pub mod printable;
pub mod digest;
