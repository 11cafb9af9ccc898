//! Other stores on the same machine: Redis with a sync for each write, and the course's server.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::clients::{Action, KEYS, Protocol, Target};
use crate::compare::{Client, Side, compare};
use crate::hosts::Filled;
use crate::plan::Plan;

/// How long a peer may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run(plan: &Plan) -> anyhow::Result<()> {
    let host = Filled::this(KEYS)?;
    let directory = tempfile::tempdir()?;
    let mut peers = Vec::new();
    match Peer::redis(directory.path()) {
        Ok(peer) => peers.push(("redis", peer)),
        Err(error) => println!("\nRedis is not compared with: {error:#}"),
    }
    match Peer::course(directory.path()) {
        Ok(peer) => peers.push(("flask", peer)),
        Err(error) => println!("\nThe course's server is not compared with: {error:#}"),
    }
    for (_, peer) in &peers {
        peer.target.fill(KEYS)?;
    }
    let peers = peers.iter().map(|(name, peer)| (*name, peer.target));
    let sides: Vec<_> = std::iter::once(("host", host.target()))
        .chain(peers)
        .map(|(name, target)| Side {
            name,
            target,
            // The same for each protocol, and for a server that keeps no connections.
            client: Client::Own,
        })
        .collect();
    for action in [Action::Load, Action::Save] {
        println!(
            "\n{}s: requests/s, and their ratio to each peer's (Flask does not sync its writes)",
            action.name()
        );
        compare(plan, (action, KEYS), &sides)?;
    }
    Ok(())
}

/// A peer's process. Dropping it ends it.
pub(crate) struct Peer {
    child: Child,
    pub(crate) target: Target,
}

impl Peer {
    /// Redis with a log that is synced before each reply, and without other files.
    pub(crate) fn redis(directory: &Path) -> anyhow::Result<Self> {
        let address = free_address()?;
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &address.port().to_string()])
            .args(["--bind", &address.ip().to_string(), "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always"])
            .arg("--dir")
            .arg(directory);
        let protocol = Protocol::Redis;
        Self::start(command, Target { address, protocol })
    }

    fn course(directory: &Path) -> anyhow::Result<Self> {
        let has_flask = Command::new("python3")
            .args(["-c", "import flask"])
            .stderr(Stdio::null())
            .status();
        ensure!(
            has_flask.is_ok_and(|status| status.success()),
            "python3 with flask is not installed"
        );
        let data = directory.join("course");
        std::fs::create_dir(&data)?;
        let address = free_address()?;
        let mut command = Command::new("python3");
        command
            .args(["-c", include_str!("course.py")])
            .arg(data)
            .arg(address.port().to_string());
        Self::start(command, Target::http(address))
    }

    /// Starts a process and waits until its port is open.
    fn start(mut command: Command, target: Target) -> anyhow::Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{program} is not installed"))?;
        let mut peer = Self { child, target };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(target.address).is_err() {
            if let Some(status) = peer.child.try_wait()? {
                bail!("{program} ended: {status}");
            }
            ensure!(Instant::now() < deadline, "{program} does not start");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(peer)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
