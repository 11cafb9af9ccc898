//! Compiling: a guest that would take too many resources is refused, a compile that is no longer
//! wanted is stopped, and the process that compiles can do nothing else.

use std::cell::Cell;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_test_support::bombs::{branching, functions, long, nested, slow};
use ostrakon_tests::client::Client;
use ostrakon_tests::host::{CANARY, Files, Host, PATIENCE, Shard, binary, config, guest};
use ostrakon_tests::load::under_load;
use ostrakon_tests::memory::{Cgroup, status};
use serde_json::Value;

/// A ConfigMap with a compressed guest: some guests here are too large for it otherwise.
fn packed(guest: &[u8], toml: &str) -> Files {
    let mut files = config(b"", &[("ostrakon.toml", toml)]);
    files.remove("guest.wasm");
    let packed = zstd::encode_all(guest, 3).expect("the guest can be compressed");
    files.insert("guest.wasm.zst".to_owned(), packed);
    files
}

/// The running child processes of a host.
fn children(host: &Host) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{}/task", host.id()));
    let tasks = tasks.into_iter().flatten().flatten();
    let children = tasks.map(|task| fs::read_to_string(task.path().join("children")));
    let children = children.map(Result::unwrap_or_default);
    let children: Vec<_> = children
        .flat_map(|line| {
            let ids = line
                .split_whitespace()
                .map(|id| id.parse().expect("the text is a number"));
            ids.collect::<Vec<u32>>()
        })
        .collect();
    assert!(
        children.len() <= 1,
        "more than one guest is compiled at a time: {children:?}"
    );
    children
}

/// Waits until a child other than `before` compiles, and returns its process id. The child is
/// confined by then.
fn compiling(host: &Host, before: Option<u32>) -> u32 {
    let found = Cell::new(None);
    let look = |host: &Host| {
        let confined = |child: &u32| {
            let status = fs::read_to_string(format!("/proc/{child}/status"));
            status.is_ok_and(|status| status.contains("Seccomp:\t2") && runs(&status))
        };
        let mut children = children(host).into_iter();
        children.find(|child| Some(*child) != before && confined(child))
    };
    host.wait_until("a compile", |host| {
        found.set(look(host));
        found.get().is_some()
    });
    found.get().expect("it was waited for")
}

/// Whether this `/proc` status belongs to a process that has not ended.
fn runs(status: &str) -> bool {
    !status.contains("State:\tZ")
}

/// Waits until the note on the disk says that a compile was attempted this often.
fn noted(shard: &Shard, host: &Host, attempts: u64) {
    let note = |directory: fs::ReadDir| -> Option<Value> {
        let note = directory
            .flatten()
            .find_map(|entry| fs::read(entry.path()).ok())?;
        serde_json::from_slice(&note).ok()
    };
    host.wait_until("the note", |_| {
        let directory =
            fs::read_dir(shard.data.join("compiling")).expect("the directory can be listed");
        note(directory).is_some_and(|note| note["attempts"] == attempts)
    });
}

/// How many guests have a note on the disk that they are being compiled.
fn notes(shard: &Shard) -> usize {
    let notes = fs::read_dir(shard.data.join("compiling"));
    notes.expect("a directory").count()
}

fn until_gone(child: u32) {
    let deadline = Instant::now() + PATIENCE;
    let is_there = || {
        let status = fs::read_to_string(format!("/proc/{child}/status"));
        status.is_ok_and(|status| runs(&status))
    };
    while is_there() {
        assert!(
            Instant::now() < deadline,
            "the child process still compiles"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// A host's memory in MiB: current or peak, by `figure`.
fn resident(host: &Host, figure: &str) -> usize {
    status(host.id(), figure) >> 20
}

fn compiles(host: &Host, result: &str) -> u64 {
    host.metric(&format!("ostrakon_compiles_total{{result=\"{result}\"}}"))
}

/// Publishes a ConfigMap, and returns its refusal.
fn refusal(shard: &mut Shard, host: &Host, what: &str, files: &Files) -> Value {
    let before = host.status()["refused"].clone();
    shard.config.publish(files).expect("published");
    let status = host.wait_for_status(what, |status| {
        status["refused"] != before && status["candidate"].is_null()
    });
    assert_eq!(status["generation"]["generation"], 1, "{what}");
    assert_eq!(status["ready"], true, "{what}");
    status["refused"].clone()
}

/// The longest time that a request of another client took.
struct Others(AtomicU64);

impl Others {
    #[expect(
        clippy::print_stdout,
        reason = "the longest wait is printed also when the test passes"
    )]
    fn during<T>(host: &Host, meanwhile: impl FnOnce() -> T) -> T {
        let others = Self(AtomicU64::new(0));
        let request = |client: &mut Client, worker: usize, number: u64| {
            let began = Instant::now();
            let saved = client
                .get(&format!("/save/k{worker}/{number}"))
                .expect("an answer");
            assert_eq!(saved.status, 200, "{saved:?}");
            let took = u64::try_from(began.elapsed().as_micros()).expect("the number is small");
            others.0.fetch_max(took, Ordering::Relaxed);
        };
        let (requests, result) = under_load(host.address, 2, request, |_| meanwhile());
        let worst = Duration::from_micros(others.0.into_inner());
        println!("{requests} requests of others, 0 failed, the worst took {worst:?}");
        assert!(
            worst < Duration::from_secs(10),
            "other requests were delayed"
        );
        result
    }
}

#[test]
fn what_would_take_too_much_is_refused_before_it_is_compiled() {
    let kv = guest("kv");
    let mut shard = Shard::new(&config(&kv, &[]));
    let host = shard.start();
    let empty = |_: &mut wasm_encoder::InstructionSink<'_>| {};
    let mut bombs = vec![
        (
            "100,000 empty functions",
            functions(&kv, 100_000, 1, empty),
            " functions, and at most 65536",
        ),
        (
            "8 functions of 7.5 MB",
            functions(&kv, 8, 2, long(7_500_000)),
            "bytes in one function",
        ),
        (
            "locals and branches",
            functions(&kv, 1, 2000, branching(2000, 20, 60_000)),
            "times branch points",
        ),
    ];
    for depth in 5..10 {
        let bomb = nested(&kv, 10, depth);
        println!("{depth} levels are {} bytes", bomb.len() - kv.len());
        bombs.push(("nested components", bomb, "steps to instantiate it"));
    }
    let before = resident(&host, "VmRSS");
    Others::during(&host, || {
        for (what, bomb, reason) in &bombs {
            let began = Instant::now();
            let refused = refusal(&mut shard, &host, what, &packed(bomb, ""));
            println!("{what}: refused after {:?}", began.elapsed());
            assert_eq!(refused["step"], "verify", "{what}: {refused}");
            let said = refused["reason"].as_str().expect("there is a reason");
            assert!(said.contains(reason), "{what}: {said}");
        }
    });
    assert_eq!(
        compiles(&host, "done"),
        1,
        "only the live guest was compiled"
    );
    let (after, most) = (resident(&host, "VmRSS"), resident(&host, "VmHWM"));
    println!("{before} MiB before, {after} after, {most} at most");
    assert!(
        after < before + 40,
        "{after} MiB: the memory is not released"
    );
    // The largest guest is 62 MiB uncompressed, and there may be two copies for a moment.
    assert!(most < before + 250, "{most} MiB");
    host.stop();
}

#[test]
fn what_takes_too_much_is_ended_by_its_limit_and_costs_the_host_nothing() {
    let kv = guest("kv");
    let mut shard = Shard::new(&config(&kv, &[]));
    let host = shard.start();
    let before = resident(&host, "VmRSS");
    let cases = [
        ("compile_memory", "'64MiB'", "more than 64.0 MiB of memory"),
        ("compile_cpu", "'1s'", "more than 1s of processor time"),
        ("compile_deadline", "'300ms'", "not compiled within 300ms"),
    ];
    Others::during(&host, || {
        for (setting, value, reason) in cases {
            let toml = format!("guest.{setting} = {value}");
            let files = packed(&slow(&kv, 0), &toml);
            let refused = refusal(&mut shard, &host, setting, &files);
            assert_eq!(refused["step"], "compile", "{refused}");
            let said = refused["reason"].as_str().expect("there is a reason");
            assert!(said.contains(reason), "{setting}: {said}");
            assert!(said.contains(&format!("guest.{setting}")), "{said}");
            assert_eq!(refused["will_retry"], false);
            assert_eq!(children(&host), [0; 0]);
        }
    });
    assert_eq!(compiles(&host, "limit"), 3);
    let most = resident(&host, "VmHWM");
    println!("{before} MiB before, {most} at most");
    assert!(
        most < before + 120,
        "{most} MiB: more than a guest of 20 MB takes unpacked"
    );
    // Refusals are remembered only while the process lives. The disk has no trace of them.
    let notes = fs::read_dir(shard.data.join("compiling")).expect("the directory can be listed");
    assert_eq!(notes.count(), 0);
    host.stop();
}

/// The free memory was looked at only when the compile began, so the kernel killed the container
/// once others had taken that memory.
#[test]
fn a_compile_is_ended_when_others_take_its_room_and_tried_again() {
    let kv = guest("kv");
    let mut shard = Shard::new(&config(&kv, &[]));
    let Some(cgroup) = Cgroup::make(512 << 20) else {
        println!("no control group can be made here: not tried");
        return;
    };
    shard.runner = cgroup.runner();
    let host = shard.start();
    shard
        .config
        .publish(&packed(&slow(&kv, 1), ""))
        .expect("published");
    let child = compiling(&host, None);
    // `tail` keeps all its input in memory, because the input never has an end of line.
    let runner = cgroup.runner();
    let mut other = Command::new(&runner[0])
        .args(&runner[1..])
        .arg("tail")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("it runs");
    let mut takes = other.stdin.take().expect("the stream is piped");
    let is_there = || {
        let status = fs::read_to_string(format!("/proc/{child}/status"));
        status.is_ok_and(|status| runs(&status))
    };
    let mut taken = 0;
    while is_there() && taken < 512 {
        takes.write_all(&vec![0; 1 << 20]).expect("it is taken");
        taken += 1;
        thread::sleep(Duration::from_millis(5));
    }
    println!("{taken} MiB were taken");
    let refused = host.wait_for_status("the refusal", |status| status["refused"].is_object());
    let refused = &refused["refused"];
    let said = refused["reason"].as_str().expect("there is a reason");
    assert!(
        said.contains("memory left by the container's limit fell to"),
        "{said}"
    );
    assert_eq!(refused["will_retry"], true);
    assert_eq!(cgroup.killed(), 0, "{said}");
    assert_eq!(host.generation(), 1);
    other.kill().expect("it runs");
    other.wait().expect("it has ended");
    host.wait_until("the swap", |host| host.generation() == 2);
    host.stop();
}

#[test]
fn a_newer_content_ends_the_compile_of_the_one_before() {
    let kv = guest("kv");
    let mut shard = Shard::new(&config(&kv, &[]));
    let host = shard.start();
    Others::during(&host, || {
        shard
            .config
            .publish(&packed(&slow(&kv, 1), ""))
            .expect("published");
        let first = compiling(&host, None);
        // How long the first would take does not matter: only its end lets the second begin.
        shard
            .config
            .publish(&packed(&slow(&kv, 2), ""))
            .expect("published");
        let second = compiling(&host, Some(first));
        until_gone(first);
        shard
            .config
            .publish(&config(&kv, &[("sharding", "jump")]))
            .expect("published");
        host.wait_until("the last one", |host| host.generation() == 2);
        until_gone(second);
        // When the live guest is published again, there is nothing to compile.
        shard
            .config
            .publish(&packed(&slow(&kv, 3), ""))
            .expect("published");
        let third = compiling(&host, Some(second));
        shard
            .config
            .publish(&config(&kv, &[("sharding", "jump")]))
            .expect("published");
        until_gone(third);
    });
    host.wait_for_status("rest", |status| {
        status["candidate"].is_null() && status["refused"].is_null()
    });
    assert_eq!(
        (compiles(&host, "unwanted"), compiles(&host, "done")),
        (3, 1)
    );
    assert_eq!(host.generation(), 2);
    host.stop();
}

/// Requests a plan for a guest on a connection that sends nothing more and waits for the reply.
fn ask_for_a_plan(host: &Host, component: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(host.admin).expect("the host accepts connections");
    let length = component.len();
    let head =
        format!("POST /plan?shards=2 HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    stream
        .write_all(&[head.as_bytes(), component].concat())
        .expect("the bytes can be sent");
    stream.shutdown(Shutdown::Write).expect("it is open");
    stream
}

#[test]
fn a_plans_compile_ends_with_its_caller_and_gives_way_to_a_swap() {
    let kv = guest("kv");
    let mut shard = Shard::new(&config(&kv, &[]));
    let host = shard.start();
    let trial = zstd::encode_all(&slow(&kv, 1)[..], 3).expect("the guest can be compressed");
    let file = shard.directory().join("trial.wasm.zst");
    fs::write(&file, &trial).expect("the file can be written");

    let mut asking = Command::new(binary())
        .args(["plan", "--shards", "2", "--guest"])
        .arg(&file)
        .args(["--admin", &host.admin.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    let first = compiling(&host, None);
    let busy = Client::new(host.admin).send("POST", "/plan?shards=2", &[], &trial);
    assert_eq!(
        busy.expect("an answer").status,
        429,
        "one request at a time"
    );
    asking.kill().expect("it ran");
    asking.wait().expect("it has ended");
    until_gone(first);
    host.wait_until("its end", |host| compiles(host, "unwanted") == 1);

    let mut asking = ask_for_a_plan(&host, &trial);
    let second = compiling(&host, Some(first));
    shard
        .config
        .publish(&config(&guest("counter"), &[]))
        .expect("published");
    host.wait_until("the swap", |host| host.generation() == 2);
    until_gone(second);
    let mut answer = vec![0; 4096];
    let read = asking.read(&mut answer).expect("an answer");
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("try again soon"), "{answer}");

    // A draining shard runs no trials.
    let _asking = ask_for_a_plan(&host, &trial);
    let third = compiling(&host, Some(second));
    host.stop();
    until_gone(third);
}

#[test]
fn a_drain_ends_a_compile_and_says_nothing_against_the_guest() {
    let kv = guest("kv");
    let mut shard = Shard::new(&config(&kv, &[]));
    let host = shard.start();
    let mut child = None;
    for number in 0..3 {
        shard
            .config
            .publish(&packed(&slow(&kv, number), ""))
            .expect("published");
        child = Some(compiling(&host, child));
    }
    let child = child.expect("it was begun");
    noted(&shard, &host, 1);
    let log = host.stop();
    until_gone(child);
    assert!(!log.contains("generation refused"), "{log}");
    assert_eq!(notes(&shard), 0, "the attempt must not be counted");
}

#[test]
fn told_to_end_before_its_first_guest_is_compiled_it_says_nothing_against_it() {
    let shard = Shard::new(&packed(&slow(&guest("kv"), 0), ""));
    for _ in 0..3 {
        let host = shard.spawn();
        let child = compiling(&host, None);
        noted(&shard, &host, 1);
        host.signal("TERM");
        let (status, log) = host.wait();
        assert_eq!(status.code(), Some(0), "{log}");
        until_gone(child);
        assert_eq!(notes(&shard), 0, "{log}");
    }
}

#[test]
fn what_the_host_died_of_twice_is_not_tried_again_and_the_one_before_serves() {
    let kv = guest("kv");
    let mut shard = Shard::new(&config(&kv, &[]));
    let host = shard.start();
    let mut client = host.client();
    assert_eq!(client.get("/save/a/b").expect("an answer").status, 200);
    shard
        .config
        .publish(&packed(&slow(&kv, 1), ""))
        .expect("published");
    let child = compiling(&host, None);
    noted(&shard, &host, 1);
    host.kill();
    until_gone(child);

    let host = shard.start();
    let child = compiling(&host, None);
    noted(&shard, &host, 2);
    assert_eq!(host.client().get("/load/a").expect("an answer").text(), "b");
    host.kill();
    until_gone(child);

    let host = shard.start();
    let status = host.wait_for_status("the refusal", |status| !status["refused"].is_null());
    assert_eq!(status["refused"]["step"], "compile");
    let said = status["refused"]["reason"]
        .as_str()
        .expect("there is a reason");
    assert!(
        said.contains("died 2 times while it compiled this guest"),
        "{said}"
    );
    assert_eq!(host.client().get("/load/a").expect("an answer").text(), "b");
    assert_eq!(
        (compiles(&host, "remembered"), compiles(&host, "done")),
        (1, 0)
    );
    // The compile may succeed with more memory, and so may that of another guest.
    let more = packed(&slow(&kv, 1), "guest.compile_memory = '2GiB'");
    shard.config.publish(&more).expect("published");
    compiling(&host, None);
    shard
        .config
        .publish(&config(&guest("counter"), &[]))
        .expect("published");
    host.wait_until("the other", |host| {
        host.status()["generation"]["name"] == "counter"
    });
    host.stop();
}

#[test]
fn the_process_that_compiles_has_nothing_and_can_do_nothing_else() {
    let kv = guest("kv");
    let mut shard = Shard::new(&config(&kv, &[]));
    let host = shard.start();
    shard
        .config
        .publish(&packed(&slow(&kv, 1), ""))
        .expect("published");
    let child = compiling(&host, None);
    let of = |name: &str| fs::read_to_string(format!("/proc/{child}/{name}")).expect("it runs");
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{child}/task")).expect("the threads can be listed") {
        let status = fs::read_to_string(task.expect("a thread").path().join("status"));
        let status = status.expect("it runs");
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(status.contains(line), "{line} is not in {status}");
        }
        threads += 1;
    }
    for entry in fs::read_dir(format!("/proc/{child}/fd")).expect("the descriptors can be listed") {
        let entry = entry.expect("a descriptor");
        let target = fs::read_link(entry.path()).expect("it is open");
        let number = entry
            .file_name()
            .into_string()
            .expect("the text is a number");
        assert!(
            ["0", "1", "2"].contains(&&*number),
            "{number} is {}",
            target.display()
        );
        assert!(
            target.to_string_lossy().starts_with("pipe:"),
            "{}",
            target.display()
        );
    }
    assert_eq!(of("environ"), "");
    assert_eq!(
        fs::read_link(format!("/proc/{child}/cwd")).expect("it has one"),
        *"/"
    );
    assert_eq!(of("oom_score_adj").trim(), "1000");
    let limits = of("limits");
    let limit = |name: &str| {
        let line = limits
            .lines()
            .find(|line| line.starts_with(name))
            .expect("it is there");
        let words: Vec<_> = line[name.len()..].split_whitespace().collect();
        words[1].to_owned()
    };
    assert_eq!(limit("Max core file size"), "0");
    assert_eq!(limit("Max file size"), "0");
    assert_eq!(limit("Max open files"), "3");
    assert_eq!(limit("Max data size"), (1_u64 << 30).to_string());
    assert_eq!(limit("Max cpu time"), "121");
    let stat = of("stat");
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .expect("fields")
        .split_whitespace()
        .collect();
    assert_eq!(
        fields[2],
        child.to_string(),
        "the child has its own process group"
    );
    assert_eq!(
        fields[16], "10",
        "the child's priority is not lower than the host's: {stat}"
    );
    // Nor does the compiler's memory contain what the host's contains.
    let maps = of("maps");
    let memory = fs::File::open(format!("/proc/{child}/mem")).expect("its memory");
    let mut looked_at = 0;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (range, _) = line.split_once(' ').expect("a range");
        let (start, end) = range.split_once('-').expect("a range");
        let at = |text| u64::from_str_radix(text, 16).expect("the text is hexadecimal");
        let mut bytes = vec![0; usize::try_from(at(end) - at(start)).expect("the number fits")];
        if std::os::unix::fs::FileExt::read_exact_at(&memory, &mut bytes, at(start)).is_ok() {
            let mut windows = bytes.windows(CANARY.len());
            assert!(
                !windows.any(|window| window == CANARY.as_bytes()),
                "the child has a secret in memory"
            );
            looked_at += bytes.len() >> 10;
        }
    }
    println!("{threads} threads and {looked_at} KiB looked at");
    assert!(looked_at > 1024);
    host.stop();
    until_gone(child);
}

#[test]
fn where_the_kernel_filters_nothing_guests_are_compiled_within_limits_and_it_is_said() {
    ostrakon_test_support::seccomp::without_filters();
    let kv = guest("kv");
    let mut shard = Shard::new(&config(&kv, &[]));
    let host = shard.start();
    let large = packed(&slow(&kv, 0), "guest.compile_memory = '64MiB'");
    let refused = refusal(&mut shard, &host, "too large", &large);
    let said = refused["reason"].as_str().expect("there is a reason");
    assert!(said.contains("more than 64.0 MiB of memory"), "{said}");
    let log = host.stop();
    let expected = "the kernel does not filter its system calls";
    assert!(log.contains(expected), "{log}");
}
