//! h2, as raw frames.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
const LARGEST: usize = 16_384;

/// `:method POST`, `:scheme http`, `:authority x`.
const BEGINNING: &[u8] = b"\x83\x86\x01\x01x";

/// A connection on which nothing that comes is read.
pub(crate) struct Raw {
    stream: TcpStream,
    next: u32,
}

impl Raw {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        let mut raw = Self { stream, next: 1 };
        raw.frame(SETTINGS, 0, 0, &[])?;
        raw.frame(SETTINGS, ACK, 0, &[])?;
        Ok(raw)
    }

    pub(crate) fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> io::Result<()> {
        self.send(&frame(kind, flags, stream, payload))
    }

    /// Frames that were made already.
    pub(crate) fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.stream.write_all(frames)
    }

    /// Reads and throws away what has come. An error where the host has closed the connection.
    pub(crate) fn take(&mut self) -> io::Result<()> {
        self.stream.set_nonblocking(true)?;
        let taken = loop {
            match self.stream.read(&mut [0; LARGEST]) {
                Ok(0) => break Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.stream.set_nonblocking(false)?;
        taken
    }

    /// Begins a request, with or without its end, by a header block of any length; gives its stream.
    pub(crate) fn request(&mut self, block: &[u8], flags: u8) -> io::Result<u32> {
        let stream = self.next;
        self.next += 2;
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

    /// A header block of one frame, to which more is to come.
    pub(crate) fn begin(&mut self, block: &[u8]) -> io::Result<()> {
        self.frame(HEADERS, 0, self.next, block)
    }
}

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("it fits").to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// A header block with `:path /` and a header of so many bytes.
pub(crate) fn large(length: usize) -> Vec<u8> {
    [
        BEGINNING,
        b"\x84",
        &literal(0, b"x-large", &vec![b'y'; length]),
    ]
    .concat()
}

/// A header block of so many headers that have a name of a few bytes and no value.
pub(crate) fn many(count: usize) -> Vec<u8> {
    let mut block = [BEGINNING, b"\x84"].concat();
    for number in 0..count {
        block.extend(literal(0, format!("{number:x}").as_bytes(), b""));
    }
    block
}

/// A header block whose path is to be remembered, with as much beside it as fits into a frame.
pub(crate) fn remembered(number: u32) -> Vec<u8> {
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
        coded.push(u8::try_from(bytes.len()).expect("it is short"));
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
