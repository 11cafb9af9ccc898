//! The `ostrakon` command as a user sees it.

use std::fs;
use std::process::{Command, Output};

fn ostrakon(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ostrakon"))
        .args(arguments)
        .env_remove("POD_NAME")
        .output()
        .expect("the binary is built with its tests")
}

/// Runs the command, and checks its exit code and that standard error contains this text.
fn check(arguments: &[&str], code: i32, text: &str) {
    let output = ostrakon(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(said.contains(text), "{text:?} is not in {said:?}");
}

#[test]
fn help_is_for_reading_and_teaches() {
    let commands = [
        "serve", "dev", "build", "inspect", "pack", "status", "plan", "drain",
    ];
    let output = ostrakon(&["--help"]);
    let help = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    for part in commands.iter().chain(&["Exit codes:", "Examples:"]) {
        assert!(help.contains(part), "{part} is not in {help}");
    }
    for command in commands {
        let output = ostrakon(&[command, "--help"]);
        let help = String::from_utf8_lossy(&output.stdout);
        assert!(help.contains("Example"), "{help}");
    }
    let serve = ostrakon(&["serve", "--help"]);
    let help = String::from_utf8_lossy(&serve.stdout);
    for part in ["OSTRAKON_LISTEN", "[default: 0.0.0.0:8080]"] {
        assert!(help.contains(part), "{part} is not in {help}");
    }
}

#[test]
fn wrong_arguments_are_told_and_exit_with_64() {
    check(&[], 64, "Usage: ostrakon <COMMAND>");
    check(&["sreve"], 64, "a similar subcommand exists: 'serve'");
    check(&["serve"], 64, "--config-dir <DIR>");
    let dirs = ["serve", "--config-dir", "c", "--data-dir", "d"];
    let serve = |more: &[&'static str]| [&dirs, more].concat();
    check(
        &serve(&["--listen", "8080"]),
        64,
        "write an IP address and a port",
    );
    check(&serve(&["--ordinal", "x"]), 64, "--ordinal <N>");
    check(&serve(&["--ordinal", "1024"]), 64, "from 0 to 1023");
    for peers in ["kv-{}", "kv-{}:0", "kv-{}:99999", ":{}7070"] {
        check(&serve(&["--peers", peers]), 64, "write a host and a port");
    }
    for threads in ["0", "1025", "all"] {
        check(&serve(&["--threads", threads]), 64, "from 1 to 1024");
    }
    check(
        &serve(&["--ordinal", "0", "--log", "a=b=c"]),
        64,
        "not a log filter",
    );
    for timeout in ["soon", "0s", "5"] {
        let arguments = ["status", "--timeout", timeout];
        check(&arguments, 64, "write a time of more than 0, such as 250ms");
    }
    check(&["status", "--interval", "1s"], 64, "--watch");
    check(
        &["status", "--watch", "--interval", "0s"],
        64,
        "give at least 10ms",
    );
    check(&["plan"], 64, "--shards <N>");
    check(&["plan", "--shards", "0"], 64, "1..=1024");
    let guest = ["plan", "--shards", "3", "--guest", "nowhere"];
    check(&guest, 74, "cannot read nowhere");
    let token = ["plan", "--shards", "3", "--token-file", "nowhere"];
    check(&token, 74, "cannot read the token in nowhere");
    for no_data in ["src", "nowhere", "Cargo.toml"] {
        check(&["check", no_data], 74, "holds no data");
    }
    check(&["dev", "--port", "0"], 64, "--port <PORT>");
    let delays = "write a delay for each shard";
    check(&["dev", "--propagation", "soon"], 64, delays);
    check(&["dev", "--shards", "0"], 64, "--shards <N>");
    let address = "a loopback address that ends in .1";
    check(&["dev", "--address", "127.0.0.2"], 64, address);
    check(
        &["dev", "--guest", "nowhere"],
        64,
        "there is no directory nowhere",
    );
    check(&["dev", "--guest", "src"], 64, "holds no Cargo.toml");
    check(&["dev", "ctl"], 64, "<WORDS>...");
    check(
        &[
            "pack",
            "--name",
            "kv",
            "--guest",
            "g",
            "--from-literal",
            "a",
        ],
        64,
        "write it as KEY=VALUE",
    );
}

#[test]
fn a_pod_name_without_an_ordinal_is_told() {
    let output = Command::new(env!("CARGO_BIN_EXE_ostrakon"))
        .args(["serve", "--config-dir", "c", "--data-dir", "d"])
        .env("POD_NAME", "kv-6f9-abcde")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(said.contains("give --ordinal, or set POD_NAME"), "{said}");
}

#[test]
fn what_is_no_guest_is_neither_inspected_nor_packed() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, content, text) in [
        ("text", &b"hello"[..], "this is not WebAssembly"),
        ("core", b"\0asm\x01\0\0\0", "this is a core module"),
        (
            "empty",
            b"\0asm\x0d\0\x01\0",
            "does not export describe, check",
        ),
    ] {
        let path = scratch.path().join(name);
        fs::write(&path, content).unwrap();
        let path = path.to_str().unwrap();
        check(&["inspect", path], 64, text);
        check(&["pack", "--name", "kv", "--guest", path], 64, text);
    }
    let missing = scratch.path().join("missing");
    check(&["inspect", missing.to_str().unwrap()], 74, "cannot read");
}

#[test]
fn a_directory_that_is_no_crate_is_not_built() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().to_str().unwrap();
    check(&["build", path], 64, "holds no cargo package");
}

/// The token goes into a header, and nowhere else.
#[test]
fn a_token_in_a_file_is_shown_to_the_shard() {
    use std::io::{BufRead as _, BufReader, Write as _};

    const TOKEN: &str = "token-0123456789abcdef";
    let scratch = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = scratch.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let token = file("token", &format!("{TOKEN} \nanother\n"));
    let shard = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = shard.local_addr().unwrap().to_string();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = shard.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let asked: Vec<_> = lines
            .by_ref()
            .map(Result::unwrap)
            .take_while(|line| !line.is_empty())
            .collect();
        let answer = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 4\r\n\r\nnot\n";
        stream.write_all(answer).unwrap();
        asked
    });
    let asked_with = ["drain", "--admin", &admin, "--token-file", &token];
    let output = ostrakon(&asked_with);
    let asked = answering.join().unwrap();
    assert_eq!(asked[0], "POST /drain HTTP/1.1");
    let shown = format!("authorization: Bearer {TOKEN}");
    assert!(asked.contains(&shown), "{asked:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("401") && !said.contains(TOKEN), "{said}");

    let with = |file: &str| ["drain", "--token-file", file].map(str::to_owned);
    let refused = |file: &str, code, text| {
        let arguments = with(file);
        check(&arguments.each_ref().map(String::as_str), code, text);
    };
    refused("nowhere", 74, "cannot read the token in nowhere");
    refused(
        &file("empty", "\nsecond\n"),
        64,
        "holds no token on its first line",
    );
    refused(
        &file("odd", "a\u{1}b"),
        64,
        "holds no token on its first line",
    );
}

#[test]
fn a_port_that_is_no_admin_port_is_told() {
    use std::io::{Read as _, Write as _};

    let public = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = public.local_addr().unwrap().to_string();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = public.accept().unwrap();
        let _read = stream.read(&mut [0; 1024]).unwrap();
        let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).unwrap();
    });
    let error = "is not the admin port of a shard: it answers 404 to /status";
    check(&["status", "--admin", &address], 69, error);
    answering.join().unwrap();
}

#[test]
fn where_no_shard_runs_status_and_drain_say_so() {
    // The port is bound and closed again, so nothing listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap().to_string();
    drop(port);
    for command in [&["status"][..], &["drain"], &["plan", "--shards", "3"]] {
        let arguments = [command, &["--admin", &address]].concat();
        check(&arguments, 69, "cannot connect to");
    }
}
