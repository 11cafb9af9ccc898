//! Requests to a shard's admin port, and `ostrakon drain`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use ostrakon_base::regular;
use ostrakon_network::http::client::{self, Question};
use zeroize::Zeroizing;

use super::{Exit, Failure, is_authority, say, time};

/// The most bytes of a token file.
const MAX_TOKEN_FILE: usize = 64 << 10;

/// Drain a shard: not ready, then no new requests, then all requests answered and durable.
///
/// For a preStop hook. Waits until the drain is done; draining twice is the same as once. The
/// process lives on, refusing requests, until SIGTERM ends it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example, in a Pod:
  lifecycle: { preStop: { exec: { command: [ostrakon, drain] } } }")]
pub(super) struct DrainArguments {
    #[command(flatten)]
    port: Port,
    #[command(flatten)]
    token: Token,
    /// How long to wait; the shard's own limit is `drain.deadline` of its settings.
    #[arg(long, env = "OSTRAKON_TIMEOUT", value_name = "TIME", default_value = "2m", value_parser = time)]
    timeout: Duration,
}

/// The admin port to ask.
#[derive(Debug, clap::Args)]
pub(super) struct Port {
    /// The shard's admin port, on a host by its name or IP address.
    #[arg(
        long,
        env = "OSTRAKON_ADMIN",
        value_name = "ADDRESS",
        value_parser = reachable,
        default_value = "127.0.0.1:9090"
    )]
    admin: String,
}

/// A host and a port to connect to: a wildcard address is replaced by the loopback address.
fn reachable(text: &str) -> Result<String, String> {
    if !is_authority(text) {
        return Err("write a host and a port, such as 127.0.0.1:9090".to_owned());
    }
    let Ok(address) = text.parse::<SocketAddr>() else {
        return Ok(text.to_owned());
    };
    let loopback: IpAddr = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(SocketAddr::new(loopback, address.port()).to_string())
}

/// The token with which an operator on another machine may ask.
#[derive(Debug, clap::Args)]
pub(super) struct Token {
    /// A file whose first line is a token of `admin-token` in the Secret; not needed on the
    /// shard's machine.
    #[arg(long, env = "OSTRAKON_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Why the shard did not do what was asked, or was not asked.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot read the token in {path}")]
    Token {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} holds no token on its first line: put one of `admin-token` there")]
    NoToken { path: PathBuf },
    #[error("{address} answered {status}: {body}")]
    Answer {
        address: String,
        status: StatusCode,
        body: String,
    },
    #[error("{address} is not the admin port of a shard: it answers 404 to {path}; give --admin")]
    NotAdmin { address: String, path: String },
}

impl DrainArguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        let question = Question {
            authorization: self.token.read()?,
            ..Question::default()
        };
        let body = self
            .port
            .send(Method::POST, "/drain", question, self.timeout)?;
        say(&String::from_utf8_lossy(&body))
    }
}

impl Token {
    /// The value of the `authorization` header; `None` without `--token-file`.
    pub(super) fn read(&self) -> Result<Option<HeaderValue>, Failure> {
        let Some(path) = &self.token_file else {
            return Ok(None);
        };
        let path = path.clone();
        let read = match regular::read(&path, MAX_TOKEN_FILE).map(Zeroizing::new) {
            Ok(read) => read,
            Err(source) => return Err(Failure::new(Exit::Io, Error::Token { path, source })),
        };
        let line = read.split(|byte| *byte == b'\n').next();
        let line = line.unwrap_or_default().trim_ascii();
        let value = Zeroizing::new([b"Bearer ", line].concat());
        match HeaderValue::from_bytes(&value) {
            Ok(mut value) if !line.is_empty() => {
                value.set_sensitive(true);
                Ok(Some(value))
            }
            _ => Err(Failure::new(Exit::Usage, Error::NoToken { path })),
        }
    }
}

impl Port {
    pub(super) fn address(&self) -> &str {
        &self.admin
    }

    /// Sends a request that needs no token.
    pub(super) fn ask(
        &self,
        method: Method,
        path: &str,
        timeout: Duration,
    ) -> Result<Bytes, Failure> {
        self.send(method, path, Question::default(), timeout)
    }

    pub(super) fn send(
        &self,
        method: Method,
        path: &str,
        question: Question,
        timeout: Duration,
    ) -> Result<Bytes, Failure> {
        let address = self.address();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::with::<io::Error>(Exit::Internal))?;
        let (status, body) = runtime
            .block_on(client::send(address, method, path, question, timeout))
            .map_err(Failure::with(Exit::Unavailable))?;
        if status.is_success() {
            return Ok(body);
        }
        if status == StatusCode::NOT_FOUND {
            let (address, path) = (address.to_owned(), path.to_owned());
            let error = Error::NotAdmin { address, path };
            return Err(Failure::new(Exit::Unavailable, error));
        }
        let exit = match status {
            StatusCode::GATEWAY_TIMEOUT => Exit::CutOff,
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Exit::Usage,
            _ => Exit::Unavailable,
        };
        let body = String::from_utf8_lossy(&body).trim().to_owned();
        Err(Failure::new(
            exit,
            Error::Answer {
                address: address.to_owned(),
                status,
                body,
            },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_asked_on_loopback() {
        for (given, asked) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("10.0.0.7:9090", "10.0.0.7:9090"),
            ("localhost:9090", "localhost:9090"),
            ("kv-0.kv-peers:9090", "kv-0.kv-peers:9090"),
        ] {
            assert_eq!(reachable(given).as_deref(), Ok(asked));
        }
        for given in ["", "9090", "kv-0", "kv-0:", ":9090", "kv-0:0", "kv-0:65536"] {
            assert!(reachable(given).is_err(), "{given}");
        }
        for given in ["http://kv-0:9090", "kv 0:9090", "a/b:9090"] {
            assert!(reachable(given).is_err(), "{given}");
        }
    }
}
