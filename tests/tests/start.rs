//! Starting: with which data and settings a shard starts, and the message if it cannot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ostrakon_tests::host::{Files, Host, Shard, config, guest, last_words};

/// The exit code and the last message of a host that cannot start.
fn refusal(shard: &Shard) -> (Option<i32>, String) {
    let (status, log) = shard.spawn().wait();
    (status.code(), last_words(&log))
}

#[test]
fn a_second_host_on_a_data_directory_is_refused_with_one_line() {
    let shard = Shard::new(&config(&guest("kv"), &[]));
    let host = shard.start();
    let (code, said) = refusal(&shard);
    assert_eq!(code, Some(75), "{said:?}");
    let data = shard.data.display().to_string();
    assert!(said.contains(&data), "{said:?}");
    // The first host is not affected.
    let saved = host.client().get("/save/a/b").unwrap();
    assert_eq!((saved.status, saved.text()), (200, "b"));
    host.stop();
}

#[test]
fn a_first_start_on_a_bad_configuration_is_one_line_and_code_64() {
    let toml = |text: &str| config(&guest("kv"), &[("ostrakon.toml", text)]);
    let cases: [(&str, Files, &str); 6] = [
        ("nothing", Files::new(), "holds no files"),
        (
            "not Wasm",
            config(b"not Wasm at all", &[]),
            "not WebAssembly",
        ),
        ("half a guest", config(&guest("kv")[..5000], &[]), "cut off"),
        (
            "an unknown setting",
            toml("[writer]\nmax_gruop = 3"),
            "max_gruop",
        ),
        ("not TOML", toml("[writer"), "ostrakon.toml"),
        (
            "settings that the guest refuses",
            config(&guest("kv"), &[("sharding", "astrology")]),
            "astrology",
        ),
    ];
    for (case, files, named) in cases {
        let (code, said) = refusal(&Shard::new(&files));
        assert_eq!(code, Some(64), "{case}: {said:?}");
        assert!(said.contains(named), "{case}: {said:?}");
    }
}

/// `kubectl describe` shows the end of a finished Pod's log.
#[test]
fn what_ends_a_shard_is_told_in_the_format_of_its_log_whatever_the_filter_is() {
    let shard = Shard::new(&config(b"not Wasm at all", &[]));
    let ends = |flags: &[&str]| {
        let output = Command::new(&shard.binary)
            .args(["serve", "--config-dir"])
            .arg(shard.config.directory())
            .arg("--data-dir")
            .arg(&shard.data)
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(flags)
            .env("POD_NAME", "without-a-number")
            .output()
            .expect("it ends");
        let said = String::from_utf8(output.stderr).expect("a text");
        assert_eq!(output.status.code(), Some(64), "{said}");
        said
    };
    let said = ends(&["--ordinal", "0", "--log-format", "json", "--log", "off"]);
    let said = last_words(&said);
    assert!(said.contains("not WebAssembly"), "{said}");
    // With the format for people, the message looks like that of any command.
    let said = ends(&["--ordinal", "0", "--log-format", "human", "--log", "error"]);
    assert!(said.starts_with("error: "), "{said}");
    // The process does not know its ordinal yet.
    let said = last_words(&ends(&["--log-format", "json"]));
    assert!(said.contains("without-a-number"), "{said}");
}

#[test]
fn with_a_bad_configuration_it_starts_on_the_last_good_generation_and_says_why() {
    let mut shard = Shard::new(&config(&guest("kv"), &[("label", "first")]));
    let host = shard.start();
    host.client().get("/save/key/word").unwrap();
    let first = host.generation();
    host.stop();

    shard.config.publish(&config(b"not Wasm", &[])).unwrap();
    let host = shard.start();
    let status = host.wait_for_status("the refusal", |status| status["refused"].is_object());
    assert_eq!(status["generation"]["generation"], first, "{status:#}");
    assert_eq!(status["refused"]["step"], "verify", "{status:#}");
    let reason = status["refused"]["reason"].as_str().unwrap();
    assert!(reason.contains("not WebAssembly"), "{reason}");
    let loaded = host.client().get("/load/key").unwrap();
    assert_eq!((loaded.text(), loaded.generation()), ("word", first));

    // It continues with later generations.
    let second = config(&guest("kv"), &[("label", "second")]);
    shard.config.publish(&second).unwrap();
    host.wait_for_status("the next generation", |status| {
        status["generation"]["generation"] == first + 1
    });
    assert_eq!(host.client().get("/load/key").unwrap().text(), "word");
    host.stop();
}

#[test]
fn the_generations_number_survives_stops_and_kills() {
    let mut shard = Shard::new(&config(&guest("kv"), &[("label", "0")]));
    let mut expected = 1;
    for label in ["1", "2", "3"] {
        let host = shard.start();
        assert_eq!(host.generation(), expected);
        let files = config(&guest("kv"), &[("label", label)]);
        shard.config.publish(&files).unwrap();
        expected += 1;
        host.wait_for_status("the swap", |status| {
            status["generation"]["generation"] == expected
        });
        host.kill();
        let host = shard.start();
        assert_eq!(host.generation(), expected);
        host.stop();
    }
    // Content that changed while no host ran is a new generation.
    let files = config(&guest("kv"), &[("label", "changed meanwhile")]);
    shard.config.publish(&files).unwrap();
    let host = shard.start();
    host.wait_for_status("the swap", |status| {
        status["generation"]["generation"] == expected + 1
    });
    host.stop();
}

#[test]
fn a_default_guest_serves_until_the_configmap_brings_one_and_after_it_took_it_away() {
    let settings = Files::from([("label".to_owned(), b"settings alone".to_vec())]);
    let mut shard = Shard::new(&settings);
    let default = shard.directory().join("default.wasm");
    std::fs::write(&default, guest("kv")).unwrap();
    shard.arguments = ["--default-guest".to_owned(), default.display().to_string()].to_vec();
    let named = |host: &Host, generation: u64, name: &str| {
        let status = host.wait_for_status("the generation", |status| {
            status["generation"]["generation"] == generation
        });
        assert_eq!(status["generation"]["name"], name, "{status:#}");
        status["generation"]["digest"].clone()
    };
    let host = shard.start();
    assert_eq!(host.client().get("/save/a/b").unwrap().text(), "b");
    let of_default = named(&host, 1, "kv");
    let same = config(&guest("kv"), &[("label", "settings alone")]);
    shard
        .config
        .publish(&config(&guest("counter"), &[]))
        .unwrap();
    named(&host, 2, "counter");
    shard.config.publish(&settings).unwrap();
    assert_eq!(named(&host, 3, "kv"), of_default);
    // The same content is the same generation, whatever its source.
    shard.config.publish(&same).unwrap();
    host.stop();
    let host = shard.start();
    assert_eq!(named(&host, 3, "kv"), of_default);
    assert_eq!(host.client().get("/load/a").unwrap().text(), "b");
    host.stop();

    shard.config.publish(&settings).unwrap();
    std::fs::remove_file(&default).unwrap();
    let (code, said) = refusal(&shard);
    assert_eq!(code, Some(64), "{said:?}");
    for part in ["default.wasm", "--default-guest"] {
        assert!(said.contains(part), "{said:?}");
    }
}

/// An optional ConfigMap that does not exist is mounted as an empty directory.
#[test]
fn a_default_guest_serves_where_the_configmap_is_empty() {
    let mut shard = Shard::new(&Files::new());
    let default = shard.directory().join("default.wasm");
    std::fs::write(&default, guest("kv")).unwrap();
    shard.arguments = ["--default-guest".to_owned(), default.display().to_string()].to_vec();
    for start in 1..=2 {
        let host = shard.start();
        let status = host.status();
        assert_eq!(status["generation"]["name"], "kv", "{status:#}");
        assert_eq!(status["generation"]["generation"], 1, "start {start}");
        assert!(status["refused"].is_null(), "{status:#}");
        assert_eq!(host.client().get("/save/a/b").unwrap().text(), "b");
        host.stop();
    }
    // A volume that had settings does not become empty on purpose.
    let host = shard.start();
    let settings = Files::from([("label".to_owned(), b"settings".to_vec())]);
    shard.config.publish(&settings).unwrap();
    host.wait_for_status("the settings", |status| {
        status["generation"]["generation"] == 2
    });
    shard.config.publish(&Files::new()).unwrap();
    let status = host.wait_for_status("the refusal", |status| !status["refused"].is_null());
    assert_eq!(status["generation"]["generation"], 2, "{status:#}");
    assert_eq!(host.client().get("/load/a").unwrap().text(), "b");
    host.stop();
}

/// A guest may take long to compile or to check itself, while nobody is served yet.
#[test]
fn one_that_is_told_to_end_before_it_is_ready_ends_at_once() {
    let toml = "guest.check_deadline = \"10m\"";
    let files = [("ostrakon.toml", toml), ("misbehave", "loop-in-check")];
    let mut shard = Shard::new(&config(&guest("hostile"), &files));
    let host = shard.spawn();
    host.wait_for_status("the check", |status| status["candidate"]["step"] == "check");
    host.signal("TERM");
    let (status, log) = host.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("told to end before it was ready"), "{log}");
    // It leaves the data in order.
    shard.config.publish(&config(&guest("kv"), &[])).unwrap();
    shard.start().stop();
}

fn fifo(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.is_ok_and(|status| status.success()), "mkfifo failed");
}

/// A FIFO as lock, store, cache entry or kept generation once hung the start.
#[test]
fn a_fifo_among_the_data_is_one_line_or_passed_over_and_hangs_nothing() {
    let shard = Shard::new(&config(&guest("kv"), &[]));
    shard.start().stop();
    let paths = |directory: &str| -> Vec<PathBuf> {
        let entries =
            fs::read_dir(shard.data.join(directory)).expect("the directory can be listed");
        entries
            .map(|entry| entry.expect("the entry can be read").path())
            .collect()
    };
    // Files that can be made again are made again.
    for path in [paths("compiled"), paths("generations")].concat() {
        if path.is_dir() {
            fs::remove_dir_all(&path).expect("it is there");
        } else {
            fs::remove_file(&path).expect("it is there");
        }
        fifo(&path);
        shard.start().stop();
    }
    for name in ["lock", "shard.redb"] {
        let path = shard.data.join(name);
        let aside = shard.data.join("aside");
        fs::rename(&path, &aside).expect("it is there");
        fifo(&path);
        let (code, said) = refusal(&shard);
        assert_eq!(code, Some(74), "{name}: {said:?}");
        assert!(said.contains(name) && said.contains("FIFO"), "{said}");
        fs::rename(&aside, &path).expect("it is put back");
    }
    shard.start().stop();
}

#[test]
fn a_fifo_on_a_command_line_is_one_line_and_hangs_nothing() {
    let shard = Shard::new(&config(&guest("kv"), &[]));
    let path = shard.directory().join("pipe");
    fifo(&path);
    let pipe = path.to_str().expect("a path");
    let commands: [&[&str]; 5] = [
        &["inspect", pipe],
        &["pack", "--name", "kv", "--guest", pipe],
        &["plan", "--guest", pipe, "--shards", "2"],
        &["drain", "--token-file", pipe],
        &["serve", "--default-guest", pipe],
    ];
    for arguments in commands {
        let mut command = if arguments[0] == "serve" {
            let mut command = shard.command();
            command.args(&arguments[1..]);
            command
        } else {
            let mut command = Command::new(&shard.binary);
            command.args(arguments);
            command
        };
        let output = command.stdin(Stdio::null()).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?}");
        let why = if arguments[0] == "serve" {
            last_words(&said)
        } else {
            assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
            said.into_owned()
        };
        assert!(why.contains("FIFO"), "{arguments:?}: {why}");
    }
}

/// The volume's thread once waited forever for the other end of a FIFO, which kept the process
/// running after SIGTERM.
#[test]
fn a_plain_directory_where_files_become_fifos_is_read_on_and_the_shard_ends() {
    let shard = Shard::new(&Files::new());
    let volume = shard.config.directory().to_owned();
    // The volume becomes a plain directory.
    fs::remove_file(volume.join("..data")).expect("it is there");
    fs::write(volume.join("guest.wasm"), guest("hostile")).expect("the file can be written");
    fs::write(volume.join("label"), "one").expect("the file can be written");
    let host = shard.start();
    let label = |host: &Host| host.client().get("/label").expect("an answer");
    assert_eq!(label(&host).text(), "one");
    // Some of the replacements fall between the check of the file type and the opening.
    let (pipe, file) = (volume.join(".pipe"), volume.join(".file"));
    for round in 0..300 {
        fifo(&pipe);
        fs::rename(&pipe, volume.join("label")).expect("it is replaced");
        fs::write(&file, format!("round {round}")).expect("the file can be written");
        fs::rename(&file, volume.join("label")).expect("it is replaced");
    }
    host.wait_until("the last content", |host| label(host).text() == "round 299");
    // A link that leads out of the volume is not followed either.
    std::os::unix::fs::symlink("/etc/passwd", &file).expect("it is made");
    fs::rename(&file, volume.join("label")).expect("it is replaced");
    let status = host.wait_for_status("the refusal", |status| status["refused"].is_object());
    let reason = status["refused"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("leads out of the volume"), "{status:#}");
    assert_eq!(label(&host).text(), "round 299");
    fs::remove_file(volume.join("label")).expect("it is there");
    fifo(&volume.join("label"));
    host.stop();
}
