//! The root of the image, laid out as by the Dockerfile, and containers of the image.
//!
//! Containers run under Kubernetes' restricted profile, with an OCI runtime, on this machine's
//! network and without control groups.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ostrakon_test_support::seccomp::runtime_default;
use ostrakon_test_support::tools::output;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::host::{Host, binary, guest};
use crate::manifests::{dockerfile, repository};

/// The image: its root, and the Dockerfile's settings for running it.
#[derive(Debug)]
pub struct Image {
    directory: TempDir,
    /// The entry point and its arguments.
    pub command: Vec<String>,
    /// Variables, as `NAME=VALUE`.
    pub env: Vec<String>,
    /// The numeric id of the user and of the group.
    pub user: u32,
}

impl Image {
    /// Lays the image out from the binary under test, without its symbols, and the key/value
    /// guest.
    ///
    /// # Panics
    /// When it cannot be laid out.
    pub fn assemble() -> Self {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let path = |name| directory.path().join(name);
        output(
            Command::new("strip")
                .arg("-o")
                .arg(path("ostrakon"))
                .arg(binary()),
        );
        fs::write(path("kv.wasm"), guest("kv")).expect("the file can be written");
        let mut layout = Command::new(repository().join("deploy/rootfs.sh"));
        layout
            .args([path("ostrakon"), path("kv.wasm")])
            .arg(path("root"));
        output(&mut layout);
        let (mut command, mut env, mut user) = (Vec::new(), Vec::new(), None);
        let last = dockerfile().into_iter().rev();
        let stage: Vec<_> = last.take_while(|(name, _)| name != "FROM").collect();
        for (name, rest) in stage.iter().rev() {
            match name.as_str() {
                "ENV" => env = rest.split_whitespace().map(str::to_owned).collect(),
                "USER" => user = rest.split(':').next().and_then(|id| id.parse().ok()),
                "ENTRYPOINT" | "CMD" => {
                    let words: Vec<String> = serde_json::from_str(rest).expect("the exec form");
                    command.extend(words);
                }
                _ => {}
            }
        }
        Self {
            directory,
            command,
            env,
            user: user
                .filter(|&id| id > 0)
                .expect("a user by number, not root"),
        }
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// A directory that the image's user may write to.
    ///
    /// # Panics
    /// When the test does not run as root.
    pub fn give(&self, directory: &Path) {
        fs::create_dir_all(directory).expect("a directory can be created");
        chown(directory, Some(self.user), Some(self.user)).expect("root can change the owner");
    }

    /// Runs a container: a Pod of this name, with more variables and with directories mounted
    /// read-only, except the data directory.
    ///
    /// # Panics
    /// When it does not start.
    pub fn run(&self, pod: &str, env: &[String], mounts: &[(&Path, &str)]) -> Container {
        let bundle = self.directory.path().join(pod);
        fs::create_dir(&bundle).expect("a directory can be created");
        let config = self.runtime_configuration(pod, env, mounts);
        fs::write(bundle.join("config.json"), config.to_string()).expect("the file can be written");
        let pid_file = bundle.join("pid");
        let state = self.directory.path().join("state");
        // The names of containers are global on the machine.
        let name = format!("{pod}-{}", std::process::id());
        let mut command = runtime(&state);
        command
            .args(["run", "--pid-file"])
            .arg(&pid_file)
            .arg("--bundle")
            .arg(&bundle)
            .arg(&name)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Container {
            host: Some(Host::spawn(&mut command)),
            pid_file,
            state,
            name,
        }
    }

    /// The OCI runtime's configuration (its specification, version 1.0.2).
    fn runtime_configuration(&self, pod: &str, env: &[String], mounts: &[(&Path, &str)]) -> Value {
        let name = format!("POD_NAME={pod}");
        let env: Vec<_> = self.env.iter().chain([&name]).chain(env).collect();
        let none: [&str; 0] = [];
        let mut all = vec![
            json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
            json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "noexec", "mode=755"] }),
        ];
        all.extend(mounts.iter().map(|(source, destination)| {
            let access = if destination.starts_with("/var/lib/") { "rw" } else { "ro" };
            let options = ["rbind", access, "nosuid", "nodev"];
            json!({ "destination": destination, "type": "bind", "source": source, "options": options })
        }));
        let namespaces = ["pid", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }));
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": { "uid": self.user, "gid": self.user },
                "args": self.command,
                "env": env,
                "cwd": "/",
                "capabilities": {
                    "bounding": none, "effective": none, "inheritable": none, "permitted": none, "ambient": none,
                },
                "noNewPrivileges": true,
            },
            "root": { "path": self.root(), "readonly": true },
            "hostname": pod,
            "mounts": all,
            "linux": { "namespaces": namespaces, "seccomp": runtime_default() },
        })
    }
}

/// The OCI runtime, with its state in a directory.
fn runtime(state: &Path) -> Command {
    // The runtime needs control groups even when it must not change them, and accepts only one kind
    // of mount. So it gets a mount of its own.
    let script =
        "umount -R /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .args(["crun", "--cgroup-manager=disabled", "--root"])
        .arg(state);
    command
}

/// A running container. Dropping it kills it.
#[derive(Debug)]
pub struct Container {
    host: Option<Host>,
    pid_file: PathBuf,
    state: PathBuf,
    name: String,
}

impl Container {
    /// The host in the container.
    ///
    /// # Panics
    /// After it has ended.
    pub fn host(&self) -> &Host {
        self.host.as_ref().expect("the host runs")
    }

    /// Runs a program of the image in the container, as `kubectl exec` does, and returns its
    /// output.
    ///
    /// # Panics
    /// When it cannot be run, or fails.
    pub fn exec(&self, command: &[&str]) -> String {
        output(
            runtime(&self.state)
                .args(["exec", &self.name])
                .args(command),
        )
    }

    /// The host's process id on this machine.
    ///
    /// # Panics
    /// When the runtime did not report it.
    pub fn id(&self) -> u32 {
        let id = fs::read_to_string(&self.pid_file).expect("the container has started");
        id.trim().parse().expect("the file has a number")
    }

    /// Sends SIGTERM to the host alone, as the kubelet does, and returns its log once it has
    /// ended with code 0.
    ///
    /// # Panics
    /// When it does not.
    pub fn stop(mut self) -> String {
        let host = self.host.take().expect("the host runs");
        assert!(self.kill("TERM"), "SIGTERM cannot be sent");
        let (status, log) = host.wait();
        assert!(status.success(), "{status}:\n{log}");
        log
    }

    fn kill(&self, signal: &str) -> bool {
        let kill = Command::new("kill")
            .args([&format!("-{signal}"), &self.id().to_string()])
            .status();
        kill.is_ok_and(|status| status.success())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // It may have ended by itself without being waited for.
        if self.host.is_some() && fs::exists(&self.pid_file).unwrap_or(false) {
            self.kill("KILL");
        }
    }
}
