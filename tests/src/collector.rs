//! A collector of traces: receives the hosts' exports by OTLP over HTTP, and decodes the
//! protobuf by its rules alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for spans before it fails.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Hexadecimal, as are the other ids.
    pub trace: String,
    pub id: String,
    /// The id of the parent span; empty where there is none.
    pub parent: String,
    pub name: String,
    /// 1: internal, 2: server, 3: client.
    pub kind: u64,
    /// The span's attributes, with those of its resource.
    pub attributes: BTreeMap<String, String>,
    /// Nanoseconds since 1970.
    pub began: u64,
    /// Nanoseconds since 1970.
    pub ended: u64,
    pub failed: bool,
}

/// A collector that runs until the test's process ends.
#[derive(Debug)]
pub struct Collector {
    /// The address that it listens on.
    pub address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    /// Starts a collector.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port can be bound");
        let address = listener.local_addr().expect("the port is bound");
        let spans = Arc::new(Mutex::default());
        let taken = Arc::clone(&spans);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A connection that sends nothing is ignored.
                let _ = take(stream, &taken);
            }
        });
        Self { address, spans }
    }

    /// The spans exported so far.
    ///
    /// # Panics
    /// When an export was not OTLP.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().expect("the exports are OTLP").clone()
    }

    /// Waits until the spans are as wanted, and returns them.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let spans = self.spans();
            if wanted(&spans) {
                return spans;
            }
            assert!(Instant::now() < deadline, "{what} do not come: {spans:#?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Receives one request.
fn take(stream: TcpStream, spans: &Mutex<Vec<Span>>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while stream.read_line(&mut head)? > 2 {}
    if head.is_empty() {
        // The connection was opened and closed unused.
        return Ok(());
    }
    let head = head.to_lowercase();
    let header = |name: &str| {
        let mut lines = head.lines();
        lines.find_map(|line| {
            Some(
                line.strip_prefix(name)?
                    .strip_prefix(':')?
                    .trim()
                    .to_owned(),
            )
        })
    };
    let length = header("content-length").unwrap_or_default();
    let mut body = vec![0; length.parse().unwrap_or_default()];
    stream.read_exact(&mut body)?;
    let mut spans = spans.lock().expect("the exports are OTLP");
    assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
    let kind = header("content-type");
    assert_eq!(kind.as_deref(), Some("application/x-protobuf"));
    for resource_spans in messages(&body, 1) {
        let resource = messages(resource_spans, 1);
        let resource: BTreeMap<_, _> = resource.into_iter().flat_map(attributes(1)).collect();
        for scope_spans in messages(resource_spans, 2) {
            let read = messages(scope_spans, 2);
            spans.extend(read.into_iter().map(|span| read_span(span, &resource)));
        }
    }
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    stream.get_mut().write_all(answer.as_bytes())
}

fn read_span(bytes: &[u8], resource: &BTreeMap<String, String>) -> Span {
    let id = |number| {
        messages(bytes, number)
            .first()
            .map_or_else(String::new, |id| hex(id))
    };
    let mut read = Span {
        trace: id(1),
        id: id(2),
        parent: id(4),
        name: text(bytes, 5),
        kind: number(bytes, 6),
        attributes: resource.clone(),
        began: number(bytes, 7),
        ended: number(bytes, 8),
        failed: messages(bytes, 15)
            .iter()
            .any(|status| number(status, 3) == 2),
    };
    read.attributes.extend(attributes(9)(bytes));
    read
}

/// The attributes in a message's field.
fn attributes(field: u64) -> impl Fn(&[u8]) -> Vec<(String, String)> {
    move |bytes| {
        let pairs = messages(bytes, field).into_iter();
        let read = pairs.map(|pair| {
            let value = messages(pair, 2).first().copied().unwrap_or_default();
            let said = match text(value, 1) {
                empty if empty.is_empty() => number(value, 3).to_string(),
                said => said,
            };
            (text(pair, 1), said)
        });
        read.collect()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn text(bytes: &[u8], field: u64) -> String {
    let found = messages(bytes, field).first().copied().unwrap_or_default();
    String::from_utf8(found.to_vec()).expect("a text is UTF-8")
}

fn number(bytes: &[u8], field: u64) -> u64 {
    let mut found = fields(bytes).into_iter();
    let found = found.find_map(|(number, value)| match value {
        Value::Number(value) if number == field => Some(value),
        _ => None,
    });
    found.unwrap_or_default()
}

/// The bytes of each field with this number.
fn messages(bytes: &[u8], field: u64) -> Vec<&[u8]> {
    let found = fields(bytes).into_iter();
    let found = found.filter_map(|(number, value)| match value {
        Value::Bytes(bytes) if number == field => Some(bytes),
        _ => None,
    });
    found.collect()
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// A message's fields, by the rules of protobuf's encoding.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Value<'_>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut bytes)),
            1 => {
                let (value, rest) = bytes.split_first_chunk().expect("eight bytes");
                bytes = rest;
                Value::Number(u64::from_le_bytes(*value))
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)).expect("a length");
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                Value::Bytes(value)
            }
            other => panic!("no wire type of OTLP: {other}"),
        };
        found.push((tag >> 3, value));
    }
    found
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().expect("a varint is whole");
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}
