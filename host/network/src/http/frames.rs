//! Follows the frames that an h2 client sends, to see where header blocks begin and end.

/// The length of the connection preface, which precedes the first frame.
const PREFACE: usize = 24;
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// A header block that begins with this byte sets the size of the header table to 0 (RFC 7541,
/// 6.3).
const NO_TABLE: u8 = 0x20;

/// The parser's position in a client's frames.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes to skip before the next frame's head, or before the inspected byte in its payload.
    skip: usize,
    head: [u8; HEAD],
    /// How many bytes of the frame's head have arrived.
    length: usize,
    /// The length of the payload after the inspected byte.
    rest: usize,
    /// Whether the next byte is the first of a header block.
    looks: bool,
    /// Whether a header block continues in another frame.
    goes_on: bool,
    /// Whether the current frame belongs to a header block.
    of_block: bool,
    /// Header blocks that have begun since `take_begun` was last called.
    begun: usize,
    table: Table,
}

/// The state of the client's header table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Kept,
    /// The client has acknowledged that there is no table, and must announce it in its next header
    /// block.
    Acknowledged,
    Gone,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            skip: PREFACE,
            head: [0; HEAD],
            length: 0,
            rest: 0,
            looks: false,
            goes_on: false,
            of_block: false,
            begun: 0,
            table: Table::Kept,
        }
    }

    /// Whether a header block has begun and not ended.
    pub(super) fn in_block(&self) -> bool {
        self.goes_on || (self.of_block && self.skip + self.rest > 0)
    }

    /// Whether the current header block continues after the current frame.
    pub(super) fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// The number of header blocks begun since the last call.
    pub(super) fn take_begun(&mut self) -> usize {
        std::mem::take(&mut self.begun)
    }

    /// Whether the client may use a header table. Every client may until it has acknowledged a
    /// table size of 0 and begun a header block with that size (RFC 9113, 4.3.1).
    pub(super) fn has_table(&self) -> bool {
        self.table != Table::Gone
    }

    /// Parses more bytes from the client.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
            } else if self.looks {
                self.looks = false;
                if self.table == Table::Acknowledged && bytes[0] == NO_TABLE {
                    self.table = Table::Gone;
                }
                self.skip = std::mem::take(&mut self.rest);
            } else {
                self.head[self.length] = bytes[0];
                self.length += 1;
                bytes = &bytes[1..];
                if self.length == HEAD {
                    self.length = 0;
                    self.begin();
                }
            }
        }
    }

    /// Handles a complete frame head.
    fn begin(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        (self.skip, self.rest) = (length, 0);
        self.of_block = matches!(kind, HEADERS | CONTINUATION);
        match kind {
            HEADERS => {
                self.begun += 1;
                self.goes_on = flags & END_HEADERS == 0;
                let mut before = 0;
                if flags & PADDED != 0 {
                    before += 1;
                }
                if flags & PRIORITY != 0 {
                    before += 5;
                }
                if before < length {
                    (self.skip, self.rest) = (before, length - before);
                    self.looks = true;
                }
            }
            CONTINUATION => self.goes_on &= flags & END_HEADERS == 0,
            SETTINGS if flags & ACK != 0 && self.table == Table::Kept => {
                self.table = Table::Acknowledged;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, 1][..], payload].concat()
    }

    #[test]
    fn header_blocks_are_followed_however_they_are_cut() {
        let (data, ping) = (0, 6);
        let all = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(SETTINGS, 0, &[0; 6]),
            frame(HEADERS, END_HEADERS, &[0x82; 20]),
            frame(data, 0, &[1; 30]),
            frame(HEADERS, PADDED | PRIORITY, &[0, 0, 0, 0, 0, 0, 0x82, 0x84]),
            frame(CONTINUATION, 0, &[0x82; 5]),
            frame(CONTINUATION, END_HEADERS, &[0x82; 5]),
            frame(ping, ACK, &[0; 8]),
        ];
        let goes_on = [false, false, false, false, true, true, false, false];
        for chunk in [1, 2, 7, 1000] {
            let mut frames = Frames::new();
            for (at, (frame, goes_on)) in all.iter().zip(goes_on).enumerate() {
                for bytes in frame.chunks(chunk) {
                    frames.follow(bytes);
                }
                let found = (frames.goes_on(), frames.in_block());
                assert_eq!(found, (goes_on, goes_on), "frame {at} in parts of {chunk}");
            }
            assert!(frames.has_table());
            assert_eq!((frames.take_begun(), frames.take_begun()), (2, 0));
        }
        let mut frames = Frames::new();
        frames.follow(&all[..2].concat());
        frames.follow(&all[2][..12]);
        assert!(frames.in_block() && !frames.goes_on());
    }

    #[test]
    fn the_table_is_gone_when_it_was_acknowledged_and_taken_away() {
        let acknowledged = frame(SETTINGS, ACK, &[]);
        let taken = frame(HEADERS, END_HEADERS | PADDED, &[0, NO_TABLE, 0x82]);
        let kept = frame(HEADERS, END_HEADERS, &[0x82, NO_TABLE]);
        for (sent, has_table) in [
            ([&taken, &acknowledged, &kept], true),
            ([&acknowledged, &kept, &kept], true),
            ([&acknowledged, &kept, &taken], false),
            ([&acknowledged, &taken, &kept], false),
        ] {
            let mut frames = Frames::new();
            frames.follow(&[0; PREFACE]);
            for frame in sent {
                frames.follow(frame);
            }
            assert_eq!(frames.has_table(), has_table, "{sent:?}");
        }
    }
}
