//! A mounted ConfigMap or Secret, updated the way the kubelet does it.

pub use ostrakon::dev::Volume;
