//! The seccomp profile `RuntimeDefault`: the system calls that container engines allow a process
//! without capabilities. Also simulates a kernel without seccomp.

use std::collections::BTreeMap;
use std::fs;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use serde_json::{Value, json};

use crate::tools::provided;

/// The engines' default profile, in the format of the OCI runtime's configuration
/// (`linux.seccomp`).
///
/// # Panics
/// When it cannot be read.
pub fn runtime_default() -> Value {
    let profile = fs::read_to_string(provided("seccomp.json")).expect("the profile can be read");
    let profile: Value = serde_json::from_str(&profile).expect("the profile is JSON");
    let (name, architecture) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", "SCMP_ARCH_X86_64"),
        "aarch64" => ("arm64", "SCMP_ARCH_AARCH64"),
        other => panic!("this test does not know seccomp's name of {other}"),
    };
    let rules = profile["syscalls"]
        .as_array()
        .expect("the rules are a list");
    let rules = rules.iter().filter(|rule| {
        let names = |of: &str, field: &str| rule[of][field].as_array().cloned();
        let is_here = |names: Vec<Value>| names.contains(&name.into());
        // Skips rules for processes with a capability, and keeps rules for those without one.
        names("includes", "caps").is_none()
            && names("includes", "arches").is_none_or(is_here)
            && !names("excludes", "arches").is_some_and(is_here)
    });
    let rules = rules.map(|rule| {
        let mut taken = json!({ "names": rule["names"], "action": rule["action"] });
        for name in ["errnoRet", "args"] {
            if !rule[name].is_null() {
                taken[name] = rule[name].clone();
            }
        }
        taken
    });
    json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [architecture],
        "syscalls": rules.collect::<Vec<_>>(),
    })
}

/// From this call on, this thread and each process that it starts see a kernel without seccomp
/// filters.
///
/// # Panics
/// When the kernel has no filters already, or the processor's architecture is not known.
pub fn without_filters() {
    let rules = BTreeMap::from([(SECCOMP, Vec::new())]);
    let unknown = SeccompAction::Errno(NOT_IMPLEMENTED);
    let arch = std::env::consts::ARCH.try_into();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        unknown,
        arch.expect("the architecture is known"),
    );
    let program: Result<BpfProgram, _> = filter.expect("the filter is a program").try_into();
    apply_filter(&program.expect("the program is short")).expect("the kernel has filters");
}

/// The number of the system call that installs a filter.
#[cfg(target_arch = "x86_64")]
const SECCOMP: i64 = 317;
#[cfg(target_arch = "aarch64")]
const SECCOMP: i64 = 277;

/// `ENOSYS`.
const NOT_IMPLEMENTED: u32 = 38;
