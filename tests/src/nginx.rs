//! nginx in front of shards, in its default configuration.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_test_support::tools::tool;
use tempfile::TempDir;

use crate::host::PATIENCE;

/// A running nginx. Dropping it kills it.
#[derive(Debug)]
pub struct Nginx {
    /// The address that it listens on.
    pub address: SocketAddr,
    child: Child,
    directory: TempDir,
}

impl Nginx {
    /// Starts an nginx that listens at `address` and forwards to `servers`, with the additional
    /// directives in `location`, and waits until it listens.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(
        address: SocketAddr,
        servers: &[SocketAddr],
        upstream: &str,
        location: &str,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let path = |name: &str| directory.path().join(name).display().to_string();
        let mut temporary = String::new();
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            let _ = writeln!(temporary, "{kind}_temp_path {};", path(kind));
        }
        let servers: Vec<_> = servers
            .iter()
            .map(|server| format!("server {server};"))
            .collect();
        let servers = servers.join(" ");
        let configuration = format!(
            "daemon off; master_process off; pid {pid};\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log off; {temporary} client_max_body_size 64m;\n\
             upstream shards {{ {servers} {upstream} }}\n\
             server {{ listen {address}; location / {{ proxy_pass http://shards; {location} }} }} }}\n",
            pid = path("pid"),
        );
        fs::write(path("nginx.conf"), configuration).expect("the file can be written");
        let log = fs::File::create(path("log")).expect("the file can be created");
        let child = tool("nginx")
            .args(["-e", "stderr", "-p"])
            .arg(directory.path())
            .args(["-c", &path("nginx.conf")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("nginx starts");
        let mut nginx = Self {
            address,
            child,
            directory,
        };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            let ended = nginx
                .child
                .try_wait()
                .expect("the process can be waited for");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "nginx does not listen: {}",
                nginx.log()
            );
            thread::sleep(Duration::from_millis(1));
        }
        nginx
    }

    /// The log so far. Each failure of a server behind nginx is a line.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
