//! `ostrakon status` and `ostrakon drain`: what is asked of a shard's admin port.

use std::fmt::Write;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use humantime_serde::re::humantime::parse_duration;
use serde_json::Value;

use super::{Exit, Failure, address, say};
use crate::http::client;

/// Show how a shard is: its generation, what was refused and why, its store and lane.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ostrakon status
  ostrakon status --json | jq .refused")]
pub(super) struct StatusArguments {
    #[command(flatten)]
    port: Port,
    /// Print the JSON as the shard gives it.
    #[arg(long, env = "OSTRAKON_JSON")]
    json: bool,
    /// How long to wait for the answer.
    #[arg(long, env = "OSTRAKON_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
}

/// Drain a shard: not ready, then no new requests, then all answered and durable.
///
/// For a preStop hook. Waits until it is done; draining twice is the same as once. The process
/// lives on, refusing requests, until SIGTERM ends it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example, in a Pod:
  lifecycle: { preStop: { exec: { command: [ostrakon, drain] } } }")]
pub(super) struct DrainArguments {
    #[command(flatten)]
    port: Port,
    /// How long to wait; the shard's own limit is `drain.deadline` of its settings.
    #[arg(long, env = "OSTRAKON_TIMEOUT", value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
    timeout: Duration,
}

#[derive(Debug, clap::Args)]
struct Port {
    /// The shard's admin port.
    #[arg(
        long,
        env = "OSTRAKON_ADMIN",
        value_name = "ADDRESS",
        value_parser = address,
        default_value = "127.0.0.1:9090"
    )]
    admin: SocketAddr,
}

/// The shard did not do what was asked.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{address} answered {status}: {body}")]
    Answer {
        address: SocketAddr,
        status: StatusCode,
        body: String,
    },
    #[error("{address} is not the admin port of a shard: it answers something else; give --admin")]
    OtherJson { address: SocketAddr },
    #[error("{address} is not the admin port of a shard: its status is not JSON; give --admin")]
    NotAStatus {
        address: SocketAddr,
        #[source]
        source: serde_json::Error,
    },
}

impl StatusArguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        let body = self.port.ask(Method::GET, "/status", self.timeout)?;
        let status: Value = serde_json::from_slice(&body).map_err(|source| {
            let address = self.port.address();
            Failure::new(Exit::Unavailable, Error::NotAStatus { address, source })
        })?;
        if status.get("shard").is_none() {
            let address = self.port.address();
            return Err(Failure::new(
                Exit::Unavailable,
                Error::OtherJson { address },
            ));
        }
        if self.json {
            return say(&String::from_utf8_lossy(&body));
        }
        say(&table(&status))
    }
}

impl DrainArguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        let body = self.port.ask(Method::POST, "/drain", self.timeout)?;
        say(&String::from_utf8_lossy(&body))
    }
}

impl Port {
    /// Where to connect: what listens on all addresses is reached on the loopback one.
    fn address(&self) -> SocketAddr {
        let loopback: IpAddr = match self.admin.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(loopback, self.admin.port())
    }

    fn ask(&self, method: Method, path: &str, timeout: Duration) -> Result<Bytes, Failure> {
        let address = self.address();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::with::<io::Error>(Exit::Internal))?;
        let (status, body) = runtime
            .block_on(client::request(address, method, path, timeout))
            .map_err(Failure::with(Exit::Unavailable))?;
        if status.is_success() {
            return Ok(body);
        }
        let exit = if status == StatusCode::GATEWAY_TIMEOUT {
            Exit::CutOff
        } else {
            Exit::Unavailable
        };
        let body = String::from_utf8_lossy(&body).trim().to_owned();
        Err(Failure::new(
            exit,
            Error::Answer {
                address,
                status,
                body,
            },
        ))
    }
}

/// A line for each value, under the names that lead to it.
fn table(status: &Value) -> String {
    let mut rows = Vec::new();
    flatten("", status, &mut rows);
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().fold(String::new(), |mut text, (name, value)| {
        writeln!(text, "{name:<width$}  {value}").expect("writing to a string cannot fail");
        text
    })
}

fn flatten(name: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let name = if name.is_empty() {
                    field.clone()
                } else {
                    format!("{name}.{field}")
                };
                flatten(&name, value, rows);
            }
        }
        Value::Null => rows.push((name.to_owned(), "-".to_owned())),
        Value::String(text) => rows.push((name.to_owned(), text.clone())),
        other => rows.push((name.to_owned(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_table_with_a_line_for_each_value() {
        let status = serde_json::json!({
            "shard": 3, "refused": null, "store": { "bytes": 4096 }, "generation": { "name": "kv" }
        });
        assert_eq!(
            table(&status),
            "generation.name  kv\nrefused          -\nshard            3\nstore.bytes      4096\n"
        );
    }

    #[test]
    fn what_listens_everywhere_is_asked_on_loopback() {
        for (given, asked) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("10.0.0.7:9090", "10.0.0.7:9090"),
        ] {
            let port = Port {
                admin: given.parse().unwrap(),
            };
            assert_eq!(port.address(), asked.parse().unwrap());
        }
    }
}
