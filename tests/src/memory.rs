//! How much memory a host takes at most, as deploy/README.md says it, and limits that hold it to that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use ostrakon_settings::settings::Settings;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The process itself, its threads, code that was compiled, and what metrics and logs take.
pub const BASE: usize = 64 * MIB;
/// A connection: its task, its buffers, in TLS its keys, in h2 its streams.
pub const CONNECTION: usize = 96 * KIB;
/// What the system keeps for one: of what its client has sent and the host has not read 128 KiB, and of
/// what it does not take as much, and one segment.
pub const SOCKET: usize = (128 + 128 + SEGMENT) * KIB;
/// The largest segment that the system makes, in KiB.
const SEGMENT: usize = 64;
/// What the allocator keeps of what was freed, and what rounding costs: a fourth.
pub const SLACK: (usize, usize) = (5, 4);

/// The most bytes that clients can have a host's process hold: connections, heads, bodies and replies.
pub fn of_clients(settings: &Settings) -> usize {
    let http = &settings.http;
    let counted = http.max_connections * CONNECTION
        + http.max_heads_bytes
        + http.max_bodies_bytes
        + http.max_replies_bytes;
    counted / SLACK.1 * SLACK.0
}

/// The most bytes that a host's process holds, with so many threads and so much for the store's pages,
/// while no guest is compiled.
pub fn of_process(settings: &Settings, threads: usize, store_cache: usize) -> usize {
    let instances = (2 * threads + 3) * settings.guest.max_memory;
    BASE + store_cache + instances + of_clients(settings)
}

/// The same with what the system keeps for its connections.
pub fn of_host(settings: &Settings, threads: usize, store_cache: usize) -> usize {
    of_process(settings, threads, store_cache) + settings.http.max_connections * SOCKET
}

/// A figure of `/proc/PID/status`, such as `VmRSS` or `VmHWM`, in bytes.
///
/// # Panics
/// When there is no such process, or figure.
pub fn status(process: u32, figure: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(figure));
    let kibibytes = line.and_then(|line| line.strip_prefix(':')?.trim().strip_suffix(" kB"));
    let kibibytes: usize = kibibytes.expect("it is there").parse().expect("a number");
    kibibytes * KIB
}

/// What the system keeps for a socket, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// Now.
    pub kept: usize,
    /// At most.
    pub most: usize,
}

impl Socket {
    /// Those that a server of this machine has accepted at a port, as `ss` of iproute2 says.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn accepted_at(port: u16) -> Vec<Self> {
        let ss = Command::new("ss")
            .args([
                "-Htnm",
                "state",
                "connected",
                "sport",
                "=",
                &format!(":{port}"),
            ])
            .output()
            .expect("iproute2 is installed");
        let text = String::from_utf8(ss.stdout).expect("it is text");
        let sockets = text.split("skmem:(").skip(1).map(|of_one| {
            let figures = of_one.split(')').next().expect("the first is there");
            let figure = |name: &str| -> usize {
                let mut figures = figures.split(',').filter_map(|one| one.strip_prefix(name));
                let digits = figures.find_map(|digits| digits.parse().ok());
                digits.expect("it is there")
            };
            // To be read, to be sent, reserved, and come while it was locked.
            let kept = ["r", "w", "f", "bl"].map(figure).iter().sum();
            let most = figure("rb") + figure("tb") + SEGMENT * KIB;
            Self { kept, most }
        });
        sockets.collect()
    }
}

/// A control group of its own, whose processes have so much memory at most: beyond it the kernel
/// kills one, as it does in a Pod.
#[derive(Debug)]
pub struct Cgroup {
    directory: PathBuf,
    /// Of the second version, or the first.
    unified: bool,
}

impl Cgroup {
    /// Makes one with a limit in bytes. None: this machine has no hierarchy for memory that may be
    /// written to.
    pub fn make(limit: usize) -> Option<Self> {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("ostrakon-test-{}-{number}", std::process::id());
        for (root, unified, file) in [
            ("/sys/fs/cgroup", true, "memory.max"),
            ("/sys/fs/cgroup/memory", false, "memory.limit_in_bytes"),
        ] {
            let group = Self {
                directory: Path::new(root).join(&name),
                unified,
            };
            // Where that is no hierarchy for memory, the directory has no such file.
            if fs::create_dir(&group.directory).is_ok()
                && group.directory.join(file).exists()
                && fs::write(group.directory.join(file), limit.to_string()).is_ok()
            {
                // Otherwise it would be swapped out in place of being killed.
                let _no_swap = fs::write(group.directory.join("memory.swap.max"), "0");
                return Some(group);
            }
        }
        None
    }

    /// A command that runs in it, and becomes the command in its last arguments.
    pub fn runner(&self) -> Vec<String> {
        let join = format!(
            "echo $$ > {}/cgroup.procs && exec \"$@\"",
            self.directory.display()
        );
        ["sh", "-c", &join, "sh"].map(str::to_owned).into()
    }

    /// How many processes were killed because there was no more memory.
    ///
    /// # Panics
    /// When the kernel does not say so.
    pub fn killed(&self) -> u64 {
        let file = if self.unified {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let events = fs::read_to_string(self.directory.join(file)).expect("it is there");
        let killed = events
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "));
        killed.expect("it is counted").parse().expect("a number")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _left_where_a_process_lives = fs::remove_dir(&self.directory);
    }
}
