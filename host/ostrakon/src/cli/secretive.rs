//! Keeps the contents of this process's memory secret.

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

/// From now on no crash of this process writes its memory to a disk, and no other process of
/// the same user, except root, can read its memory or environment.
pub(super) fn keep_secrets() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    // A core limit of 0 does not count where cores are piped to a program; this does.
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}
