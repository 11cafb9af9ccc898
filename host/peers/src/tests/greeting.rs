//! Strangers can occupy places in the port's handshake backlog, but only for a limited time.

use std::time::Duration;

use ostrakon_test_support::certificates::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use super::tls::{credentials, mutual};
use super::*;

fn crowded(most: usize) -> Endpoint {
    let mut endpoint = with_tokens(2, &["a"]);
    endpoint.settings.max_greeting = most;
    endpoint
}

#[tokio::test]
async fn silent_strangers_neither_close_the_port_nor_grow_in_number() {
    const MOST: usize = 8;
    const STRANGERS: usize = 100;
    let mut server = Server::start(crowded(MOST), Echo).await;
    let early = connect(&server, &with_tokens(1, &["a"])).await;
    let mut strangers = Vec::new();
    for n in 0..STRANGERS {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        // Half of them send something first, some of it TLS.
        if n % 2 == 1 {
            let byte = if n % 4 == 1 { 0 } else { 0x16 };
            let _ = stream.write_all(&[byte]).await;
        }
        strangers.push(stream);
    }
    for _ in 0..STRANGERS - MOST {
        let end = server.ends.recv().await.unwrap();
        assert!(
            matches!(
                end,
                Err(ServeError::Handshake(
                    HandshakeError::CrowdedOut | HandshakeError::PlainHere
                ))
            ),
            "{end:?}"
        );
    }
    // Peers can still connect, and connected peers stay.
    let late = connect(&server, &with_tokens(1, &["a"])).await;
    for connection in [&early, &late] {
        assert_eq!(connection.request(body(1)).await.unwrap(), body(1));
    }
}

#[tokio::test]
async fn the_oldest_gives_way() {
    let mut server = Server::start(crowded(2), Echo).await;
    let mut strangers = Vec::new();
    for _ in 0..3 {
        strangers.push(TcpStream::connect(&server.address).await.unwrap());
    }
    let end = server.ends.recv().await.unwrap();
    assert!(
        matches!(end, Err(ServeError::Handshake(HandshakeError::CrowdedOut))),
        "{end:?}"
    );
    assert_eq!(strangers[0].read(&mut [0]).await.unwrap(), 0);
    for stranger in &strangers[1..] {
        let waits = stranger.try_read(&mut [0]).unwrap_err();
        assert_eq!(waits.kind(), std::io::ErrorKind::WouldBlock);
    }
}

#[tokio::test]
async fn those_whose_handshake_has_ended_take_no_places() {
    let mut server = Server::start(crowded(2), Echo).await;
    let mut stranger = TcpStream::connect(&server.address).await.unwrap();
    stranger.write_all(&[0]).await.unwrap();
    let mut connections = Vec::new();
    for _ in 0..5 {
        connections.push(connect(&server, &with_tokens(1, &["a"])).await);
    }
    for connection in connections {
        assert_eq!(connection.request(body(1)).await.unwrap(), body(1));
    }
    // The stranger still has its place, and some time left.
    stranger.write_all(&[0, 0, 5]).await.unwrap();
    stranger.write_all(b"hello").await.unwrap();
    loop {
        match server.ends.recv().await.unwrap() {
            Ok(()) => {}
            Err(ServeError::Handshake(HandshakeError::NotAShard)) => break,
            Err(error) => panic!("{error}"),
        }
    }
}

/// One byte arrives each second. The bytes could become a handshake.
#[tokio::test(start_paused = true)]
async fn a_drop_of_bytes_now_and_then_does_not_prolong_a_handshake() {
    let authority = Authority::new("a");
    let tls = mutual(&authority.issue_here(), &[&authority]);
    let both = credentials(Some(&tls), &["a"], Demand::Any);
    let beginnings: [&[u8]; 2] = [b"\x00\x00\x01\x00", b"\x16\x03\x01\x02\x00\x01\x00\x01"];
    for beginning in beginnings {
        let server = Endpoint {
            credentials: fixed(both.clone()),
            ..endpoint(2)
        };
        let mut server = piped(4096, server, Echo);
        let start = Instant::now();
        let dripping = tokio::spawn(async move {
            let mut drops = beginning.iter().copied().chain(std::iter::repeat(0));
            while server
                .stream
                .write_all(&[drops.next().unwrap()])
                .await
                .is_ok()
            {
                sleep(Duration::from_secs(1)).await;
            }
        });
        let end = server.serving.await.unwrap();
        assert!(
            matches!(end, Err(ServeError::Handshake(HandshakeError::TimedOut(_)))),
            "{end:?}"
        );
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        dripping.await.unwrap();
    }
}

#[tokio::test]
async fn a_handshake_message_is_held_to_its_length_whatever_is_announced() {
    let mut server = Server::start(crowded(8), Echo).await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(&1025_u32.to_be_bytes()).await.unwrap();
    let end = server.ends.recv().await.unwrap();
    assert!(
        matches!(
            end,
            Err(ServeError::Handshake(HandshakeError::TooLarge {
                length: 1025,
                most: 1024
            }))
        ),
        "{end:?}"
    );
}
