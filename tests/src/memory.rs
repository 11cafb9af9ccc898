//! The most memory that a host takes, as in deploy/README.md, and limits that enforce it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use ostrakon_settings::settings::Settings;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The process itself: its threads, compiled code, metrics and logs.
pub const BASE: usize = 64 * MIB;
/// What the data file lacks, in two memtables, and the group that is being written.
const CHANGES: usize = 64 * MIB;
/// A connection: its task, its buffers, its keys in TLS, its streams in h2.
pub const CONNECTION: usize = 96 * KIB;
/// The system's buffers for a connection: 128 KiB of data from the client that the host has not
/// read, 128 KiB of data that the client has not taken, and one segment.
pub const SOCKET: usize = (128 + 128 + SEGMENT) * KIB;
/// The largest segment that the system makes, in KiB.
const SEGMENT: usize = 64;
/// How many connections the admin port holds at most.
pub const ADMIN_CONNECTIONS: usize = 64;
/// Memory that clients of the admin port use in the process: connections, heads, a component on
/// trial, and responses.
pub const ADMIN: usize = 28 * MIB;
/// The allocator's unreturned memory and the cost of rounding: a quarter more.
pub(crate) const SLACK: (usize, usize) = (5, 4);

/// The most bytes that clients can make a host's process hold: connections, heads, bodies and
/// replies.
pub fn of_clients(settings: &Settings) -> usize {
    let http = &settings.http;
    let counted = http.max_connections * CONNECTION
        + http.max_heads_bytes
        + http.max_bodies_bytes
        + http.max_replies_bytes;
    counted / SLACK.1 * SLACK.0
}

/// The most bytes that a host's process holds while no guest is compiled, with this many
/// threads and this much cache for the store's pages.
pub fn of_process(settings: &Settings, threads: usize, store_cache: usize) -> usize {
    let instances = (2 * threads + 3) * settings.guest.max_memory;
    BASE + store_cache + CHANGES + instances + of_clients(settings) + ADMIN
}

/// As [`of_process`], with the system's buffers for its connections.
pub fn of_host(settings: &Settings, threads: usize, store_cache: usize) -> usize {
    let connections = settings.http.max_connections + ADMIN_CONNECTIONS;
    of_process(settings, threads, store_cache) + connections * SOCKET
}

/// A figure of `/proc/PID/status`, such as `VmRSS` or `VmHWM`, in bytes.
///
/// # Panics
/// When there is no such process or figure.
pub fn status(process: u32, figure: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(figure));
    let kibibytes = line.and_then(|line| line.strip_prefix(':')?.trim().strip_suffix(" kB"));
    let kibibytes: usize = kibibytes
        .expect("the figure is there")
        .parse()
        .expect("the figure is a number");
    kibibytes * KIB
}

/// The system's memory for a socket, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// The current size.
    pub kept: usize,
    /// The largest possible size.
    pub most: usize,
}

impl Socket {
    /// The sockets that a server on this machine has accepted at a port, as `ss` of iproute2
    /// reports.
    ///
    /// # Panics
    /// When `ss` cannot be run.
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
        let text = String::from_utf8(ss.stdout).expect("the output is text");
        let sockets = text.split("skmem:(").skip(1).map(|of_one| {
            let figures = of_one.split(')').next().expect("the line has figures");
            let figure = |name: &str| -> usize {
                let mut figures = figures.split(',').filter_map(|one| one.strip_prefix(name));
                let digits = figures.find_map(|digits| digits.parse().ok());
                digits.expect("the figure is there")
            };
            // The bytes to be read, to be sent, reserved, and received while the socket was
            // locked.
            let kept = ["r", "w", "f", "bl"].map(figure).iter().sum();
            let most = figure("rb") + figure("tb") + SEGMENT * KIB;
            Self { kept, most }
        });
        sockets.collect()
    }
}

/// A control group with a memory limit. The kernel kills a process that exceeds the limit, as in a
/// Pod.
#[derive(Debug)]
pub struct Cgroup {
    directory: PathBuf,
    /// Whether it belongs to the second version of control groups, not the first.
    unified: bool,
}

impl Cgroup {
    /// Makes a group with a limit in bytes. Returns `None` if this machine has no writable memory
    /// hierarchy.
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
            // In a hierarchy of another kind, the directory has no such file.
            if fs::create_dir(&group.directory).is_ok()
                && group.directory.join(file).exists()
                && fs::write(group.directory.join(file), limit.to_string()).is_ok()
            {
                // Otherwise the process would be swapped out instead of being killed.
                let _no_swap = fs::write(group.directory.join("memory.swap.max"), "0");
                return Some(group);
            }
        }
        None
    }

    /// A command that runs in the group, and becomes the command in its last arguments.
    pub fn runner(&self) -> Vec<String> {
        let join = format!(
            "echo $$ > {}/cgroup.procs && exec \"$@\"",
            self.directory.display()
        );
        ["sh", "-c", &join, "sh"].map(str::to_owned).into()
    }

    /// How many processes were killed for lack of memory.
    ///
    /// # Panics
    /// When the kernel does not report it.
    pub fn killed(&self) -> u64 {
        let file = if self.unified {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let events = fs::read_to_string(self.directory.join(file)).expect("the figure is there");
        let killed = events
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "));
        killed
            .expect("the kernel counts killed processes")
            .parse()
            .expect("the figure is a number")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _left_where_a_process_lives = fs::remove_dir(&self.directory);
    }
}
