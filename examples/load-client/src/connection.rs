//! A kept-alive HTTP/1.1 connection to a server, with or without TLS, like a browser's or a service mesh's.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// How long a server may take before the request counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server, and how to connect to it.
#[derive(Clone)]
pub(crate) struct Server {
    address: String,
    token: Option<String>,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// One client's connection, which is opened when it is needed.
pub(crate) struct Connection {
    server: Server,
    stream: Option<BufReader<Box<dyn Stream>>>,
    /// How often it was opened.
    pub(crate) opened: u64,
}

impl Server {
    /// A server at `host[:port]`, with TLS if the authority of its certificate is given.
    pub(crate) fn new(
        address: &str,
        authority: Option<&Path>,
        token: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let usual = if authority.is_some() { 443 } else { 80 };
        let (host, address) = match address.rsplit_once(':') {
            Some((host, _)) => (host, address.to_owned()),
            None => (address, format!("{address}:{usual}")),
        };
        let tls = match authority {
            None => None,
            Some(path) => {
                let mut roots = RootCertStore::empty();
                let of = || format!("no certificates in {}", path.display());
                for certificate in CertificateDer::pem_file_iter(path).with_context(of)? {
                    roots.add(certificate.with_context(of)?)?;
                }
                let config = ClientConfig::builder()
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                Some((Arc::new(config), ServerName::try_from(host.to_owned())?))
            }
        };
        let read = |path: &Path| {
            let token = fs::read_to_string(path);
            token.with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(Self {
            address,
            token: token
                .map(read)
                .transpose()?
                .map(|token| token.trim().to_owned()),
            tls,
        })
    }

    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let mut addresses = self.address.to_socket_addrs()?;
        let address = addresses.next().ok_or(io::ErrorKind::NotFound)?;
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some((config, name)) => {
                let connection = ClientConnection::new(Arc::clone(config), name.clone());
                Box::new(StreamOwned::new(
                    connection.map_err(io::Error::other)?,
                    stream,
                ))
            }
        })
    }
}

impl Connection {
    pub(crate) fn new(server: Server) -> Self {
        Self {
            server,
            stream: None,
            opened: 0,
        }
    }

    /// `GET path`. If a kept connection turns out to be closed before a byte of the response, it is
    /// reopened once, as in every HTTP/1.1 client: the server may close an idle connection at any time.
    pub(crate) fn get(&mut self, path: &str) -> io::Result<Answer> {
        if let Some(stream) = self.stream.take() {
            match self.ask(stream, path) {
                Err(error) if was_closed(&error) => {}
                asked => return asked,
            }
        }
        let stream = self.server.connect()?;
        self.opened += 1;
        self.ask(BufReader::new(stream), path)
    }

    fn ask(&mut self, mut stream: BufReader<Box<dyn Stream>>, path: &str) -> io::Result<Answer> {
        let address = &self.server.address;
        let token = self.server.token.as_ref();
        let token = token.map(|token| format!("authorization: Bearer {token}\r\n"));
        let token = token.unwrap_or_default();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{token}\r\n");
        stream
            .get_mut()
            .write_all(request.as_bytes())
            .map_err(closed)?;
        stream.get_mut().flush().map_err(closed)?;
        if stream.fill_buf().map_err(closed)?.is_empty() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let (mut status, mut length, mut keep) = (None, 0, true);
        for number in 0.. {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if number == 0 {
                status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
            } else if let Some((name, value)) = line.split_once(':') {
                let value = value.trim();
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => length = value.parse().map_err(io::Error::other)?,
                    "connection" => keep = !value.eq_ignore_ascii_case("close"),
                    _ => {}
                }
            }
        }
        let status = status.ok_or(io::ErrorKind::InvalidData)?;
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        if keep {
            self.stream = Some(stream);
        }
        let body = String::from_utf8(body).map_err(io::Error::other)?;
        Ok(Answer { status, body })
    }
}

/// Marks that no byte of a response arrived.
fn closed(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::UnexpectedEof => io::ErrorKind::NotConnected.into(),
        _ => error,
    }
}

fn was_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotConnected
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A server that sends these responses, on each connection as many as are listed for it, and then closes it.
    fn server(connections: &'static [&'static [&'static str]]) -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            for answers in connections {
                let (stream, _) = listener.accept().unwrap();
                let mut stream = BufReader::new(stream);
                for answer in *answers {
                    let mut line = String::from("more");
                    while !line.trim_end().is_empty() {
                        line.clear();
                        stream.read_line(&mut line).unwrap();
                    }
                    stream.get_mut().write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        Connection::new(Server::new(&address, None, None).unwrap())
    }

    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

    #[test]
    fn a_connection_is_kept_until_it_is_closed_and_then_opened_once() {
        let mut connection = server(&[&[OK, OK], &[OK]]);
        for opened in [1, 1, 2] {
            let answer = connection.get("/").unwrap();
            assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
            assert_eq!(connection.opened, opened);
        }
        connection.get("/").unwrap_err();
    }

    #[test]
    fn what_is_to_be_closed_is_not_used_again() {
        const LAST: &str = "HTTP/1.1 503 Away\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let mut connection = server(&[&[LAST], &[OK]]);
        assert_eq!(connection.get("/").unwrap().status, 503);
        assert!(connection.stream.is_none());
        assert_eq!(connection.get("/").unwrap().status, 200);
    }

    #[test]
    fn half_an_answer_is_a_failure() {
        let mut connection = server(&[
            &[OK, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal"],
            &[OK],
        ]);
        connection.get("/").unwrap();
        connection.get("/").unwrap_err();
    }
}
