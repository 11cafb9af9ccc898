//! Raw h2 frames, including those that no well-behaved client sends.

use std::io::{self, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::client::connect;

/// A part of a body.
pub const DATA: u8 = 0;
/// The beginning of a header block.
pub const HEADERS: u8 = 1;
/// A priority, which peers no longer obey.
pub const PRIORITY: u8 = 2;
/// The end of a stream.
pub const RST_STREAM: u8 = 3;
/// The client's settings.
pub const SETTINGS: u8 = 4;
/// A check that the other side is there.
pub const PING: u8 = 6;
/// Room for more of a body.
pub const WINDOW_UPDATE: u8 = 8;
/// More of a header block.
pub const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
/// A flag of a frame: its stream has no more.
pub const END_STREAM: u8 = 1;
/// A flag of a frame: its header block has no more.
pub const END_HEADERS: u8 = 4;
const LARGEST: usize = 16_384;

/// `:method POST`, `:scheme http`, `:authority x`.
const BEGINNING: &[u8] = b"\x83\x86\x01\x01x";

/// A connection that reads nothing, except in the methods that say so.
#[derive(Debug)]
pub struct Raw {
    stream: BufReader<TcpStream>,
    next: u32,
    /// Frames that are queued and not sent yet.
    to_send: Vec<u8>,
}

impl Raw {
    /// Opens a connection.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::with_settings(address, &[])
    }

    /// As [`Raw::connect`], for a client that accepts no byte of any body.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn taking_nothing(address: SocketAddr) -> io::Result<Self> {
        Self::with_settings(address, &[0, 4, 0, 0, 0, 0])
    }

    fn with_settings(address: SocketAddr, settings: &[u8]) -> io::Result<Self> {
        let stream = connect(address)?;
        let timeout = Duration::from_secs(5);
        stream.get_ref().set_write_timeout(Some(timeout))?;
        let mut raw = Self {
            stream,
            next: 1,
            to_send: Vec::new(),
        };
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        raw.frame(SETTINGS, 0, 0, settings)?;
        raw.frame(SETTINGS, ACK, 0, &[])?;
        Ok(raw)
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// When the host accepts no more.
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.send(&frame(kind, flags, stream, payload))
    }

    /// Sends frames that are made already.
    ///
    /// # Errors
    /// When the host accepts no more.
    pub fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(frames)
    }

    /// Reads and discards the received bytes.
    ///
    /// # Errors
    /// When the host has closed the connection.
    pub fn take(&mut self) -> io::Result<()> {
        let stream = self.stream.get_mut();
        stream.set_nonblocking(true)?;
        let taken = loop {
            match stream.read(&mut [0; LARGEST]) {
                Ok(0) => break Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        stream.set_nonblocking(false)?;
        taken
    }

    fn next_stream(&mut self) -> u32 {
        let stream = self.next;
        self.next += 2;
        stream
    }

    /// Begins a request, with or without its end, with a header block of any length. Returns
    /// its stream.
    ///
    /// # Errors
    /// When the host accepts no more.
    pub fn request(&mut self, block: &[u8], flags: u8) -> io::Result<u32> {
        let stream = self.next_stream();
        let parts: Vec<_> = block.chunks(LARGEST).collect();
        for (at, part) in parts.iter().enumerate() {
            let kind = if at == 0 { HEADERS } else { CONTINUATION };
            let end = if at + 1 == parts.len() {
                END_HEADERS
            } else {
                0
            };
            let flags = if at == 0 { flags | end } else { end };
            self.frame(kind, flags, stream, part)?;
        }
        Ok(stream)
    }

    /// Sends one frame of a header block that is to be continued.
    ///
    /// # Errors
    /// When the host accepts no more.
    pub fn begin(&mut self, block: &[u8]) -> io::Result<()> {
        self.frame(HEADERS, 0, self.next, block)
    }

    /// Queues `GET path` on a stream of its own, to be sent with the other queued frames.
    /// Returns the stream.
    pub fn get(&mut self, path: &str) -> u32 {
        let stream = self.next_stream();
        let flags = END_STREAM | END_HEADERS;
        self.say(&frame(HEADERS, flags, stream, &get(path)));
        stream
    }

    /// Queues the cancellation of a request.
    pub fn reset(&mut self, stream: u32) {
        self.say(&frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }

    fn say(&mut self, frame: &[u8]) {
        self.to_send.extend_from_slice(frame);
    }

    /// Sends the queued frames at once.
    ///
    /// # Errors
    /// When the host accepts no more.
    pub fn send_said(&mut self) -> io::Result<()> {
        let said = std::mem::take(&mut self.to_send);
        self.send(&said)
    }

    /// Reads until this many responses have begun, and returns how many of them are 200.
    ///
    /// # Errors
    /// When the host has closed the connection to this client.
    pub fn answers(&mut self, count: usize) -> io::Result<usize> {
        let (mut answers, mut good) = (0, 0);
        while answers < count {
            let (kind, _, payload) = self.next_frame()?;
            if kind == HEADERS {
                answers += 1;
                // 200 has an index of its own.
                good += usize::from(payload[0] == 0x88);
            }
        }
        Ok(good)
    }

    /// Reads a frame: its kind, its stream and its payload.
    ///
    /// # Errors
    /// When the host has closed the connection.
    pub fn next_frame(&mut self) -> io::Result<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head)?;
        let [high, middle, low, kind, _, stream @ ..] = head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload)?;
        Ok((kind, u32::from_be_bytes(stream), payload))
    }
}

/// The bytes of a frame.
///
/// # Panics
/// When the payload is longer than a frame can be.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("the payload fits into a frame")
        .to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// The header block of `GET path`, with the authority and path in plain.
///
/// # Panics
/// When the path is long.
pub fn get(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).expect("the length is small");
    assert!(length < 127, "it is short");
    let before = [0x82, 0x86, 0x01, 1, b'a', 0x04, length];
    [&before, path.as_bytes()].concat()
}

/// A header block with `:path /` and a header of this many bytes.
pub fn large(length: usize) -> Vec<u8> {
    [
        BEGINNING,
        b"\x84",
        &literal(0, b"x-large", &vec![b'y'; length]),
    ]
    .concat()
}

/// A header block of this many headers, with names of a few bytes and no values.
pub fn many(count: usize) -> Vec<u8> {
    let mut block = [BEGINNING, b"\x84"].concat();
    for number in 0..count {
        block.extend(literal(0, format!("{number:x}").as_bytes(), b""));
    }
    block
}

/// A header block whose path enters the host's dynamic table, with as many other headers as fit
/// into a frame.
pub fn remembered(number: u32) -> Vec<u8> {
    let filler = literal(0, b"x-large", &vec![b'y'; LARGEST - 64]);
    let path = format!("/{number:x}");
    [BEGINNING, &remember_path(path.as_bytes()), &filler].concat()
}

/// `:path`, with incremental indexing.
fn remember_path(path: &[u8]) -> Vec<u8> {
    [&[0x44], &string(path)[..]].concat()
}

fn literal(kind: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[kind], &string(name)[..], &string(value)].concat()
}

fn string(bytes: &[u8]) -> Vec<u8> {
    let mut coded = Vec::new();
    if bytes.len() < 127 {
        coded.push(u8::try_from(bytes.len()).expect("the length is small"));
    } else {
        coded.push(127);
        let mut rest = bytes.len() - 127;
        while rest >= 128 {
            coded.push(u8::try_from(rest % 128).expect("seven bits") | 128);
            rest /= 128;
        }
        coded.push(u8::try_from(rest).expect("seven bits"));
    }
    coded.extend_from_slice(bytes);
    coded
}
