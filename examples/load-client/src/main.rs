//! Clients of the key/value store that save and load without a pause, check that each response is
//! right, and count failures. Changes of a cluster should cause no failure here.

mod connection;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use connection::{Answer, Connection, Server};
use humantime_serde::re::humantime::parse_duration;

/// How many failures are printed.
const SHOWN: u64 = 10;
/// How often progress is printed.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// Saves and loads, and counts failures.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The server: a Service, or one shard. The default port is 80, or 443 with TLS.
    #[arg(value_name = "SERVER[:PORT]")]
    server: String,
    /// The authority of the server's certificate, as PEM: connect with TLS.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A file with the token that clients must show.
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
    /// The number of clients, each on its own connection.
    #[arg(long, value_name = "N", default_value_t = 8)]
    clients: u64,
    /// The number of keys of each client.
    #[arg(long, value_name = "N", default_value_t = 100)]
    keys: u64,
    /// The text after the first letter of each key's name: another text means other keys.
    #[arg(long, value_name = "TEXT", default_value = "")]
    prefix: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Save and load in turns; at the end load each key once more.
    Run {
        /// How long to run, unless --until ends it earlier.
        #[arg(long = "for", value_name = "TIME", default_value = "1m", value_parser = parse_duration)]
        time: Duration,
        /// End as soon as this file exists.
        #[arg(long, value_name = "FILE")]
        until: Option<PathBuf>,
        /// How long each client pauses between two requests.
        #[arg(long, value_name = "TIME", default_value = "2ms", value_parser = parse_duration)]
        pause: Duration,
    },
    /// Save each key once.
    Fill,
    /// Load each key once, as `fill` saved it.
    Check,
}

/// The counts of all clients together.
#[derive(Debug, Default)]
struct Count {
    requests: AtomicU64,
    failed: AtomicU64,
    connections: AtomicU64,
    /// The longest request, in milliseconds.
    longest: AtomicU64,
    ended: AtomicBool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let (ca, token) = (arguments.ca.as_deref(), arguments.token.as_deref());
    let server = Server::new(&arguments.server, ca, token)?;
    let count = Count::default();
    let wrong: u64 = thread::scope(|scope| {
        let clients: Vec<_> = (0..arguments.clients)
            .map(|number| {
                let client = Client {
                    number,
                    prefix: &arguments.prefix,
                    connection: Connection::new(server.clone()),
                    count: &count,
                };
                let (command, keys) = (&arguments.command, arguments.keys);
                scope.spawn(move || client.work(command, keys))
            })
            .collect();
        if let Command::Run { time, until, .. } = &arguments.command {
            let began = Instant::now();
            let mut reported = Instant::now();
            let told = || until.as_ref().is_some_and(|file| file.exists());
            while began.elapsed() < *time && !told() {
                // The interval of the check, not a wait for an event.
                thread::sleep(Duration::from_millis(50));
                if reported.elapsed() >= REPORT_EVERY {
                    reported = Instant::now();
                    say(&count.line());
                }
            }
            count.ended.store(true, Ordering::Relaxed);
        }
        let ended = clients.into_iter().map(thread::ScopedJoinHandle::join);
        ended.map(|wrong| wrong.unwrap_or(arguments.keys)).sum()
    });
    let keys = arguments.clients * arguments.keys;
    say(&format!("{}, {keys} keys, {wrong} wrong", count.line()));
    let failed = count.failed.load(Ordering::Relaxed);
    Ok(if failed == 0 && wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Count {
    fn line(&self) -> String {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        format!(
            "{} requests, {} failed, {} connections, longest {} ms",
            of(&self.requests),
            of(&self.failed),
            of(&self.connections),
            of(&self.longest)
        )
    }
}

/// One of the clients. It has its own keys, so it knows their values.
struct Client<'a> {
    number: u64,
    prefix: &'a str,
    connection: Connection,
    count: &'a Count,
}

impl Client<'_> {
    /// Runs a command, and returns how many of its keys were wrong at the end.
    fn work(mut self, command: &Command, keys: u64) -> u64 {
        let first = match command {
            Command::Run { pause, .. } => self.run(keys, *pause),
            Command::Fill => {
                let saved = (0..keys).filter(|&key| self.save(key, 0)).count();
                return keys - saved as u64;
            }
            Command::Check => vec![Some(0); usize::try_from(keys).expect("they fit into memory")],
        };
        // It is unknown whether a failed request stored its value.
        let known = (0..keys)
            .zip(first)
            .filter_map(|(key, value)| Some((key, value?)));
        let wrong = known.filter(|&(key, value)| !self.load(key, value));
        wrong.count() as u64
    }

    /// Saves and loads its keys in turns until the end, and returns the value of each, if it is certain.
    fn run(&mut self, keys: u64, pause: Duration) -> Vec<Option<u64>> {
        let mut saved = vec![None; usize::try_from(keys).expect("they fit into memory")];
        for value in 1.. {
            for (key, saved) in (0..keys).zip(&mut saved) {
                if self.count.ended.load(Ordering::Relaxed) {
                    break;
                }
                *saved = self.save(key, value).then_some(value);
                thread::sleep(pause);
                if saved.is_some() {
                    self.load(key, value);
                    thread::sleep(pause);
                }
            }
            if self.count.ended.load(Ordering::Relaxed) {
                break;
            }
        }
        saved
    }

    /// A key. The first letters differ, so that keys are spread over shards also by the course's function.
    fn key(&self, key: u64) -> String {
        let letter = char::from(b'a' + u8::try_from(key % 26).expect("a letter fits"));
        format!("{letter}-{}{}-{key}", self.prefix, self.number)
    }

    fn save(&mut self, key: u64, value: u64) -> bool {
        let path = format!("/save/{}/{value}", self.key(key));
        self.ask(&path, value)
    }

    fn load(&mut self, key: u64, value: u64) -> bool {
        let path = format!("/load/{}", self.key(key));
        self.ask(&path, value)
    }

    /// Whether the response to a request is this value.
    fn ask(&mut self, path: &str, value: u64) -> bool {
        let (began, opened) = (Instant::now(), self.connection.opened);
        let answer = self.connection.get(path);
        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let count = self.count;
        count.requests.fetch_add(1, Ordering::Relaxed);
        count.longest.fetch_max(took, Ordering::Relaxed);
        let opened = self.connection.opened - opened;
        count.connections.fetch_add(opened, Ordering::Relaxed);
        let problem = match answer {
            Ok(Answer { status: 200, body }) if body == value.to_string() => return true,
            Ok(Answer { status, body }) => format!("{status} {body}, not {value}"),
            Err(error) => error.to_string(),
        };
        if count.failed.fetch_add(1, Ordering::Relaxed) < SHOWN {
            say(&format!("failed after {took} ms: {path}: {problem}"));
        }
        false
    }
}

fn say(line: &str) {
    // If standard output is closed, the exit code still tells the result.
    let _ = writeln!(io::stdout(), "{line}");
}
