//! A low limit on descriptors, and more idle clients than it allows.

use std::net::TcpStream;

use ostrakon_tests::host::{Host, Shard, config, guest};

use super::Others;

/// With this many idle clients, a limit of 1,024 was seen to shut out everybody.
const IDLE: usize = 1_100;

/// A host with these limits on open files.
fn limited(soft: u32, hard: u32) -> (Shard, Host) {
    let mut shard = Shard::new(&config(&guest("kv"), &[]));
    let limit = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$@\"");
    shard.runner = ["sh", "-c", &limit, "sh"].map(str::to_owned).into();
    let host = shard.start();
    (shard, host)
}

fn lines<'a>(log: &'a str, said: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(said)).collect()
}

#[test]
fn idle_clients_beyond_the_descriptors_shut_nobody_out() {
    for (soft, hard) in [(1024, 4096), (1024, 1024), (256, 256)] {
        let (_shard, host) = limited(soft, hard);
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", host.id())).unwrap();
        let files = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap();
        let now: Vec<_> = files.split_whitespace().skip(3).take(2).collect();
        assert_eq!(
            now,
            [hard.to_string(), hard.to_string()],
            "the soft limit was not raised"
        );

        let others = Others::start(&host);
        let mut idle = Vec::new();
        for number in 0..IDLE {
            idle.push(TcpStream::connect(host.address).expect("the host accepts connections"));
            // Clients come no faster than others are answered: a client that has just connected and
            // has sent nothing is closed once as many newer ones have come as there are places.
            if number % 16 == 0 {
                let answer = host.client().get("/load/kept").expect("an answer");
                assert_eq!(answer.status, 200);
            }
        }
        for _ in 0..20 {
            for path in ["/livez", "/metrics"] {
                assert_eq!(host.admin("GET", path).expect("an answer").status, 200);
            }
            let answer = host.client().get("/load/kept").expect("an answer");
            assert_eq!(answer.status, 200);
        }
        let open = host.metric("process_open_fds");
        others.stop(&format!(
            "{IDLE} idle clients at {soft}/{hard} descriptors, {open} open"
        ));
        assert!(open <= u64::from(hard));
        drop(idle);
        let log = host.stop();
        let found = lines(&log, "\"open files\"");
        assert!(
            matches!(&found[..], [line] if line.contains(&format!("\"soft_limit_found\":{soft}"))),
            "{found:?}"
        );
        // The default of 10,000 connections exceeds each of these limits.
        assert_eq!(
            lines(&log, "http.max_connections cannot be reached").len(),
            1,
            "{log}"
        );
        assert_eq!(lines(&log, "could not be accepted").len(), 0, "{log}");
    }
}
