//! The course's smart client. It knows which server has which key, and prints a line of 26
//! characters, one for the key of each letter.
//!
//! | character | the letter's key |
//! | --- | --- |
//! | `h` | a hit: its value is the letter, as written |
//! | `m` | missing, and not written (`readonly`) |
//! | `w` | missing, and written now |
//! | `x` | present with another value |
//! | a digit | rejected: the first digit of the HTTP status, such as `5` for 503 |
//! | `.` | no response |
//!
//! It speaks plain HTTP, and ends if a server speaks HTTPS only.
//!
//! With one server it sends all requests to that server, and any shard of a cluster answers them. If a
//! server says that another one has the key (307 or 421 with a `location`), it asks that server.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use humantime_serde::re::humantime::parse_duration;

/// The store's response for a missing key.
const NOT_FOUND: &str = "_key_not_found_";
/// How long a server may take before the request counts as failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// The maximum number of redirects.
const MAX_HOPS: u32 = 5;

/// Loads a key for each letter, writes it if it is missing, and prints the results.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The servers in the order of their ordinals, or any one server that forwards requests; the
    /// default port is 80.
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
        // No reason to end, because the name may have an address later.
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
    // The last digit only, so that each letter has one character.
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

/// Loads a letter's key, writes it if that is wanted, and returns the result.
///
/// # Errors
/// When no request of this client can ever be answered.
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

/// A server that this client cannot use.
#[derive(Debug)]
struct HttpsOnly(String);

impl std::error::Error for HttpsOnly {}

impl fmt::Display for HttpsOnly {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(server) = self;
        write!(
            out,
            "{server} speaks HTTPS only, but this client speaks plain HTTP: use another client, such as curl"
        )
    }
}

fn first_digit(status: u16) -> char {
    char::from(b'0' + u8::try_from(status / 100 % 10).expect("a digit fits"))
}

/// Sends a request, follows redirects, and returns the status and the body of the last response.
fn follow(server: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let mut server = server.to_owned();
    for _ in 0..MAX_HOPS {
        let answer = get(&server, path)?;
        match (answer.status, answer.sent_to) {
            (307 | 421, Some(next)) => server = next,
            (status, _) => return Ok((status, answer.body)),
        }
    }
    bail!("the request was redirected too often")
}

struct Answer {
    status: u16,
    /// The server of the header `location`.
    sent_to: Option<String>,
    body: String,
}

/// Sends one request on a new connection, so that a restarted server is found at once.
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
        bail!("the connection ended in the middle of the response");
    };
    let status = head.split(' ').nth(1).context("not an HTTP response")?;
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

/// The server in a URL; `None` unless the URL is of plain HTTP.
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
