//! Data that another version of the host wrote. Data of a later version is refused or left alone,
//! and the log says so. Damaged data is never treated as missing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ostrakon_base::digest::Digest;
use ostrakon_tests::cluster::shards;
use ostrakon_tests::command::output_of;
use ostrakon_tests::host::{Host, Shard, binary, config, guest, last_words};
use redb::{Database, ReadableDatabase as _, TableDefinition};
use tempfile::TempDir;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// The end of each message about data that a later version wrote.
const HELP: &str = "run the version that wrote it, or a newer one; nothing was changed";

/// The content of each file under a directory.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }
    files
}

/// A stopped shard, the only one of its cluster, with data.
fn stopped(part: u8) -> Shard {
    let shard = shards(part, 1, &config(&guest("kv"), &[])).remove(0);
    let host = shard.start();
    let saved = host.client().get("/save/key/word").unwrap();
    assert_eq!(saved.status, 200, "{}", saved.text());
    host.stop();
    shard
}

/// Checks that the host has the stored value, and stops it.
fn has_its_data(host: Host) -> String {
    assert_eq!(host.client().get("/load/key").unwrap().text(), "word");
    host.stop()
}

/// The first line of a log that contains `text`.
fn line<'a>(log: &'a str, text: &str) -> &'a str {
    let line = log.lines().find(|line| line.contains(text));
    line.unwrap_or_else(|| panic!("{text:?} is not in {log}"))
}

/// A copy of the data file with a changed row in `meta`. The file looks as a killed process leaves
/// it, because opening it for writing changes it.
fn with_row(file: &Path, name: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let scratch = tempfile::tempdir().unwrap();
    let copy = scratch.path().join("copy");
    fs::copy(file, &copy).unwrap();
    let database = Database::open(&copy).unwrap();
    let reading = database.begin_read().unwrap().open_table(META).unwrap();
    let before = reading.get(name).unwrap().unwrap().value().to_vec();
    drop(reading);
    let writing = database.begin_write().unwrap();
    let mut meta = writing.open_table(META).unwrap();
    meta.insert(name, change(before).as_slice()).unwrap();
    drop(meta);
    writing.commit().unwrap();
    fs::read(&copy).unwrap()
}

/// The exit code and standard error of `ostrakon check`.
fn check(shard: &Shard) -> (Option<i32>, String) {
    let mut command = Command::new(&shard.binary);
    let output = command.arg("check").arg(&shard.data).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

#[test]
fn data_of_a_later_version_is_refused_with_both_numbers_and_stays_as_it_is() {
    let shard = stopped(90);
    let file = shard.data.join("shard.redb");
    let whole = fs::read(&file).unwrap();
    // Records begin with a mark, and then their version.
    let later = |mut record: Vec<u8>| {
        assert_eq!(&record[..4], b"ostr");
        assert!([1, 2].contains(&record[4]) && record[5] == 0);
        record[4] = 9;
        record
    };
    let mut of_redb = whole.clone();
    for slot in [64, 192] {
        assert_eq!(of_redb[slot], 3);
        of_redb[slot] = 9;
    }
    let layout = with_row(&file, "layout", |_| 9_u32.to_le_bytes().to_vec());
    for (content, what, reads) in [
        (of_redb, "the data's file format", 3),
        (layout, "the data's layout", 2),
        (
            with_row(&file, "generation", later),
            "what is stored of the live generation",
            3,
        ),
        (
            with_row(&file, "topology", later),
            "what is stored of the shard's place among others",
            1,
        ),
    ] {
        fs::write(&file, content).unwrap();
        let before = files(&shard.data);
        let (status, log) = shard.spawn().wait();
        assert_eq!(status.code(), Some(74), "{what}: {log}");
        let said = last_words(&log);
        let versions = format!("{what} is of version 9, and this version of ostrakon (");
        for text in [
            &file.display().to_string(),
            &versions,
            &format!("reads up to {reads}: {HELP}"),
        ] {
            assert!(said.contains(text), "{text:?} is not in {said}");
        }
        assert!(files(&shard.data) == before, "{what}: the data was changed");
        let (code, said) = check(&shard);
        assert_eq!(code, Some(74), "{what}: {said}");
        assert!(said.contains(&versions), "{said}");
        assert!(files(&shard.data) == before, "{what}: the data was changed");
    }
    fs::write(&file, whole).unwrap();
    assert_eq!(check(&shard).0, Some(0));
    has_its_data(shard.start());
}

#[test]
fn a_damaged_record_is_refused_and_nothing_is_changed() {
    let shard = stopped(91);
    let file = shard.data.join("shard.redb");
    let whole = fs::read(&file).unwrap();
    let cut = |mut record: Vec<u8>| {
        record.pop();
        record
    };
    for name in ["generation", "topology"] {
        fs::write(&file, &whole).unwrap();
        fs::write(&file, with_row(&file, name, cut)).unwrap();
        let before = files(&shard.data);
        let (status, log) = shard.spawn().wait();
        assert_eq!(status.code(), Some(65), "{name}: {log}");
        let said = last_words(&log);
        assert!(said.contains("cannot be read"), "{said}");
        assert!(said.ends_with("restore it from a backup"), "{said}");
        assert!(files(&shard.data) == before, "{name}: the data was changed");
        let (code, said) = check(&shard);
        assert_eq!(code, Some(65), "{name}: {said}");
    }
    fs::write(&file, whole).unwrap();
    has_its_data(shard.start());
}

#[test]
fn a_note_of_where_peers_were_that_cannot_be_read_is_told_and_keeps_no_shard_from_starting() {
    let shard = stopped(92);
    let path = shard.data.join("peers.json");
    for (note, said) in [
        (
            r#"{"version":9,"places":[]}"#,
            "the note of where peers were is of version 9, and this version of ostrakon (",
        ),
        ("{", "the note of where peers were cannot be read: "),
        (
            r#"{"version":1,"peers":{},"more":1}"#,
            "the note of where peers were cannot be read: unknown field `more`",
        ),
    ] {
        fs::write(&path, note).unwrap();
        let log = has_its_data(shard.start());
        let told = line(&log, said);
        assert!(told.contains(r#""level":"WARN""#), "{told}");
        assert!(told.contains("peers.json"), "{told}");
        // The host has no peers, so it does not rewrite the note.
        assert_eq!(fs::read(&path).unwrap(), note.as_bytes());
    }
}

#[test]
fn a_note_of_a_compile_that_cannot_be_read_counts_as_one_that_a_process_died_of() {
    let shard = Shard::new(&config(&guest("kv"), &[]));
    let notes = shard.data.join("compiling");
    let note = notes.join(Digest::of(&guest("kv")).to_string());
    fs::create_dir_all(&notes).unwrap();
    let start = |content: &str, said: &str| {
        fs::write(&note, content).unwrap();
        let host = shard.start();
        assert_eq!(host.metric("ostrakon_compiles_total{result=\"done\"}"), 1);
        let log = host.stop();
        let told = line(&log, said);
        assert!(told.contains("that a process did not survive"), "{told}");
        assert!(!note.exists(), "the note must be removed after success");
        fs::remove_dir_all(shard.data.join("compiled")).unwrap();
    };
    start("{", "the note of a compile cannot be read: ");
    let later = r#"{"version":9,"tries":[]}"#;
    start(later, "the note of a compile is of version 9, and ");
    // The note stays for the version that wrote it.
    let aside = note.with_extension("v9");
    assert_eq!(fs::read(&aside).unwrap(), later.as_bytes());
    shard.start().stop();
    assert_eq!(fs::read(&aside).unwrap(), later.as_bytes());
}

#[test]
fn a_compiled_guest_of_another_version_or_damaged_is_told_and_compiled_anew() {
    let shard = Shard::new(&config(&guest("kv"), &[]));
    let host = shard.start();
    let compiled = || {
        let mut found = fs::read_dir(shard.data.join("compiled")).ok()?;
        let path = found.next()?.unwrap().path();
        (path.extension()? == "cwasm").then_some(path)
    };
    // The compiled guest is kept in the background.
    host.wait_until("the compiled guest", |_| compiled().is_some());
    host.stop();
    let path = compiled().unwrap();
    let whole = fs::read(&path).unwrap();
    let changed = |at: usize, byte: u8| {
        let mut content = whole.clone();
        assert_ne!(content[at], byte);
        content[at] = byte;
        content
    };
    for (content, said) in [
        (changed(7, b'2'), "another version of ostrakon wrote it"),
        (
            changed(whole.len() - 1, !whole[whole.len() - 1]),
            "it is damaged",
        ),
        (whole[..40].to_vec(), "it is damaged"),
    ] {
        fs::write(&path, content).unwrap();
        let host = shard.start();
        assert_eq!(host.metric("ostrakon_compiles_total{result=\"done\"}"), 1);
        host.wait_until("the compiled guest", |_| {
            fs::read(&path).is_ok_and(|now| now.len() >= whole.len())
        });
        let log = host.stop();
        let told = line(&log, "a compiled guest is not used");
        assert!(told.contains(said), "{told}");
    }
}

#[test]
fn a_generation_that_is_not_there_as_it_was_kept_is_told_and_kept_anew() {
    let mut shard = stopped(93);
    let mut kept = fs::read_dir(shard.data.join("generations")).unwrap();
    let kept = kept.next().unwrap().unwrap().path();
    let component = kept.join("guest.wasm");
    let damages: [(&dyn Fn(), &str); 3] = [
        (
            &|| fs::write(&component, b"no guest").unwrap(),
            "is damaged: its files are not those that were kept",
        ),
        (
            &|| {
                fs::remove_file(&component).unwrap();
                for entry in fs::read_dir(&kept).unwrap() {
                    fs::remove_file(entry.unwrap().path()).unwrap();
                }
            },
            "cannot be read: ",
        ),
        (&|| fs::remove_dir_all(&kept).unwrap(), "is missing"),
    ];
    for (damage, said) in damages {
        damage();
        let log = has_its_data(shard.start());
        let told = line(&log, "the generation that served last is not there");
        assert!(told.contains(said), "{told}");
        assert_eq!(fs::read(&component).unwrap(), guest("kv"));
    }
    // If the ConfigMap is useless, too, and what the plan names, there is nothing left to start on.
    fs::write(&component, b"no guest").unwrap();
    for kept in fs::read_dir(shard.data.join("owners")).unwrap() {
        fs::write(kept.unwrap().path().join("guest.wasm"), b"no guest").unwrap();
    }
    shard.config.publish(&config(b"not Wasm", &[])).unwrap();
    let before = files(&shard.data.join("generations"));
    let log = shard.is_refused("what served last is not there either: ");
    assert!(last_words(&log).contains("is damaged: its files"), "{log}");
    assert_eq!(files(&shard.data.join("generations")), before);
}

/// `ostrakon dev` on a state directory that it must refuse.
struct Dev(TempDir);

impl Dev {
    /// A state directory of a set of five shards that have data.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        fs::create_dir(path.join("config")).unwrap();
        fs::write(path.join("config/guest.wasm"), guest("kv")).unwrap();
        fs::create_dir_all(path.join("state/shard-0/data")).unwrap();
        let source = path.join("config").display().to_string();
        for (name, content) in [
            ("lock", ""),
            ("source", source.as_str()),
            ("shards", "5\n"),
            ("version", "1\n"),
        ] {
            fs::write(path.join("state").join(name), content).unwrap();
        }
        Self(directory)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.0.path().join("state").join(name), content).unwrap();
    }

    /// Runs it, checks that it changes nothing, and returns its error.
    fn refused(&self, code: i32) -> String {
        let state = self.0.path().join("state");
        let before = files(&state);
        let mut command = Command::new(binary());
        command
            .args(["dev", "--address", "127.0.77.1", "--config-dir"])
            .arg(self.0.path().join("config"))
            .arg("--state")
            .arg(&state)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let Output { status, stderr, .. } = output_of(&mut command);
        let said = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(code), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        let mut after = files(&state);
        // The socket is not part of the state.
        after.remove(&state.join("ctl"));
        assert_eq!(after, before);
        said
    }
}

#[test]
fn a_state_directory_of_a_later_version_is_refused_and_stays_as_it_is() {
    let dev = Dev::new();
    dev.write("version", "9\n");
    dev.write("lock", "a later version's");
    let said = dev.refused(74);
    for text in [
        "state/version: the state directory is of version 9, and this version of ostrakon (",
        "reads up to 1: run the version that wrote it, or a newer one, or give another --state; nothing was changed",
    ] {
        assert!(said.contains(text), "{said}");
    }
}

/// A number of shards that could not be read was once treated as missing: three shards were started
/// where five had data.
#[test]
fn a_damaged_state_directory_is_refused_and_never_taken_for_an_empty_one() {
    let dev = Dev::new();
    dev.write("version", "one\n");
    let said = dev.refused(65);
    assert!(
        said.contains("state/version: the state directory cannot be read"),
        "{said}"
    );
    dev.write("version", "1\n");
    for damaged in ["", "many\n", "0\n"] {
        dev.write("shards", damaged);
        let said = dev.refused(65);
        assert!(
            said.contains("state/shards: the number of shards"),
            "{said}"
        );
        assert!(said.contains("write the number into it"), "{said}");
    }
    fs::remove_file(dev.0.path().join("state/shards")).unwrap();
    let said = dev.refused(65);
    assert!(said.contains("it is missing"), "{said}");
}
