//! `ostrakon dev` as a user sees it: its screen, its prompt, `ctl`, and the guest that is built on
//! each save.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_test_support::net::Net;
use ostrakon_tests::client::Client;
use ostrakon_tests::command::output_of;
use ostrakon_tests::host::{PATIENCE, binary, guest};
use serde_json::Value;
use tempfile::TempDir;

/// A running `ostrakon dev`, with addresses and a directory of its own. Dropping it kills it.
struct Dev {
    child: Child,
    input: Option<ChildStdin>,
    lines: Arc<Mutex<Vec<String>>>,
    net: Net,
    directory: TempDir,
}

impl Dev {
    /// Starts it with the compiled key/value guest.
    fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config");
        fs::create_dir(&config).unwrap();
        fs::write(config.join("guest.wasm"), guest("kv")).unwrap();
        let config = config.display().to_string();
        Self::run(directory, &[&["--config-dir", &config], arguments].concat())
    }

    fn run(directory: TempDir, arguments: &[&str]) -> Self {
        let net = Net::claim();
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
        let mut child = Command::new(binary())
            // The dependencies of guests are already built there.
            .env("CARGO_TARGET_DIR", target)
            .arg("dev")
            .args(["--address", &net.first().to_string()])
            .arg("--state")
            .arg(directory.path().join("state"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let read = Arc::clone(&lines);
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                read.lock().unwrap().push(line);
            }
        });
        Self {
            input: child.stdin.take(),
            child,
            lines,
            net,
            directory,
        }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn write(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits for a line that contains `text` after the first `from` lines, and returns the number
    /// of lines up to it.
    fn wait_for(&self, from: usize, text: &str) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lines = self.lines.lock().unwrap();
            let mut after = lines.iter().enumerate().skip(from);
            if let Some((at, _)) = after.find(|(_, line)| line.contains(text)) {
                return at + 1;
            }
            assert!(
                Instant::now() < deadline,
                "{text:?} is not printed: {lines:#?}"
            );
            drop(lines);
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn ctl(&self, words: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(["dev", "ctl", "--state"]).arg(self.state());
        command.args(words).output().unwrap()
    }

    /// Runs a command through `ctl`, and returns its output.
    fn done(&self, words: &[&str]) -> String {
        let output = self.ctl(words);
        let wrong = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{words:?}: {wrong}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn pids(&self) -> Vec<u64> {
        let standing: Value = serde_json::from_str(&self.done(&["status", "--json"])).unwrap();
        let shards = standing["shards"].as_array().unwrap();
        shards
            .iter()
            .filter_map(|shard| shard["pid"].as_u64())
            .collect()
    }

    /// Waits until it ends by itself, and returns its exit code.
    fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            let lines = self.lines.lock().unwrap();
            assert!(
                Instant::now() < deadline,
                "`ostrakon dev` does not end: {lines:#?}"
            );
            drop(lines);
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks the exit code and standard error.
fn check(output: &Output, code: i32, text: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(text), "{text:?} is not in {said:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill")
        .arg(format!("-{name}"))
        .arg(pid.to_string())
        .status();
    assert!(sent.unwrap().success());
}

fn is_alive(pid: u64) -> bool {
    // A zombie has an empty command line.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| !command.is_empty())
}

#[test]
fn commands_are_taken_at_the_prompt_and_by_ctl() {
    let mut dev = Dev::start(&["--shards", "2"]);
    let at = dev.wait_for(0, "2 shards are ready and have everything");
    let at = dev.wait_for(at, "try:");
    dev.write("");
    dev.write("sclae 3");
    let at = dev.wait_for(at, "there is no command \"sclae\": write scale");
    dev.write("scale");
    let at = dev.wait_for(at, "write `scale N");
    dev.write("kill 7");
    let at = dev.wait_for(at, "there is no shard 7");
    dev.write("scale 0");
    let at = dev.wait_for(at, "0 shards cannot be: give 1 to 254");
    dev.write("help");
    let at = dev.wait_for(at, "resume N");
    dev.write("status");
    let at = dev.wait_for(at, "2 shards are wanted; 2 shards have everything");
    dev.write("kill 1");
    let at = dev.wait_for(at, "shard 1 | was killed");
    let at = dev.wait_for(at, "shard 1 | is ready after");

    let before = dev.pids();
    assert_eq!(dev.done(&["scale", "3"]), "3 shards have everything\n");
    let at = dev.wait_for(at, "from 2 shards to 3");
    assert_eq!(dev.done(&["restart"]), "3 shards were restarted\n");
    assert!(dev.pids().iter().all(|pid| !before.contains(pid)));
    assert!(dev.done(&["status"]).contains("3 shards are wanted"));
    check(
        &dev.ctl(&["sclae", "3"]),
        64,
        "there is no command \"sclae\"",
    );
    check(&dev.ctl(&["kill", "9"]), 64, "there is no shard 9");
    check(&dev.ctl(&["scale", "0"]), 64, "0 shards cannot be");

    // The prompt's end of input does not end it: `ctl` still works.
    dev.input = None;
    assert_eq!(dev.done(&["pause", "0"]).matches("halted").count(), 1);
    assert_eq!(dev.done(&["resume", "0"]).matches("resumed").count(), 1);
    let lines = dev.lines.lock().unwrap().clone();
    assert!(
        !lines.iter().any(|line| line.contains('\x1b')),
        "colours must not be sent to a pipe"
    );
    assert_eq!(dev.done(&["stop"]), "");
    assert_eq!(dev.wait(), Some(0));
    dev.wait_for(at, "shard 0 | has ended");
    check(&dev.ctl(&["status"]), 69, "no `ostrakon dev` runs in");
}

#[test]
fn a_state_directory_is_for_one_controller_and_one_source() {
    let mut dev = Dev::start(&["--shards", "1"]);
    dev.wait_for(0, "1 shard is ready");
    let state = dev.state();
    let other = |config: &Path| {
        let mut command = Command::new(binary());
        command.arg("dev").arg("--state").arg(&state);
        output_of(command.arg("--config-dir").arg(config))
    };
    let config = dev.directory.path().join("config");
    check(&other(&config), 75, "is in use by another `ostrakon dev`");
    signal(dev.child.id(), "TERM");
    assert_eq!(dev.wait(), Some(0));
    check(&other(dev.directory.path()), 64, "holds the data of");
}

#[test]
fn a_directory_without_files_is_told_and_a_guest_that_comes_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config");
    fs::create_dir(&config).unwrap();
    let path = config.display().to_string();
    let mut dev = Dev::run(directory, &["--config-dir", &path, "--shards", "1"]);
    let told = dev.wait_for(0, "put guest.wasm there");
    fs::write(config.join("guest.wasm"), guest("kv")).unwrap();
    dev.wait_for(told, "shard 0 | is ready after");
    dev.write("stop");
    assert_eq!(dev.wait(), Some(0));
}

/// Regression: shards were restarted for ever, each time with the same lines; and after a refusal
/// all shards "had everything".
#[test]
fn a_first_start_that_is_rejected_waits_for_a_save_and_a_refused_save_is_no_news() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config");
    fs::create_dir(&config).unwrap();
    fs::write(config.join("guest.wasm"), guest("kv")).unwrap();
    let settings = config.join("ostrakon.toml");
    fs::write(&settings, "nonsense = 1").unwrap();
    let flag = config.display().to_string();
    let dev = Dev::run(directory, &["--config-dir", &flag]);
    let at = dev.wait_for(0, "shard 0 | waits for a save");
    fs::write(&settings, "").unwrap();
    let at = dev.wait_for(at, "3 shards are ready and have everything");
    let lines = dev.lines.lock().unwrap().clone();
    let ends = lines.iter().filter(|line| line.contains("exit code 64"));
    assert_eq!(ends.count(), 1, "{lines:#?}");
    fs::write(&settings, "nonsense = 2").unwrap();
    let refused = dev.wait_for(at, "3 shards go on with what they had before");
    fs::write(&settings, "# good").unwrap();
    dev.wait_for(refused, "3 shards are ready and have everything");
    let lines = dev.lines.lock().unwrap().clone();
    let settled = lines[at..refused].iter();
    let settled = settled.filter(|line| line.contains("have everything"));
    assert_eq!(settled.count(), 0, "{lines:#?}");
}

#[test]
fn a_port_that_is_taken_is_one_line() {
    let net = Net::claim();
    let _taken = std::net::TcpListener::bind((net.first(), 9090)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary());
    command
        .args(["dev", "--address", &net.first().to_string(), "--config-dir"])
        .arg(directory.path())
        .arg("--state")
        .arg(directory.path().join("state"));
    check(&output_of(&mut command), 69, "cannot listen on");
}

/// A controller that is killed with SIGKILL cannot stop anything.
#[test]
fn shards_do_not_outlive_their_controller() {
    let mut dev = Dev::start(&["--shards", "2"]);
    dev.wait_for(0, "2 shards are ready");
    dev.done(&["pause", "1"]);
    let pids = dev.pids();
    assert!(pids.len() == 2 && pids.iter().all(|pid| is_alive(*pid)));
    signal(dev.child.id(), "KILL");
    assert_eq!(dev.wait(), None);
    let deadline = Instant::now() + PATIENCE;
    while pids.iter().any(|pid| is_alive(*pid)) {
        assert!(Instant::now() < deadline, "{pids:?} still run");
        thread::sleep(Duration::from_millis(1));
    }
    check(&dev.ctl(&["status"]), 69, "no `ostrakon dev` runs in");
}

#[test]
fn a_second_signal_kills() {
    let mut dev = Dev::start(&["--shards", "2", "--grace", "1h"]);
    dev.wait_for(0, "2 shards are ready");
    dev.done(&["pause", "1"]);
    signal(dev.child.id(), "INT");
    let at = dev.wait_for(0, "shard 1 | was told to end");
    signal(dev.child.id(), "INT");
    assert_eq!(dev.wait(), Some(0));
    dev.wait_for(at, "shard 1 | was killed");
}

/// The guest's crate, in a workspace of its own. If the file `wait` exists, its build waits for the
/// file `go`.
fn crate_in(directory: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let guest = directory.join("tiny");
    fs::create_dir_all(guest.join("src")).unwrap();
    // The files that steer the build are in `target`, which is not watched for saves.
    fs::create_dir(guest.join("target")).unwrap();
    let manifest = format!(
        "[package]\nname = \"tiny\"\nedition = \"2024\"\n\n[workspace]\n\n\
         [lib]\ncrate-type = [\"cdylib\"]\n\n\
         [dependencies]\nostrakon-guest = {{ path = \"{}\" }}\n",
        root.join("guest/sdk").display()
    );
    fs::write(guest.join("Cargo.toml"), manifest).unwrap();
    fs::copy(root.join("Cargo.lock"), guest.join("Cargo.lock")).unwrap();
    let build = "fn main() {
        let at = |name| std::path::Path::new(env!(\"CARGO_MANIFEST_DIR\")).join(\"target\").join(name);
        println!(\"cargo::rerun-if-changed=src\");
        while at(\"wait\").exists() && !at(\"go\").exists() {
            std::fs::write(at(\"waits\"), \"\").unwrap();
        }
    }";
    fs::write(guest.join("build.rs"), build).unwrap();
    guest
}

fn save(guest: &Path, name: &str) {
    let source =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/small/src/lib.rs"));
    let source = source.unwrap().replace("\"small\"", &format!("{name:?}"));
    fs::write(guest.join("src/lib.rs"), source).unwrap();
}

#[test]
fn a_guest_is_built_and_swapped_on_each_save_and_a_slow_build_holds_nothing_up() {
    let directory = tempfile::tempdir().unwrap();
    let guest = crate_in(directory.path());
    save(&guest, "one");
    let path = guest.display().to_string();
    let mut dev = Dev::run(directory, &["--shards", "2", "--guest", &path]);
    let at = dev.wait_for(0, "generation 1 is live: one");
    let at = dev.wait_for(at, "2 shards are ready");

    // The prompt is free while the build waits.
    fs::write(guest.join("target/wait"), "").unwrap();
    save(&guest, "two");
    let at = dev.wait_for(at, "building");
    let deadline = Instant::now() + PATIENCE;
    while !guest.join("target/waits").exists() {
        assert!(Instant::now() < deadline, "the build did not begin");
        thread::sleep(Duration::from_millis(1));
    }
    dev.write("status");
    let at = dev.wait_for(at, "2 shards are wanted");
    assert!(
        !dev.lines.lock().unwrap()[at..]
            .iter()
            .any(|line| line.contains("built in"))
    );
    fs::write(guest.join("target/go"), "").unwrap();
    let at = dev.wait_for(at, "built in");
    let at = dev.wait_for(at, "generation 2 is live: two");

    // A crate that does not compile changes nothing.
    fs::write(guest.join("src/lib.rs"), "no").unwrap();
    let at = dev.wait_for(at, "tiny does not compile");
    save(&guest, "three");
    // The two shards' lines come in any order.
    let each = [0, 1].map(|shard| format!("shard {shard} | generation 3 is live: three"));
    let at = each
        .map(|live| dev.wait_for(at, &live))
        .into_iter()
        .max()
        .unwrap();
    let address = (dev.net.first(), 8080).into();
    assert_eq!(Client::new(address).get("/a").unwrap().generation(), 3);

    // Changed settings are published, too.
    fs::write(dev.state().join("settings/ostrakon.toml"), "sharding = 1").unwrap();
    dev.wait_for(at, "refused at step `verify`");
    dev.write("stop");
    assert_eq!(dev.wait(), Some(0));
}
