//! The tour of a cluster that grows and shrinks, as a user sees it.

use std::fs::{self, File};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_test_support::net::Net;
use ostrakon_tests::client::Client;
use ostrakon_tests::host::{PATIENCE, binary, guest};
use tempfile::TempDir;

/// The tour, with addresses of its own and a temporary directory with nothing else in it.
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
            // Files instead of pipes: a process that it leaves running would keep a pipe open.
            .stdout(File::create(directory.path().join("stdout")).unwrap())
            .stderr(File::create(directory.path().join("stderr")).unwrap())
            .spawn()
            .expect("it is built with the workspace");
        Self {
            child,
            net,
            directory,
        }
    }

    /// Waits for a line that contains `text`.
    fn wait_for(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.said("stdout").contains(text) {
            let said = [self.said("stdout"), self.said("stderr")].concat();
            assert!(Instant::now() < deadline, "{text:?} is not printed: {said}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn said(&self, to: &str) -> String {
        fs::read_to_string(self.directory.path().join(to)).unwrap()
    }

    /// Waits until it and all its processes have ended, and returns the exit code.
    fn end(&mut self) -> Option<i32> {
        let address = self.net.first().to_string();
        // It has five stations, and other tests run meanwhile.
        let deadline = Instant::now() + 5 * PATIENCE;
        loop {
            let ended = self.child.try_wait().unwrap();
            let left = process_with(&address);
            if let (Some(status), None) = (ended, &left) {
                return status.code();
            }
            let said = [self.said("stdout"), self.said("stderr")].concat();
            assert!(Instant::now() < deadline, "{left:?} still run: {said}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends SIGINT, as Ctrl-C does.
    fn interrupt(&self) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &id]).status();
        assert!(sent.unwrap().success());
    }

    /// How many entries it left in its temporary directory.
    fn left(&self) -> usize {
        let left = fs::read_dir(self.directory.path().join("temporary"));
        left.unwrap().count()
    }
}

impl Drop for Tour {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Interrupted, it ends its shards. Killed, it could not.
            self.interrupt();
            let _ = self.child.wait();
        }
    }
}

/// The command line of a process that has this address as an argument, with or without a port.
fn process_with(address: &str) -> Option<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut commands =
        processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    let command = commands.find(|command| {
        let mut arguments = command.split(|byte| *byte == 0);
        arguments.any(|given| given.split(|byte| *byte == b':').next() == Some(address.as_bytes()))
    });
    command.map(|command| String::from_utf8_lossy(&command).replace('\0', " "))
}

#[test]
fn three_shards_become_five_and_two_and_no_client_notices() {
    let mut tour = Tour::begin();
    let code = tour.end();
    let said = tour.said("stdout");
    assert_eq!((code, &*tour.said("stderr")), (Some(0), ""), "{said}");
    let last = said.lines().last().unwrap();
    let (requests, rest) = last.split_once(" requests over 3 -> 5 -> 2, ").unwrap();
    let requests: u64 = requests.replace(',', "").parse().unwrap();
    // Each key is written once and read at least once.
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
    assert_eq!(tour.left(), 0);
}

#[test]
fn a_key_that_is_lost_fails_the_tour() {
    let mut tour = Tour::begin();
    tour.wait_for("2. ");
    let mut client = Client::new((tour.net.first(), 8080).into());
    let deleted = client.send("DELETE", "/kv/q", &[], b"").unwrap();
    assert_eq!(deleted.status, 204);
    let code = tour.end();
    let wrong = tour.said("stderr");
    assert_eq!(code, Some(1), "{wrong}");
    let expected = "the smart client prints \"hhhhhhhhhhhhhhhhmhhhhhhhhh";
    assert!(wrong.contains(expected), "{wrong}");
    // The files of a failed tour are kept for inspection.
    assert_eq!(tour.left(), 1);
}

#[test]
fn one_that_is_interrupted_leaves_nothing() {
    for station in ["starts on", "2. ", "shard 3 | starts"] {
        let mut tour = Tour::begin();
        tour.wait_for(station);
        tour.interrupt();
        assert_eq!((tour.end(), &*tour.said("stderr")), (Some(130), ""));
        assert_eq!(tour.left(), 0, "after {station:?}");
    }
}
