//! Clients that have closed their sending side, and clients that are gone.

use socket2::SockRef;

use super::*;

/// Sends bytes, closes the sending side, then reads until the server closes.
async fn ask_and_close(server: &Running, bytes: &[u8]) -> String {
    let mut stream = server.connect().await;
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    read_to_end(&mut stream).await
}

/// Closes a connection by a reset.
fn reset(stream: TcpStream) {
    let socket = SockRef::from(&stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

#[tokio::test]
async fn a_request_that_came_whole_is_answered_though_its_client_says_no_more() {
    let server = Running::new(patient());
    let mut answered = 0;
    for round in 0..20 {
        for (request, answers) in [
            (&b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n"[..], &["GET /a 0"][..]),
            (
                b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n1",
                &["PUT /a 1"],
            ),
            (
                b"PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                &["PUT /a 3"],
            ),
            (
                b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\nexpect: 100-continue\r\n\r\n1",
                &["PUT /a 1"],
            ),
            (b"GET /a HTTP/1.0\r\n\r\n", &["GET /a 0"]),
            (
                b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n1GET /b HTTP/1.1\r\nhost: x\r\n\r\n\
                  PUT /c HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n12",
                &["PUT /a 1", "GET /b 0", "PUT /c 2"],
            ),
        ] {
            let answer = ask_and_close(&server, request).await;
            let bodies: Vec<_> = answer.match_indices(" 200 OK").collect();
            assert_eq!(bodies.len(), answers.len(), "round {round}: {answer}");
            assert!(answer.ends_with(answers[answers.len() - 1]), "{answer}");
            for body in answers {
                assert!(answer.contains(body), "{body} is not in {answer}");
            }
            answered += answers.len();
        }
    }
    println!("{answered} requests, 0 failed");
    server.stop().await;
}

#[tokio::test]
async fn it_is_answered_however_long_that_takes() {
    let server = Running::new(Limits {
        idle_timeout: SHORT,
        ..patient()
    });
    let mut stream = server.connect().await;
    stream
        .write_all(b"PUT /wait HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n1")
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    server.handler.entered.notified().await;
    // Longer than two of the server's checks.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!server.handler.cut.load(Ordering::SeqCst));
    server.handler.release.notify_one();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.ends_with("PUT /wait 1"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_did_not_come_whole_is_not_run() {
    let server = Running::new(patient());
    let half = b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n1";
    check_refusal(&ask_and_close(&server, half).await, refusals::BAD_REQUEST);
    let half = b"PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n12\r\n";
    check_refusal(&ask_and_close(&server, half).await, refusals::BAD_REQUEST);
    for nothing in [&b"PUT /a HTTP/1.1\r\nhost: x\r\n"[..], b"P", b""] {
        assert_eq!(ask_and_close(&server, nothing).await, "");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_connection_that_is_idle_is_closed_at_once_when_its_client_has_said_all() {
    let server = Running::new(patient());
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    read_answer(&mut stream, 8).await;
    stream.shutdown().await.unwrap();
    // Long before the idle timeout would close the connection.
    assert_eq!(read_to_end(&mut stream).await, "");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_resets_its_connection_ends_its_request() {
    let server = Running::new(patient());
    let request = b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n";
    for (what, is_half_closed, more) in [
        ("it says nothing", false, &b""[..]),
        ("it has said all", true, b""),
        ("it has said more", false, request),
        ("it has said more, and all", true, request),
    ] {
        let mut stream = server.connect().await;
        stream.write_all(request).await.unwrap();
        server.handler.entered.notified().await;
        stream.write_all(more).await.unwrap();
        if is_half_closed {
            stream.shutdown().await.unwrap();
        }
        reset(stream);
        timeout(PATIENCE, server.handler.dropped.notified())
            .await
            .unwrap_or_else(|_| panic!("{what}: the request is not dropped"));
        server.is_well().await;
    }
    server.stop().await;
}

/// Makes the kernel forget a connection one second after it was closed.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no crate here sets this option")]
fn forget_in_a_second(stream: &TcpStream) {
    use std::os::fd::AsRawFd as _;

    let second: libc::c_int = 1;
    let (level, option) = (libc::IPPROTO_TCP, libc::TCP_LINGER2);
    let length = libc::socklen_t::try_from(size_of_val(&second)).unwrap();
    // SAFETY: the descriptor is open, and the pointer is valid for the given number of bytes.
    let set = unsafe {
        let second = (&raw const second).cast();
        libc::setsockopt(stream.as_raw_fd(), level, option, second, length)
    };
    assert_eq!(set, 0);
}

/// A client that has closed its whole connection reads nothing more. Once its kernel has forgotten
/// the connection, it answers further packets with a reset. Linux forgets after a minute, or after
/// the time that the socket option sets.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_client_that_closes_its_connection_ends_its_request_and_one_that_waits_does_not() {
    let server = Running::new(patient());
    let mut gone = server.connect().await;
    let request = b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n";
    gone.write_all(request).await.unwrap();
    server.handler.entered.notified().await;
    forget_in_a_second(&gone);
    drop(gone);
    timeout(PATIENCE, server.handler.dropped.notified())
        .await
        .expect("the request is dropped");

    let mut waits = server.connect().await;
    waits.write_all(request).await.unwrap();
    waits.shutdown().await.unwrap();
    server.handler.entered.notified().await;
    // The time after which a client that answers no probes counts as gone.
    let all_probes = Duration::from_secs(7);
    let dropped = timeout(all_probes, server.handler.dropped.notified()).await;
    assert!(dropped.is_err(), "the request must still wait");
    server.handler.release.notify_one();
    let answer = read_to_end(&mut waits).await;
    assert!(answer.ends_with("GET /wait 0"), "{answer}");
    server.stop().await;
}
