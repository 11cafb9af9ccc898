//! The parts of the protocol that must not change, so that hosts of different versions can talk to
//! each other.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::frame::Frame;
use super::super::handshake::Message;
use super::*;

/// A hello of ordinal 2, incarnation 7 and store 0xfeedbeef, with a nonce of 32 bytes of 9, as a
/// host of protocol version 2 sends it.
const HELLO: &[u8] = &[
    b's', b'h', b'a', b'r', b'd', b'p', b'r', b'\n', 2, 2, 0, 2, 7, 0xef, 0xfd, 0xb6, 0xf7, 0x0f,
    9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9,
];

/// To find a common version, each version can read the hello of every other one. It can also read
/// its refusal.
#[test]
fn a_hello_and_a_refusal_are_what_they_were() {
    let mut ours = hello(&endpoint(2));
    ours.nonce = [9; 32];
    assert_eq!(ours.encode(), HELLO);
    let refused = postcard::to_stdvec(&Message::Refused("why".to_owned())).unwrap();
    assert_eq!(refused, [3, 3, b'w', b'h', b'y']);
}

#[test]
fn a_hello_with_more_in_it_is_read() {
    let later = [HELLO, b"what a later version says"].concat();
    let theirs = Hello::decode(&later).unwrap();
    assert_eq!(theirs.identity(), endpoint(2).identity);
    assert_eq!(theirs.versions(), Versions::SPOKEN);
    assert_eq!(theirs.nonce, [9; 32]);
}

/// Frames of a later version arrive before and after a request. That request is answered, and so is
/// the next one.
#[tokio::test]
async fn frames_of_a_later_version_are_passed_over() {
    let later = |kind: u8| [&[0, 0, 0, 13, kind][..], &[0; 8], b"body"].concat();
    let mut piped = piped(1 << 16, endpoint(2), Echo);
    let greeted = greet(&mut piped.stream, &endpoint(1)).await.unwrap();
    let mut buffer = greeted.buffer;
    for id in 1..=2 {
        for kind in [0, 11, 99, 255] {
            piped.stream.write_all(&later(kind)).await.unwrap();
        }
        let (head, body) = Frame::Request { id, body: body(id) }.encode();
        piped.stream.write_all(&head).await.unwrap();
        piped.stream.write_all(&body).await.unwrap();
        let answer = Frame::decode(buffer.next(&mut piped.stream).await.unwrap());
        assert_eq!(answer, Ok(Some(Frame::Answer { id, body })));
    }
}

/// The same for the connecting side.
#[tokio::test]
async fn frames_of_a_later_version_are_passed_over_by_who_connects() {
    let (mut here, there) = tokio::io::duplex(1 << 16);
    let accepting = tokio::spawn(async move {
        let mut greeted = welcome(&mut here, &endpoint(2)).await.unwrap();
        for _ in 0..2 {
            for kind in [0, 11, 99, 255] {
                let later = [&[0, 0, 0, 9, kind][..], &[0; 8]].concat();
                here.write_all(&later).await.unwrap();
            }
            let asked = Frame::decode(greeted.buffer.next(&mut here).await.unwrap());
            let Ok(Some(Frame::Request { id, body })) = asked else {
                panic!("{asked:?}");
            };
            let (head, body) = Frame::Answer { id, body }.encode();
            here.write_all(&head).await.unwrap();
            here.write_all(&body).await.unwrap();
        }
        let _until_it_ends = here.read(&mut [0; 64]).await;
    });
    let connection = Connection::open(there, &endpoint(1), None).await.unwrap();
    for number in 1..=2 {
        let answered =
            tokio::time::timeout(Duration::from_secs(30), connection.request(body(number)));
        assert_eq!(answered.await.unwrap().unwrap(), body(number));
    }
    drop(connection);
    accepting.await.unwrap();
}
