//! Confines a process before it reads untrusted input: it can only compute, and use the three
//! descriptors that it was started with.
//!
//! Nothing can undo the confinement. A fault in the code that runs afterwards can waste the
//! memory and time that the process was given, and can send anything to the parent process, but
//! it reaches nothing else.

use std::fs;
use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

/// Addresses beyond the memory limit, for libraries and for what allocators reserve.
const UNUSED_ADDRESSES: u64 = 4 << 30;

/// What a process may use from now on.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The process's own memory, in bytes.
    pub memory: u64,
    /// Processor time, in seconds.
    pub cpu: u64,
}

/// Whether system calls are filtered.
#[derive(Debug)]
pub enum Filter {
    /// System calls that are not needed fail from now on.
    Installed,
    /// The kernel has no such filter, or does not permit one: only the limits apply.
    Missing(io::Error),
}

/// Confines this process, which must have no thread but the calling one. `start_threads` starts
/// the threads that the process needs, and returns once they run.
///
/// # Errors
/// If the system does not set the limits: then untrusted input must not be read.
pub fn confine(
    bounds: Bounds,
    start_threads: impl FnOnce() -> io::Result<()>,
) -> io::Result<Filter> {
    close_descriptors()?;
    if cfg!(target_os = "linux") {
        // Makes the kernel end this process first if memory runs out. This may be forbidden; then
        // nothing changes.
        let _ = fs::write("/proc/self/oom_score_adj", "1000");
    }
    let most = |resource, most| {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)
    };
    most(Resource::Core, 0)?;
    most(Resource::Fsize, 0)?;
    most(Resource::Data, bounds.memory)?;
    most(Resource::As, bounds.memory.saturating_add(UNUSED_ADDRESSES))?;
    // The soft limit ends the process with a signal that names the reason; the hard limit gives
    // no reason.
    let cpu = Rlimit {
        current: Some(bounds.cpu),
        maximum: Some(bounds.cpu + 1),
    };
    setrlimit(Resource::Cpu, cpu)?;
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    start_threads()?;
    most(Resource::Nofile, 3)?;
    filter::install()
}

/// Closes every descriptor that the parent process left open, except the first three.
#[expect(
    unsafe_code,
    reason = "this process has just begun, with no other thread: none of its code has opened any \
              of these descriptors, or would use one later"
)]
fn close_descriptors() -> io::Result<()> {
    let directory = if cfg!(target_os = "linux") {
        "/proc/self/fd"
    } else {
        "/dev/fd"
    };
    let mut open = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        open.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // SAFETY: see the reason above. The directory's own descriptor is closed by now; closing
        // it again only returns an error.
        unsafe { libc::close(descriptor) };
    }
    Ok(())
}

/// The kernel's filter of system calls.
#[cfg(target_os = "linux")]
mod filter {
    use std::collections::BTreeMap;
    use std::io;

    use super::Filter;

    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule, TargetArch,
    };

    /// The calls needed for computing: to read, write and close what is open, to manage memory,
    /// to wait for other threads, to get the time and random numbers, and to exit.
    const ALLOWED: [i64; 25] = [
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_restart_syscall,
        libc::SYS_getrandom,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];

    /// Installs the filter for all threads.
    pub(super) fn install() -> io::Result<Filter> {
        let Ok(arch) = std::env::consts::ARCH.try_into() else {
            let unknown = "there is no filter for this processor";
            return Ok(Filter::Missing(io::Error::other(unknown)));
        };
        let program = program(arch).map_err(io::Error::other)?;
        // This also sets `no_new_privs`.
        let said = match seccompiler::apply_filter_all_threads(&program) {
            Ok(()) => return Ok(Filter::Installed),
            Err(seccompiler::Error::Prctl(said) | seccompiler::Error::Seccomp(said)) => said,
            Err(error) => return Err(io::Error::other(error)),
        };
        match said.raw_os_error() {
            // The errors of kernels that were built without filters, and of sandboxes that forbid
            // them.
            Some(libc::ENOSYS | libc::EINVAL | libc::EPERM) => Ok(Filter::Missing(said)),
            _ => Err(said),
        }
    }

    fn program(arch: TargetArch) -> Result<BpfProgram, seccompiler::BackendError> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
        // Memory must not be executable.
        let executable = u64::from(libc::PROT_EXEC.cast_unsigned());
        let never_run = argument(2, SeccompCmpOp::MaskedEq(executable), 0)?;
        rules.insert(libc::SYS_mmap, vec![never_run.clone()]);
        rules.insert(libc::SYS_mprotect, vec![never_run]);
        // The process may send a signal only to itself.
        let this = u64::from(std::process::id());
        let itself = argument(0, SeccompCmpOp::Eq, this)?;
        rules.insert(libc::SYS_tgkill, vec![itself]);
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::Errno(libc::EPERM.cast_unsigned()),
            SeccompAction::Allow,
            arch,
        )?;
        filter.try_into()
    }

    fn argument(
        number: u8,
        is: SeccompCmpOp,
        value: u64,
    ) -> Result<SeccompRule, seccompiler::BackendError> {
        let condition = SeccompCondition::new(number, SeccompCmpArgLen::Qword, is, value)?;
        SeccompRule::new(vec![condition])
    }
}

/// Other systems have no filter. There, untrusted components are compiled only on the machines of
/// guest authors.
#[cfg(not(target_os = "linux"))]
mod filter {
    pub(super) fn install() -> std::io::Result<super::Filter> {
        let none = std::io::ErrorKind::Unsupported.into();
        Ok(super::Filter::Missing(none))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
