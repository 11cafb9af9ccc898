//! What the admin port says.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ASK_EVERY: Duration = Duration::from_millis(20);
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A host's admin port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admin(SocketAddr);

/// How swapping stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Swap {
    /// The number of the generation that serves; 0 for none.
    pub(super) live: u64,
    /// What was refused last.
    pub(super) refused: Option<Refused>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) digest: String,
    pub(super) step: String,
    pub(super) reason: String,
    pub(super) unix_time: u64,
}

impl Admin {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self(address)
    }

    /// Waits until the host is ready.
    pub(super) async fn ready(self) {
        while !matches!(self.get("/readyz").await, Ok((200, _))) {
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// How swapping stands now.
    pub(super) async fn swap(self) -> anyhow::Result<Swap> {
        let (_, body) = self.get("/status").await?;
        let status: Value = serde_json::from_str(&body).context("the host's status is not JSON")?;
        Ok(Swap::read(&status))
    }

    /// Waits until swapping stands otherwise than before.
    pub(super) async fn outcome(self, before: &Swap, limit: Duration) -> anyhow::Result<Swap> {
        let changed = async {
            loop {
                match self.swap().await {
                    Ok(now) if now != *before => return now,
                    _ => tokio::time::sleep(ASK_EVERY).await,
                }
            }
        };
        tokio::time::timeout(limit, changed)
            .await
            .context("the host has not taken it up: see its log above")
    }

    async fn get(self, path: &str) -> anyhow::Result<(u16, String)> {
        tokio::time::timeout(ANSWER_LIMIT, self.exchange(path)).await?
    }

    async fn exchange(self, path: &str) -> anyhow::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.0).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.0
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            bail!("the host's answer is cut off");
        };
        let status = head
            .split(' ')
            .nth(1)
            .context("the host's answer has no status")?;
        Ok((status.parse()?, body.to_owned()))
    }
}

impl Swap {
    fn read(status: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let refused = &status["refused"];
        Self {
            live: status["generation"]["generation"].as_u64().unwrap_or(0),
            refused: refused.is_object().then(|| Refused {
                digest: text(&refused["digest"]),
                step: text(&refused["step"]),
                reason: text(&refused["reason"]),
                unix_time: refused["unix_time"].as_u64().unwrap_or(0),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A port that answers these statuses, one for each connection.
    async fn port(answers: Vec<Value>) -> Admin {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = Admin::new(listener.local_addr().unwrap());
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let _read = stream.read(&mut request).await.unwrap();
                let answer = format!("HTTP/1.1 200 OK\r\n\r\n{answer}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        admin
    }

    fn status(live: u64, refused: &Value) -> Value {
        serde_json::json!({ "generation": { "generation": live }, "refused": refused })
    }

    #[tokio::test]
    async fn a_new_generation_is_an_outcome() {
        let none = Value::Null;
        let admin = port(vec![status(1, &none), status(1, &none), status(2, &none)]).await;
        let before = admin.swap().await.unwrap();
        let after = admin
            .outcome(&before, Duration::from_secs(20))
            .await
            .unwrap();
        assert_eq!((before.live, after.live), (1, 2));
    }

    #[tokio::test]
    async fn a_refusal_is_an_outcome_with_its_step_and_reason() {
        let refused = serde_json::json!({
            "digest": "ab", "step": "check", "reason": "no", "unix_time": 1
        });
        let admin = port(vec![status(1, &refused)]).await;
        let after = admin
            .outcome(&Swap::default(), Duration::from_secs(20))
            .await
            .unwrap();
        let refused = after.refused.expect("it was refused");
        assert_eq!(
            (refused.step.as_str(), refused.reason.as_str()),
            ("check", "no")
        );
    }
}
