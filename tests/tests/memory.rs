//! Data in a shard's memory is not readable from outside, and secrets are wiped when they are no
//! longer needed.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use ostrakon_tests::host::{CANARY, Files, Host, Shard, config, guest};

/// The id of a user who is neither root nor the one who runs the tests.
const NOBODY: u32 = 65_534;

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// A shard whose process runs as a user who is not root.
fn of_a_user() -> (Shard, Host) {
    let mut shard = Shard::new(&config(&guest("kv"), &[]));
    if is_root() {
        // That user may not have access to the build directory.
        let binary = shard.directory().join("ostrakon");
        fs::copy(&shard.binary, &binary).expect("a copy");
        shard.binary = binary;
        let user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
        shard.runner = [&["setpriv"], &user[..]]
            .concat()
            .iter()
            .map(|part| (*part).to_owned())
            .collect();
        give_away(shard.directory());
        fs::set_permissions(shard.directory(), Permissions::from_mode(0o755)).expect("opened");
    }
    let host = shard.start();
    (shard, host)
}

fn give_away(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).expect("given away");
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).expect("the directory can be listed") {
            let path = entry.expect("the entry can be read").path();
            if !path.is_symlink() {
                give_away(&path);
            }
        }
    }
}

#[test]
fn no_dump_is_made_and_nobody_of_the_same_user_looks_in() {
    let (_shard, host) = of_a_user();
    assert_eq!(
        host.client()
            .get("/save/key/word")
            .expect("an answer")
            .status,
        200
    );
    let process = format!("/proc/{}", host.id());
    let limits = fs::read_to_string(format!("{process}/limits")).expect("limits");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let words: Vec<_> = core.expect("there is a limit").split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{limits}");
    // The files under `/proc` of a dumpable process belong to its user, those of any other to root.
    for file in ["environ", "maps", "mem"] {
        let owner = fs::metadata(format!("{process}/{file}"))
            .expect("it is there")
            .uid();
        assert_eq!(owner, 0, "{file} must belong to root");
    }
    if is_root() {
        let mut same_user = Command::new("setpriv");
        same_user.args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "cat",
        ]);
        let read = same_user
            .arg(format!("{process}/environ"))
            .output()
            .expect("cat runs");
        assert!(!read.status.success() && read.stdout.is_empty(), "{read:?}");
    }
    host.stop();
}

/// Whether the programs that a process starts inherit this descriptor; none if there is no such
/// descriptor.
fn is_inherited(process: &str, descriptor: &str) -> Option<bool> {
    let close_on_exec = 0o2_000_000;
    let said = fs::read_to_string(format!("{process}/fdinfo/{descriptor}")).ok()?;
    let flags = said.lines().find_map(|line| line.strip_prefix("flags:"))?;
    let flags = u32::from_str_radix(flags.trim(), 8).expect("octal");
    Some(flags & close_on_exec == 0)
}

#[test]
fn nothing_is_left_to_a_child() {
    let shard = Shard::new(&config(&guest("kv"), &[]));
    let host = shard.start();
    let process = format!("/proc/{}", host.id());
    let mut looked_at = 0;
    for entry in fs::read_dir(format!("{process}/fdinfo")).expect("the descriptors can be listed") {
        let entry = entry.expect("the entry can be read");
        let number = entry
            .file_name()
            .into_string()
            .expect("the text is a number");
        // Descriptors that the host itself inherited, such as standard output, are not its own.
        if is_inherited("/proc/self", &number) == Some(true) || ["0", "1", "2"].contains(&&*number)
        {
            continue;
        }
        let left = is_inherited(&process, &number);
        assert_ne!(left, Some(true), "descriptor {number} would be inherited");
        looked_at += usize::from(left.is_some());
    }
    assert!(
        looked_at > 5,
        "fewer descriptors than ports, volumes and the store: {looked_at}"
    );
    for task in fs::read_dir(format!("{process}/task")).expect("the threads can be listed") {
        let children = task.expect("a thread").path().join("children");
        let children = fs::read_to_string(children).unwrap_or_default();
        assert_eq!(children.trim(), "", "the host has a child process");
    }
    println!("{looked_at} descriptors are closed by exec, no children");
    host.stop();
}

/// How often these bytes occur in a process's writable memory.
fn count_in_memory(process: u32, wanted: &[u8]) -> usize {
    const CHUNK: u64 = 1 << 20;
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).expect("maps");
    let memory = File::open(format!("/proc/{process}/mem")).expect("its memory");
    let mut found = 0;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (range, _) = line.split_once(' ').expect("a range");
        let (start, end) = range.split_once('-').expect("a range");
        let at = |text| u64::from_str_radix(text, 16).expect("the text is hexadecimal");
        let (mut start, end) = (at(start), at(end));
        // Chunks overlap by one byte less than the length that is searched for.
        let overlap = wanted.len() as u64 - 1;
        while start < end {
            let length = CHUNK.min(end - start);
            let mut bytes = vec![0; usize::try_from(length).expect("a chunk")];
            if memory.read_exact_at(&mut bytes, start).is_ok() {
                found += bytes
                    .windows(wanted.len())
                    .filter(|window| *window == wanted)
                    .count();
            }
            start += if start + length == end {
                length
            } else {
                length - overlap
            };
        }
    }
    found
}

fn secrets(value: &str) -> Files {
    let mut files = Files::from([("canary-of-all".to_owned(), CANARY.into())]);
    for name in ["api-key", "client-tokens", "admin-token", "peer-token"] {
        // Longer than the block of a hash, so that no whole value stays in its buffer.
        let value = format!("{value}-{name}-{}", "0123456789".repeat(20));
        files.insert(name.to_owned(), value.into_bytes());
    }
    files
}

/// Requests of clients and operators, and values that a guest has read, are not searched for: they
/// are in buffers and memories that are not wiped.
#[test]
fn a_value_that_was_rotated_out_is_in_the_memory_no_more() {
    if !is_root() {
        println!("not looked at: only root reads the memory of a process that cannot be dumped");
        return;
    }
    let mut shard = Shard::new(&config(&guest("kv"), &[]));
    shard
        .secrets
        .publish(&secrets("first-7d0e"))
        .expect("published");
    let host = shard.start();
    let before = count_in_memory(host.id(), b"first-7d0e");
    assert!(
        before >= 4,
        "the values in force were not found in memory: {before}"
    );
    let reloads = r#"ostrakon_credentials_reloads_total{listener="public"}"#;
    for (round, (value, gone)) in [("second-a1c9", "first-7d0e"), ("third-58be", "second-a1c9")]
        .into_iter()
        .enumerate()
    {
        shard.secrets.publish(&secrets(value)).expect("published");
        host.wait_until("the change", |host| {
            host.metric(reloads) == round as u64 + 1
        });
        assert!(count_in_memory(host.id(), value.as_bytes()) >= 4);
        // The last owner of an old value may be about to drop it.
        host.wait_until("the end of what was", |host| {
            count_in_memory(host.id(), gone.as_bytes()) == 0
        });
    }
    println!("{before} places had the first values, and none has them after the change");
    host.stop();
}
