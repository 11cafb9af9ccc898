//! A mounted ConfigMap or Secret, updated the way the kubelet does it.

pub use ostrakon_dev::Volume;
