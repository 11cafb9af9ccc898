//! The course's smart client: it knows which server has which key, and shows with a line of 26
//! characters how each of the letters' keys fares.
//!
//! | character | the letter's key |
//! | --- | --- |
//! | `h` | a hit: its value is the letter, as written |
//! | `m` | missing, and left so (`readonly`) |
//! | `w` | missing, so it was written |
//! | `x` | there with another value |
//! | a digit | refused: the first digit of the HTTP status, such as `5` for 503 |
//! | `.` | no answer |
//!
//! It speaks plain HTTP, and ends where a server speaks HTTPS only.
//!
//! With one server it asks that one for all letters, which any shard of a cluster answers. Where a
//! server says that another one has the key (307 or 421 with a `location`), it asks that one.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use humantime_serde::re::humantime::parse_duration;

/// What the store answers for a key that it does not have.
const NOT_FOUND: &str = "_key_not_found_";
/// How long a server may take before it counts as not there.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many servers it goes to at most because another one sent it there.
const MAX_HOPS: u32 = 5;

/// Loads, and writes where it is missing, a key for each letter, and shows how that went.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The servers in the order of their ordinals, or any one of them that passes requests on; the
    /// port is 80 if none is given.
    #[arg(value_name = "SERVER[:PORT],...")]
    servers: String,
    /// Write nothing.
    #[arg(value_enum)]
    mode: Option<Mode>,
    /// Stop after this many lines [default: never]
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,
    /// The time between two lines.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    interval: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Readonly,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let servers = arguments
        .servers
        .split(',')
        .map(with_port)
        .collect::<Vec<_>>();
    for server in &servers {
        // Not a reason to end: a name may have an address later.
        match server
            .to_socket_addrs()
            .map(|mut addresses| addresses.next())
        {
            Ok(Some(_)) => {}
            Ok(None) => writeln!(io::stderr(), "{server} has no address")?,
            Err(error) => writeln!(io::stderr(), "{server} has no address: {error}")?,
        }
    }
    let readonly = arguments.mode == Some(Mode::Readonly);
    let mut output = io::stdout().lock();
    writeln!(output, "{}", letters().collect::<String>())?;
    // The last digit, so that it is one character for each letter.
    let numbers = letters().map(|letter| (server_of(letter, servers.len()) % 10).to_string());
    writeln!(output, "{}", numbers.collect::<String>())?;
    let mut round = 0;
    while arguments.rounds.is_none_or(|rounds| round < rounds) {
        if round > 0 {
            thread::sleep(arguments.interval);
        }
        let mut hits = 0;
        for letter in letters() {
            let server = &servers[server_of(letter, servers.len())];
            let mark = visit(server, letter, readonly)?;
            hits += u32::from(mark == 'h');
            write!(output, "{mark}")?;
            output.flush()?;
        }
        writeln!(output, " | hits = {hits} ({}%)", hits * 100 / 26)?;
        round += 1;
    }
    Ok(())
}

fn letters() -> impl Iterator<Item = char> {
    'a'..='z'
}

/// The number of the server that a letter's key belongs to.
fn server_of(letter: char, servers: usize) -> usize {
    letter as usize % servers
}

fn with_port(server: &str) -> String {
    if server.contains(':') {
        server.to_owned()
    } else {
        format!("{server}:80")
    }
}

/// Loads a letter's key, writes it where that is wanted, and says how it went.
///
/// # Errors
/// Where no request of this client is ever answered.
fn visit(server: &str, letter: char, readonly: bool) -> Result<char, HttpsOnly> {
    let ask = |path: String| match follow(server, &path) {
        Ok(answer) => Ok(Ok(answer)),
        Err(error) => match error.downcast::<HttpsOnly>() {
            Ok(https_only) => Err(https_only),
            Err(_) => Ok(Err('.')),
        },
    };
    let loaded = match ask(format!("/load/{letter}"))? {
        Err(mark) => return Ok(mark),
        Ok((200, value)) => value,
        Ok((status, _)) => return Ok(first_digit(status)),
    };
    if loaded.chars().eq([letter]) {
        return Ok('h');
    }
    Ok(match loaded.as_str() {
        NOT_FOUND if readonly => 'm',
        NOT_FOUND => match ask(format!("/save/{letter}/{letter}"))? {
            Err(mark) => mark,
            Ok((200, _)) => 'w',
            Ok((status, _)) => first_digit(status),
        },
        _ => 'x',
    })
}

/// A server with which this client cannot speak.
#[derive(Debug)]
struct HttpsOnly(String);

impl std::error::Error for HttpsOnly {}

impl fmt::Display for HttpsOnly {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(server) = self;
        write!(
            out,
            "{server} speaks HTTPS only, and this client plain HTTP: ask with another, such as curl"
        )
    }
}

fn first_digit(status: u16) -> char {
    char::from(b'0' + u8::try_from(status / 100 % 10).expect("a digit fits"))
}

/// A request that goes where it is sent: the status and the body of the last answer.
fn follow(server: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let mut server = server.to_owned();
    for _ in 0..MAX_HOPS {
        let answer = get(&server, path)?;
        match (answer.status, answer.sent_to) {
            (307 | 421, Some(next)) => server = next,
            (status, _) => return Ok((status, answer.body)),
        }
    }
    bail!("it is sent from server to server without end")
}

struct Answer {
    status: u16,
    /// The server of the header `location`.
    sent_to: Option<String>,
    body: String,
}

/// One request on a connection of its own, so that a server that came back is found again at once.
fn get(server: &str, path: &str) -> anyhow::Result<Answer> {
    let address = server
        .to_socket_addrs()?
        .next()
        .context("the server has no address")?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let Some((head, body)) = response.split_once("\r\n\r\n") else {
        bail!("the connection ended in the middle of the answer");
    };
    let status = head.split(' ').nth(1).context("not an HTTP answer")?;
    let header = |wanted: &str| {
        let mut headers = head.lines().filter_map(|line| line.split_once(':'));
        let found = headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.trim())
    };
    let location = header("location");
    let is_https = location.is_some_and(|url| url.starts_with("https://"));
    if is_https || header("ostrakon-error") == Some("https-only") {
        return Err(HttpsOnly(location.unwrap_or(server).to_owned()).into());
    }
    Ok(Answer {
        status: status.parse()?,
        sent_to: location.and_then(server_in),
        body: body.to_owned(),
    })
}

/// The server in a URL; none where it is reached otherwise than by plain HTTP.
fn server_in(url: &str) -> Option<String> {
    let server = url.strip_prefix("http://")?.split('/').next()?;
    Some(with_port(server))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_found_in_the_url_it_is_sent_to() {
        let of = |url| server_in(url);
        assert_eq!(
            of("http://kv-1.kv:8080/load/a"),
            Some("kv-1.kv:8080".into())
        );
        assert_eq!(of("http://kv-1.kv/load/a"), Some("kv-1.kv:80".into()));
        assert_eq!(of("https://kv-1.kv/load/a"), None);
        assert_eq!(of("/load/a"), None);
    }

    #[test]
    fn letters_belong_to_servers_as_in_the_course() {
        assert_eq!(server_of('a', 3), 1);
        assert_eq!(server_of('z', 1), 0);
    }
}
