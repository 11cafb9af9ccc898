//! A full disk: writes are refused with 507 and counted, and the log says why. Reads go on, writes
//! resume once there is space, and no acknowledged write is lost.
//!
//! The disk is a small tmpfs in a mount namespace of the test's own. An ordinary user can create
//! one where the system allows user namespaces; elsewhere the test fails and says so.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use ostrakon_test_support::api_server::ApiServer;
use ostrakon_tests::client::Client;
use ostrakon_tests::host::{PATIENCE, Shard, config, guest, last_words};
use ostrakon_tests::load::under_load;

const DISK: &str = "96m";
/// How many files and directories the disk can hold.
const FILES: u32 = 256;

/// A mount namespace with a small disk at `directory`. Dropping it removes both.
struct SmallDisk {
    holder: Child,
    directory: PathBuf,
}

impl SmallDisk {
    fn mount(directory: &Path) -> Self {
        fs::create_dir_all(directory).expect("the directory can be created");
        let script = format!(
            "mount -t tmpfs -o size={DISK},nr_inodes={FILES} tmpfs \"$0\" && echo mounted && read end"
        );
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`unshare` of util-linux is needed to mount a small disk");
        let mut line = String::new();
        let said = holder.stdout.take().expect("the stream is piped");
        BufReader::new(said)
            .read_line(&mut line)
            .expect("its output");
        assert_eq!(
            line, "mounted\n",
            "a small disk cannot be mounted here: run this test as root, or where users may make \
             namespaces (sysctl kernel.unprivileged_userns_clone)"
        );
        Self {
            holder,
            directory: directory.to_owned(),
        }
    }

    /// The command prefix that runs a command in the namespace.
    fn runner(&self) -> Vec<String> {
        let target = self.holder.id().to_string();
        [
            "nsenter",
            "--preserve-credentials",
            "--user",
            "--mount",
            "--target",
            &target,
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// The disk's path from outside the namespace.
    fn path(&self) -> PathBuf {
        let inside = self.directory.strip_prefix("/").expect("an absolute path");
        Path::new("/proc")
            .join(self.holder.id().to_string())
            .join("root")
            .join(inside)
    }

    /// Uses up the remaining space.
    fn fill(&self) {
        let mut filler = File::options()
            .create(true)
            .append(true)
            .open(self.path().join("filler"))
            .expect("a file");
        for size in [1 << 20, 4096, 1] {
            while filler.write_all(&vec![1; size]).is_ok() {}
        }
    }

    /// Uses up the remaining inodes. A full tmpfs still accepts empty files and directories, unlike
    /// other file systems.
    fn fill_places(&self) {
        let files = (0..FILES).map(|at| self.path().join(format!("filler-{at}")));
        assert!(
            files.map(File::create_new).any(|made| made.is_err()),
            "there is place for more"
        );
    }

    /// Frees the space that `fill` took.
    fn free(&self) {
        fs::remove_file(self.path().join("filler")).expect("the filler is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The acknowledged values.
#[derive(Default)]
struct Stored {
    values: BTreeMap<String, Vec<u8>>,
    acknowledged: u32,
    refused: u32,
}

impl Stored {
    /// Writes `count` values under new keys, so that the data grows and a full disk eventually has
    /// to refuse them.
    fn write(&mut self, client: &mut Client, count: u32) {
        for _ in 0..count {
            let number = self.acknowledged + self.refused;
            let key = format!("/kv/key-{number}");
            let value = number.to_le_bytes().repeat(4 << 10);
            let response = client.put(&key, &value).expect("an answer");
            if response.status < 300 {
                self.acknowledged += 1;
                self.values.insert(key, value);
            } else {
                let seen = (response.status, response.header("ostrakon-error"));
                assert_eq!(seen, (507, Some("store-full")), "{}", response.text());
                self.refused += 1;
            }
        }
    }

    /// Writes when there is space again. The host does not try the disk for a moment after it was
    /// full. After the first write that is stored, none is refused.
    fn write_with_space(&mut self, client: &mut Client) {
        let (acknowledged, deadline) = (self.acknowledged, Instant::now() + PATIENCE);
        while self.acknowledged == acknowledged {
            assert!(
                Instant::now() < deadline,
                "there is space, and no write is stored"
            );
            self.write(client, 1);
        }
        let refused = self.refused;
        self.write(client, 50);
        assert_eq!(self.refused, refused, "there is space again");
    }

    /// Reads all stored values back.
    fn check(&self, client: &mut Client) {
        for (key, value) in &self.values {
            let response = client.get(key).expect("an answer");
            assert_eq!(response.status, 200, "{key}: {}", response.text());
            assert!(response.body == *value, "{key} has another value");
        }
    }
}

/// Happens after an update of the host, which brings another compiler. The host notes on the disk
/// that it attempts a compile. A disk that could not take the note once left the shard without a
/// guest.
#[test]
fn a_guest_is_compiled_on_a_full_disk_and_serves_reads() {
    let mut shard = Shard::new(&config(&guest("kv"), &[]));
    let disk = SmallDisk::mount(&shard.data);
    shard.runner = disk.runner();
    let mut stored = Stored::default();
    let host = shard.start();
    stored.write(&mut host.client(), 10);
    // The compiled guest is kept in the background.
    host.wait_until("the compiled guest", |_| compiled(&disk).len() == 1);
    host.stop();
    for path in compiled(&disk) {
        fs::remove_file(path).expect("it is there");
    }
    disk.fill();

    let host = shard.start();
    stored.check(&mut host.client());
    assert_eq!(host.metric("ostrakon_compiles_total{result=\"done\"}"), 1);
    let log = host.stop();
    assert!(
        log.contains("cannot note that a guest is being compiled"),
        "{log}"
    );
    assert!(log.contains("a compiled guest cannot be kept"), "{log}");
    for directory in ["compiling", "compiled"] {
        let halves =
            fs::read_dir(disk.path().join(directory)).expect("the directory can be listed");
        assert_eq!(halves.count(), 0, "{directory}");
    }
}

/// Happens after an update to a host that keeps more kinds of files: it could not create a
/// directory, and ended.
#[test]
fn directories_that_are_missing_keep_no_shard_from_starting_on_a_full_disk() {
    let mut shard = Shard::new(&config(&guest("kv"), &[]));
    let disk = SmallDisk::mount(&shard.data);
    shard.runner = disk.runner();
    let mut stored = Stored::default();
    let host = shard.start();
    stored.write(&mut host.client(), 10);
    host.stop();
    let missing = ["compiling", "compiled", "owners"];
    for directory in missing {
        fs::remove_dir_all(disk.path().join(directory)).expect("it is there");
    }
    disk.fill();
    disk.fill_places();

    let host = shard.start();
    stored.check(&mut host.client());
    assert_eq!(host.metric("ostrakon_compiles_total{result=\"done\"}"), 1);
    let log = host.stop();
    for said in [
        "cannot note that a guest is being compiled",
        "a compiled guest cannot be kept",
    ] {
        assert!(log.contains(said), "{log}");
    }
    for directory in missing {
        assert!(!disk.path().join(directory).exists(), "{directory}");
    }
}

#[test]
fn a_first_start_on_a_full_disk_is_one_line_and_code_74() {
    let mut shard = Shard::new(&config(&guest("kv"), &[]));
    let disk = SmallDisk::mount(&shard.data);
    shard.runner = disk.runner();
    disk.fill();
    let refused = || {
        let (status, log) = shard.spawn().wait();
        assert_eq!(status.code(), Some(74), "{log}");
        let said = last_words(&log);
        for text in [
            "cannot use the data directory",
            "free space there, or enlarge the volume",
            "No space left",
        ] {
            assert!(said.contains(text), "{text:?} is not in {said}");
        }
    };
    refused();
    disk.fill_places();
    refused();
    // Files that were begun do not count as data.
    for entry in fs::read_dir(disk.path()).expect("the directory can be listed") {
        let path = entry.expect("the entry can be read").path();
        if path.to_string_lossy().contains("filler") {
            fs::remove_file(path).expect("it is there");
        }
    }
    shard.start().stop();
}

/// The files of completely compiled guests.
fn compiled(disk: &SmallDisk) -> Vec<PathBuf> {
    let files = fs::read_dir(disk.path().join("compiled")).expect("the directory can be listed");
    let files = files.map(|file| file.expect("a file").path());
    files
        .filter(|path| path.extension().is_some_and(|name| name == "cwasm"))
        .collect()
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() {
    let mut shard = Shard::new(&config(&guest("kv"), &[]));
    let disk = SmallDisk::mount(&shard.data);
    shard.runner = disk.runner();
    let api = ApiServer::start(1);
    let environment = api.environment().into_iter();
    let pod = ("POD_NAME".to_owned(), "shard-0".to_owned());
    shard.runner.push("env".to_owned());
    for (name, value) in environment.chain([pod]) {
        shard.runner.push(format!("{name}={value}"));
    }
    let told = |reason: &str| {
        let of_reason = |event: &serde_json::Value| event["reason"] == reason;
        api.wait_for(reason, |api| api.events().into_iter().find(of_reason))
    };
    let mut stored = Stored::default();

    let host = shard.start();
    let mut client = host.client();
    stored.write(&mut client, 100);
    assert_eq!(stored.refused, 0);

    // The disk is full: reads go on, even during the refused writes.
    disk.fill();
    let known = stored.values.clone();
    let keys: Vec<_> = known.keys().collect();
    let load = |client: &mut Client, _: usize, number: u64| {
        let key = keys[usize::try_from(number).expect("small") % keys.len()];
        let response = client.get(key).expect("an answer");
        assert_eq!(response.status, 200, "{key}: {}", response.text());
    };
    let (reads, ()) = under_load(host.address, 2, load, |_| {
        while stored.refused < 200 {
            stored.write(&mut client, 10);
        }
    });
    stored.check(&mut client);
    let event = told("WritesRefused");
    assert_eq!(
        (&event["type"], &event["regarding"]["name"]),
        (&"Warning".into(), &"shard-0".into())
    );
    let why = "the disk is full";
    let problem = &host.status()["store"]["problem"];
    for text in [&event["note"], problem] {
        assert!(text.as_str().unwrap().contains(why), "{text}");
    }
    let not_stored = "ostrakon_writes_not_stored_total{error=\"full\"}";
    assert_eq!(host.metric(not_stored), u64::from(stored.refused));
    let ready = host.admin("GET", "/livez").expect("an answer");
    assert_eq!(ready.status, 200, "a full disk is no reason for a restart");
    let compact = host.admin("POST", "/compact").expect("an answer");
    let text = "make space on the data volume, or enlarge it";
    assert_eq!(compact.status, 507, "{}", compact.text());
    assert!(compact.text().contains(text), "{}", compact.text());
    // A generation that cannot be kept is refused, and tried again automatically.
    let update = config(&guest("kv"), &[("of", "the full disk")]);
    shard
        .config
        .publish(&update)
        .expect("it is not on that disk");
    let status = host.wait_for_status("a refusal", |status| status["refused"].is_object());
    assert_eq!(status["refused"]["will_retry"], true, "{status:#}");
    assert_eq!(host.generation(), 1);

    // There is space again.
    disk.free();
    stored.write_with_space(&mut client);
    stored.check(&mut client);
    host.wait_for_status("the swap", |status| {
        status["generation"]["generation"] == 2 && status["refused"].is_null()
    });
    told("WritesResumed");
    assert!(host.status()["store"]["problem"].is_null());
    assert_eq!(host.metric(not_stored), u64::from(stored.refused));

    // Killed and restarted while the disk is full.
    disk.fill();
    stored.write(&mut client, 200);
    host.kill();
    let host = shard.start();
    let mut client = host.client();
    stored.check(&mut client);
    stored.write(&mut client, 200);
    stored.check(&mut client);
    disk.free();
    stored.write_with_space(&mut client);
    host.stop();
    let host = shard.start();
    stored.check(&mut host.client());
    println!(
        "{} writes acknowledged, {} refused with 507, {reads} reads meanwhile: 0 failed, 0 lost",
        stored.acknowledged, stored.refused
    );
}

#[test]
fn a_file_that_may_not_grow_is_a_full_disk_and_no_damage() {
    let mut shard = Shard::new(&config(&guest("kv"), &[]));
    shard.runner = ["prlimit", "--fsize=8000000"].map(str::to_owned).to_vec();
    let host = shard.start();
    let mut client = host.client();
    let (value, mut stored, mut refused) = (vec![b'v'; 20_000], 0, 0);
    for number in 0..3000 {
        let put = client.put(&format!("/kv/{number}"), &value);
        let put = put.expect("an answer");
        match put.status {
            201 => stored += 1,
            507 => refused += 1,
            _ => panic!("{number}: {put:?}"),
        }
        if refused == 10 {
            break;
        }
    }
    assert_eq!(refused, 10, "the file may grow after all");
    assert_eq!(host.metric("ostrakon_store_damaged"), 0);
    let problem = host.status()["store"]["problem"].to_string();
    assert!(!problem.contains("damaged"), "{problem}");
    host.kill();
    shard.runner.clear();
    let host = shard.start();
    let mut client = host.client();
    for number in 0..stored {
        let got = client.get(&format!("/kv/{number}")).expect("an answer");
        assert_eq!((got.status, got.body.len()), (200, value.len()), "{number}");
    }
    println!("{stored} values stored, {refused} refused, 0 lost");
}
