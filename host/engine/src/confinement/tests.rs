//! A confined process tries forbidden operations, and reports their results.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use super::*;

/// The variable that marks a test's second run, in the process that is confined.
const CONFINED: &str = "OSTRAKON_TEST_CONFINED";
const MEMORY: u64 = 256 << 20;

/// Runs one of these tests again in a separate process, which confines itself.
fn again(test: &str) -> Output {
    let program = env::current_exe().expect("a test has a path");
    let mut command = Command::new(program);
    command
        .args([
            "--exact",
            &format!("confinement::tests::{test}"),
            "--nocapture",
        ])
        .args(["--test-threads", "1"])
        .env(CONFINED, "1")
        .stdin(Stdio::null());
    command.output().expect("it runs")
}

fn is_confined() -> bool {
    env::var_os(CONFINED).is_some()
}

/// Confines this process. The test harness's other thread only waits.
fn confine_here(cpu: u64) {
    let bounds = Bounds {
        memory: MEMORY,
        cpu,
    };
    let filter = confine(bounds, || Ok(())).expect("it is confined");
    assert!(matches!(filter, Filter::Installed), "{filter:?}");
}

/// Prints directly, because the test harness's output may not work in the confined process.
#[expect(
    clippy::print_stdout,
    reason = "the process that started this one reads it"
)]
fn tell(what: &str, result: io::Result<()>) {
    match result {
        Ok(()) => println!("{what}: COULD"),
        Err(error) => println!("{what}: {error}"),
    }
}

#[test]
fn a_confined_process_opens_nothing_starts_nothing_and_ends_nobody() {
    if is_confined() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("an address");
        let file = File::open("/proc/self/status").expect("a file");
        let parent = rustix::process::getppid().expect("there is one");
        confine_here(60);
        tell("read a file", File::open("/etc/passwd").map(drop));
        tell("write a file", fs::write("/tmp/ostrakon-confined", "x"));
        tell("list a directory", fs::read_dir("/").map(drop));
        tell("remove a file", fs::remove_file("/tmp/ostrakon-confined"));
        tell("connect", TcpStream::connect(address).map(drop));
        tell("listen", TcpListener::bind("127.0.0.1:0").map(drop));
        tell("send", UdpSocket::bind("127.0.0.1:0").map(drop));
        tell("call a socket", UnixStream::connect("/run/x").map(drop));
        tell(
            "start a process",
            Command::new("/bin/true").status().map(drop),
        );
        let thread = thread::Builder::new().spawn(|| {});
        tell("start a thread", thread.map(drop));
        let killed = rustix::process::kill_process(parent, rustix::process::Signal::CONT);
        tell("signal its parent", killed.map_err(Into::into));
        let more = Rlimit {
            current: Some(1 << 40),
            maximum: Some(1 << 40),
        };
        let raised = setrlimit(Resource::Data, more);
        tell("raise a limit", raised.map_err(Into::into));
        // Descriptors that were open before are closed, whichever way they are used.
        let mut byte = [0];
        tell("read what was open", (&file).read(&mut byte).map(drop));
        tell("accept", listener.accept().map(drop));
        // The descriptors' numbers may belong to other files now, so dropping must not close them.
        std::mem::forget((file, listener));
        // The process can still do its job.
        let filled = vec![7_u8; 32 << 20];
        let (send, receive) = mpsc::channel();
        send.send(filled.iter().map(|byte| u64::from(*byte)).sum::<u64>())
            .expect("sent");
        assert_eq!(receive.recv().expect("received"), 7 * (32 << 20));
        let seeds = std::collections::HashMap::from([(1, 2)]);
        assert_eq!(seeds[&1], 2);
        tell("all of it was tried", Err(io::Error::other("yes")));
        return;
    }
    let output = again("a_confined_process_opens_nothing_starts_nothing_and_ends_nobody");
    let said = String::from_utf8_lossy(&output.stdout);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("all of it was tried: yes"), "{said} {words}");
    assert!(!said.contains("COULD"), "{said}");
    let denied = said.matches("(os error ").count();
    assert!(denied >= 14, "only {denied} calls were denied: {said}");
}

#[test]
fn more_memory_than_it_was_given_ends_it() {
    if is_confined() {
        confine_here(60);
        let bytes = usize::try_from(MEMORY).expect("the number fits") * 2;
        let taken = vec![1_u8; bytes];
        std::hint::black_box(&taken);
        tell("take memory", Ok(()));
        return;
    }
    let output = again("more_memory_than_it_was_given_ends_it");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{words}");
    assert!(words.contains("memory allocation of "), "{words}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("COULD"));
}

#[test]
fn more_time_than_it_was_given_ends_it() {
    use std::os::unix::process::ExitStatusExt as _;

    if is_confined() {
        confine_here(1);
        loop {
            std::hint::black_box(0);
        }
    }
    let output = again("more_time_than_it_was_given_ends_it");
    assert_eq!(output.status.signal(), Some(libc::SIGXCPU), "{output:?}");
}

#[test]
fn where_the_kernel_has_no_filter_that_is_said_and_the_limits_hold() {
    if is_confined() {
        ostrakon_test_support::seccomp::without_filters();
        let bounds = Bounds {
            memory: MEMORY,
            cpu: 60,
        };
        match confine(bounds, || Ok(())).expect("it is limited") {
            Filter::Installed => tell("install a filter", Ok(())),
            Filter::Missing(why) => tell("install a filter", Err(why)),
        }
        let bytes = usize::try_from(MEMORY).expect("the number fits") * 2;
        let taken = vec![1_u8; bytes];
        std::hint::black_box(&taken);
        tell("take memory", Ok(()));
        return;
    }
    let output = again("where_the_kernel_has_no_filter_that_is_said_and_the_limits_hold");
    let (said, words) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let expected = "install a filter: Function not implemented";
    assert!(said.contains(expected), "{said} {words}");
    assert!(words.contains("memory allocation of "), "{words}");
    assert!(!said.contains("COULD"), "{said}");
}
