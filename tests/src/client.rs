//! An HTTP/1.1 client on one kept connection, with or without TLS: its requests and responses
//! are exactly those on the wire.

use std::fmt;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// How long a test waits for bytes before it fails.
const PATIENCE: Duration = Duration::from_mins(1);

/// A connection to a host, opened at the first request and again after a failure.
pub struct Client {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    /// Sent with each request.
    headers: Vec<(String, String)>,
    stream: Option<BufReader<Box<dyn Duplex>>>,
}

trait Duplex: Read + Write + Send {}
impl<S: Read + Write + Send> Duplex for S {}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Client({})", self.address)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of a name, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(header, _)| header == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// The body as text.
    ///
    /// # Panics
    /// When it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    /// The number of the generation that answered.
    ///
    /// # Panics
    /// When the header is missing.
    pub fn generation(&self) -> u64 {
        let generation = self.header("ostrakon-generation");
        let generation = generation.unwrap_or_else(|| panic!("no generation in {self:?}"));
        generation.parse().expect("a generation is a number")
    }
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            tls: None,
            headers: Vec::new(),
            stream: None,
        }
    }

    /// Makes the client speak HTTPS with these trusted authorities and certificates.
    #[must_use]
    pub fn over_tls(mut self, tls: Arc<ClientConfig>) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Makes the client send a token with each request.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        let value = format!("Bearer {token}");
        self.headers.push(("authorization".to_owned(), value));
        self
    }

    fn connect(&self) -> io::Result<BufReader<Box<dyn Duplex>>> {
        let stream = connect(self.address)?.into_inner();
        let Some(tls) = &self.tls else {
            return Ok(BufReader::new(Box::new(stream)));
        };
        let name = self.address.ip().into();
        let connection = ClientConnection::new(Arc::clone(tls), name).map_err(io::Error::other)?;
        Ok(BufReader::new(Box::new(StreamOwned::new(
            connection, stream,
        ))))
    }

    /// `GET path`.
    ///
    /// # Errors
    /// When the connection fails before the response is whole.
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.send("GET", path, &[], b"")
    }

    /// `PUT path` with a body.
    ///
    /// # Errors
    /// When the connection fails before the response is whole.
    pub fn put(&mut self, path: &str, body: &[u8]) -> io::Result<Response> {
        self.send("PUT", path, &[], body)
    }

    /// Sends any request and reads its response. The connection is kept if the response allows
    /// that; otherwise the next request opens a new one.
    ///
    /// # Errors
    /// When the connection fails before the response is whole; the host may have received the
    /// request.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.address);
        let own = self.headers.iter();
        let own = own.map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(headers.iter().copied()) {
            let _ = write!(request, "{name}: {value}\r\n");
        }
        if !body.is_empty() || method == "PUT" || method == "POST" {
            let _ = write!(request, "content-length: {}\r\n", body.len());
        }
        request.push_str("\r\n");
        let request = [request.as_bytes(), body].concat();
        stream.get_mut().write_all(&request)?;
        let response = read_response(&mut stream, method == "HEAD")?;
        if response.header("connection") != Some("close") {
            self.stream = Some(stream);
        }
        Ok(response)
    }
}

/// Opens a connection with a timeout for reading.
///
/// # Errors
/// When nothing listens at the address.
pub fn connect(address: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

/// Reads one response from a connection; `without_body` as for `HEAD`.
///
/// # Errors
/// When the connection ends or breaks first, or the bytes are not HTTP.
pub fn read_response(stream: &mut impl BufRead, without_body: bool) -> io::Result<Response> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let status_line = read_line(stream)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| bad(&format!("not a status line: {status_line:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(stream)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| bad("not a header"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = match length {
        _ if without_body || status == 204 || status == 304 => 0,
        Some((_, length)) => length.parse().map_err(|_| bad("not a length"))?,
        None => return Err(bad("no content-length")),
    };
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Response {
        status,
        headers,
        body,
    })
}

fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    if stream.read_until(b'\n', &mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let line = String::from_utf8_lossy(&line);
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
