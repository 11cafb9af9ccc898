//! What the tests of running hosts and the benches share.

pub mod certificates;
pub mod client;
pub mod cluster;
pub mod host;
pub mod linearizable;
pub mod load;
pub mod net;
pub mod random;
pub mod set;
pub mod tls;
pub mod volume;
