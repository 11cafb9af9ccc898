//! Keeping what is in this process's memory to itself.

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

/// From now on no failure of this process leaves its memory on a disk, and no other process of the
/// same user, root aside, can look into it or find its environment.
pub(super) fn keep_secrets() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    // A limit of 0 does not count where cores are piped to a program: this does.
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}
