//! Plain hyper, in its own process: a server that only speaks HTTP, and one that also makes each
//! request's body durable.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::groups::Groups;

/// What a server does with a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bare {
    /// Replies with 64 bytes.
    Hello,
    /// Writes the body to the disk, together with those that wait, and replies.
    Groups,
}

impl Bare {
    /// With this argument, the program runs as that server.
    fn argument(self) -> &'static str {
        match self {
            Self::Hello => "--hello",
            Self::Groups => "--groups",
        }
    }

    /// The server that the program's arguments name.
    pub(crate) fn named(is_argument: impl Fn(&str) -> bool) -> Option<Self> {
        let all = [Self::Hello, Self::Groups];
        all.into_iter().find(|bare| is_argument(bare.argument()))
    }

    pub(crate) fn start(self) -> anyhow::Result<Server> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(self.argument())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child
            .stdout
            .take()
            .context("standard output is not piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().parse();
        let address = address.with_context(|| format!("plain hyper said {line:?}"))?;
        Ok(Server { child, address })
    }

    /// Serves until killed.
    pub(crate) fn serve(self) -> anyhow::Result<()> {
        let groups = match self {
            Self::Hello => None,
            Self::Groups => Some(Groups::start()?),
        };
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            println!("{}", listener.local_addr()?);
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let groups = groups.clone();
                let service = service_fn(move |request| answer(groups.clone(), request));
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                // The task ends with its client.
                tokio::spawn(connection);
            }
        })
    }
}

async fn answer(
    groups: Option<Groups>,
    request: Request<Incoming>,
) -> anyhow::Result<Response<Full<Bytes>>> {
    let Some(groups) = groups else {
        return Ok(Response::new(Full::new(Bytes::from_static(&[b'w'; 64]))));
    };
    let key = request.uri().clone();
    let body = request.into_body().collect().await?.to_bytes();
    groups.save(key, body).await?;
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// The server's process. Dropping it ends it.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
