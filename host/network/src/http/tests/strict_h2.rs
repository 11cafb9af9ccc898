//! The same rules over h2, in frames that no client library would send.

use super::*;

/// Sends one h2 request of raw header fields. Returns the status of the answer, or `None` if there
/// is none.
async fn raw_h2(server: &Running, fields: &[(&str, &str)], data: &[u8]) -> Option<(u16, String)> {
    let mut frames = H2_PREFACE.to_vec();
    let flags = if data.is_empty() { 5 } else { 4 };
    frames.extend(h2_frame(1, flags, 1, &h2_block(fields)));
    if !data.is_empty() {
        frames.extend(h2_frame(0, 1, 1, data));
    }
    let mut stream = server.connect().await;
    stream.write_all(&frames).await.unwrap();
    let mut answer: Option<u16> = None;
    let mut text = Vec::new();
    loop {
        let (kind, flags, payload) = read_h2_frame(&mut stream).await?;
        match kind {
            1 => {
                // An indexed `:status` field, or a literal one whose name is indexed.
                answer = Some(match payload[0] {
                    0x88 => 200,
                    0x8c => 400,
                    _ => {
                        let status = hpack_status(&payload);
                        status.unwrap_or(0)
                    }
                });
            }
            0 => text.extend_from_slice(&payload),
            3 | 7 => return None,
            _ => {}
        }
        if let Some(status) = answer
            && kind <= 1
            && flags & 1 == 1
        {
            return Some((status, String::from_utf8_lossy(&text).into_owned()));
        }
    }
}

/// A status that is not in the static table: a literal of three digits, plain or Huffman-coded.
fn hpack_status(block: &[u8]) -> Option<u16> {
    let length = usize::from(block.get(1)? & 0x7f);
    let value = block.get(2..2 + length)?;
    if block[1] & 0x80 == 0 {
        return std::str::from_utf8(value).ok()?.parse().ok();
    }
    // The digits 0 to 2 have the 5-bit codes 0 to 2; 3 to 9 have the 6-bit codes 0x19 to 0x1f.
    let bits: Vec<u8> = value
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    let (mut at, mut digits) = (0, String::new());
    while digits.len() < 3 {
        let code = |length: usize| {
            let bits = bits.get(at..at + length)?;
            Some(bits.iter().fold(0, |code, bit| code << 1 | u32::from(*bit)))
        };
        let (digit, length) = match code(5)? {
            short @ 0..=2 => (short, 5),
            _ => (code(6)?.checked_sub(0x19)? + 3, 6),
        };
        digits.push(char::from_digit(digit, 10)?);
        at += length;
    }
    digits.parse().ok()
}

/// A description, header fields, a body, and the expected status.
type Case = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [u8],
    Option<u16>,
);

/// The header fields beside the pseudo-header fields that each request has, the body, and the
/// status, which is `None` if the stream is reset.
const CASES: &[Case] = &[
    ("an authority", &[(":authority", "x")], b"", Some(200)),
    ("a host", &[("host", "x")], b"", Some(200)),
    (
        "both",
        &[(":authority", "x:80"), ("host", "X:80")],
        b"",
        Some(200),
    ),
    (
        "both, and they differ",
        &[(":authority", "x"), ("host", "y")],
        b"",
        Some(400),
    ),
    ("neither", &[], b"", Some(400)),
    (
        "two hosts",
        &[(":authority", "x"), ("host", "x"), ("host", "x")],
        b"",
        Some(400),
    ),
    (
        "an authority with a user",
        &[(":authority", "u@x")],
        b"",
        Some(400),
    ),
    (
        "te",
        &[(":authority", "x"), ("te", "trailers")],
        b"",
        Some(200),
    ),
    (
        "another te",
        &[(":authority", "x"), ("te", "gzip")],
        b"",
        None,
    ),
    (
        "connection",
        &[(":authority", "x"), ("connection", "close")],
        b"",
        None,
    ),
    (
        "transfer-encoding",
        &[(":authority", "x"), ("transfer-encoding", "chunked")],
        b"",
        None,
    ),
    (
        "upgrade",
        &[(":authority", "x"), ("upgrade", "h2c")],
        b"",
        None,
    ),
    (
        "keep-alive",
        &[(":authority", "x"), ("keep-alive", "1")],
        b"",
        None,
    ),
    (
        "a name in capitals",
        &[(":authority", "x"), ("A", "b")],
        b"",
        None,
    ),
    (
        "a pseudo-header after others",
        &[("a", "b"), (":authority", "x")],
        b"",
        None,
    ),
    (
        "a second path",
        &[(":authority", "x"), (":path", "/b")],
        b"",
        None,
    ),
    (
        "a length",
        &[(":authority", "x"), ("content-length", "2")],
        b"ab",
        Some(200),
    ),
    (
        "another length",
        &[(":authority", "x"), ("content-length", "1")],
        b"ab",
        None,
    ),
    (
        "a length of nothing",
        &[(":authority", "x"), ("content-length", "1")],
        b"",
        None,
    ),
    (
        "two lengths",
        &[
            (":authority", "x"),
            ("content-length", "2"),
            ("content-length", "3"),
        ],
        b"ab",
        None,
    ),
];

#[tokio::test]
async fn requests_over_h2_are_taken_as_the_standard_says() {
    let server = Running::new(patient());
    let start = [(":method", "PUT"), (":scheme", "http"), (":path", "/a")];
    for (what, more, data, status) in CASES {
        let fields = [&start[..], more].concat();
        let answer = raw_h2(&server, &fields, data).await;
        assert_eq!(
            answer.as_ref().map(|answer| answer.0),
            *status,
            "{what}: {answer:?}"
        );
        if let Some((400, text)) = answer {
            assert_eq!(text, refusals::BAD_REQUEST.text(), "{what}");
        }
    }
    let tunnel = [(":method", "CONNECT"), (":authority", "x:80")];
    let answer = raw_h2(&server, &tunnel, b"").await;
    assert_eq!(answer.map(|answer| answer.0), Some(501));
    println!("{} cases", CASES.len() + 1);
    server.is_well().await;
    server.stop().await;
}

#[tokio::test]
async fn what_host_h2_asks_is_said_as_in_http_1() {
    let server = Running::new(patient());
    let request = Request::get("http://y:80/a").body(Full::default()).unwrap();
    let answer = server.h2().await.send_request(request).await.unwrap();
    assert_eq!(answer.headers()["asked"], "y:80");
    server.stop().await;
}
