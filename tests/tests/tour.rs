//! The tour of a cluster that grows and shrinks, as a person takes it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_tests::client::Client;
use ostrakon_tests::host::{PATIENCE, binary, guest};
use ostrakon_tests::net::Net;
use tempfile::TempDir;

/// The tour, on a net of its own, with nothing else in the directory for what is temporary.
struct Tour {
    child: Child,
    net: Net,
    directory: TempDir,
}

impl Tour {
    fn begin() -> Self {
        let net = Net::claim();
        let directory = tempfile::tempdir().unwrap();
        let component = directory.path().join("kv.wasm");
        fs::write(&component, guest("kv")).unwrap();
        let temporary = directory.path().join("temporary");
        fs::create_dir(&temporary).unwrap();
        let tour = binary().with_file_name("rebalance-down-and-up");
        let child = Command::new(tour)
            .env("TMPDIR", temporary)
            .args(["--address", &net.first().to_string()])
            .arg("--guest")
            .arg(component)
            .arg("--ostrakon")
            .arg(binary())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it is built with the workspace");
        Self {
            child,
            net,
            directory,
        }
    }

    /// Reads what it says up to a line with this in it.
    fn read_to(&mut self, text: &str) {
        let output = self.child.stdout.as_mut().unwrap();
        // Unbuffered beyond the line, so that the rest is there for later.
        let mut lines = BufReader::with_capacity(1, output).lines();
        let found = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains(text)));
        assert!(found.is_some(), "{text:?} does not come");
    }

    /// Waits for its end; gives what it said, when nothing of it runs any more.
    fn end(self) -> (Output, TempDir) {
        let output = self.child.wait_with_output().unwrap();
        let address = format!("{}:", self.net.first());
        let deadline = Instant::now() + PATIENCE;
        while let Some(left) = process_with(&address) {
            assert!(Instant::now() < deadline, "it has left {left:?} running");
            thread::sleep(Duration::from_millis(1));
        }
        (output, self.directory)
    }
}

/// What it left in the directory for what is temporary.
fn left_in(directory: &TempDir) -> usize {
    let left = fs::read_dir(directory.path().join("temporary")).unwrap();
    left.count()
}

/// The command line of a process that was given this.
fn process_with(argument: &str) -> Option<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut commands =
        processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    let command = commands.find(|command| {
        let mut arguments = command.split(|byte| *byte == 0);
        arguments.any(|given| given.starts_with(argument.as_bytes()))
    });
    command.map(|command| String::from_utf8_lossy(&command).replace('\0', " "))
}

#[test]
fn three_shards_become_five_and_two_and_no_client_notices() {
    let (output, directory) = Tour::begin().end();
    let said = String::from_utf8(output.stdout).unwrap();
    let wrong = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*wrong), (Some(0), ""), "{said}");
    let last = said.lines().last().unwrap();
    let (requests, rest) = last.split_once(" requests over 3 -> 5 -> 2, ").unwrap();
    let requests: u64 = requests.replace(',', "").parse().unwrap();
    // Each key is written once and read once at least.
    assert!(requests > 4000, "{last}");
    assert!(rest.starts_with("0 failed, longest "), "{last}");
    assert!(
        rest.ends_with(" ms; 2,000 keys, each found, each in one shard"),
        "{last}"
    );
    for (shards, marks) in [(3, 'w'), (3, 'h'), (5, 'h'), (2, 'h')] {
        let servers = ('a'..='z').map(|letter| (u32::from(letter) % shards).to_string());
        let servers: String = servers.collect();
        let found = String::from(marks).repeat(26);
        let shown = format!("{servers}  the shard each is asked of\n   {found}  what it finds");
        assert!(said.contains(&shown), "{shown}\nis not in\n{said}");
    }
    assert!(said.contains("shard 4 | has ended"), "{said}");
    assert_eq!(left_in(&directory), 0);
}

#[test]
fn a_key_that_is_lost_fails_the_tour() {
    let mut tour = Tour::begin();
    tour.read_to("2. ");
    let mut client = Client::new((tour.net.first(), 8080).into());
    let deleted = client.send("DELETE", "/kv/q", &[], b"").unwrap();
    assert_eq!(deleted.status, 204);
    let (output, directory) = tour.end();
    let wrong = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{wrong}");
    let expected = "the smart client sees \"hhhhhhhhhhhhhhhhmhhhhhhhhh";
    assert!(wrong.contains(expected), "{wrong}");
    // For a look at what happened.
    assert_eq!(left_in(&directory), 1);
}

#[test]
fn one_that_is_interrupted_leaves_nothing() {
    for station in ["starts on", "2. ", "shard 3 | starts"] {
        let mut tour = Tour::begin();
        tour.read_to(station);
        let id = tour.child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &id]).status();
        assert!(sent.unwrap().success());
        let (output, directory) = tour.end();
        let wrong = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), &*wrong), (Some(130), ""));
        assert_eq!(left_in(&directory), 0, "after {station:?}");
    }
}
