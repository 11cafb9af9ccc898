//! The answers, in both protocols.

use super::*;

#[tokio::test]
async fn a_request_is_answered_and_the_connection_kept() {
    let server = Running::new(patient());
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream
            .write_all(b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello")
            .await
            .unwrap();
        let answer = read_answer(&mut stream, 9).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nPOST /a 5"), "{answer}");
        assert!(answer.contains("\r\ndate: "), "{answer}");
        assert!(!answer.contains("server:"), "{answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Running::new(patient());
    let answer = server
        .exchange(
            b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\nPOST /2 HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc\
              GET /3 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        )
        .await;
    let bodies: Vec<usize> = ["GET /1 0", "POST /2 3", "GET /3 0"]
        .map(|body| answer.find(body).unwrap())
        .into();
    assert!(bodies.is_sorted(), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3);
    server.stop().await;
}

#[tokio::test]
async fn h2_is_served_on_the_same_port_to_those_who_begin_with_it() {
    let server = Running::new(patient());
    let mut sender = server.h2().await;
    let calls = (0..50).map(|n| {
        let body = Full::new(Bytes::from(vec![0; n]));
        let request = Request::post(format!("http://x/{n}")).body(body).unwrap();
        sender.send_request(request)
    });
    for (n, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
        let response = call.await.unwrap();
        assert_eq!(response.version(), Version::HTTP_2);
        assert!(response.headers().contains_key("date"));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, format!("POST /{n} {n}"));
    }
    drop(sender);
    server.stop().await;
}

#[tokio::test]
async fn the_preface_of_h2_may_come_byte_by_byte() {
    let server = Running::new(patient());
    let mut stream = server.connect().await;
    stream.set_nodelay(true).unwrap();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0" {
        stream.write_all(&[*byte]).await.unwrap();
    }
    let mut frame = [0; 9];
    timeout(PATIENCE, stream.read_exact(&mut frame))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(frame[3], 4, "the server's settings come first");
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn head_is_answered_with_the_length_and_without_the_body() {
    let server = Running::new(patient());
    let answer = server
        .exchange(b"HEAD /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    assert!(answer.contains("\r\ncontent-length: 9\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");

    let request = Request::head("http://x/a").body(Full::default()).unwrap();
    let response = server.h2().await.send_request(request).await.unwrap();
    assert_eq!(response.headers()["content-length"], "9");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "");
    server.stop().await;
}

#[tokio::test]
async fn malformed_requests_are_answered_400_and_closed() {
    let server = Running::new(patient());
    for malformed in [
        &b"nonsense\r\n\r\n"[..],
        b"GET / HTTP/3.7\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ] {
        let answer = server.exchange(malformed).await;
        check_refusal(&answer, refusals::BAD_REQUEST);
    }
    server.is_well().await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_malformed_after_a_good_request_is_refused_after_its_answer() {
    let server = Running::new(patient());
    let answer = server
        .exchange(b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\nnonsense\r\n\r\n")
        .await;
    let (first, second) = answer.split_once("GET /1 0").unwrap();
    assert!(first.starts_with("HTTP/1.1 200 OK"), "{answer}");
    check_refusal(second, refusals::BAD_REQUEST);
    server.stop().await;
}

#[tokio::test]
async fn a_handler_may_refuse_before_the_body_is_read() {
    let server = Running::new(patient());
    let answer = server
        .exchange(
            b"POST /refused HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\nconnection: close\r\n\r\n",
        )
        .await;
    check_refusal(&answer, SHUTTING_DOWN);
    assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn the_client_says_what_went_wrong() {
    let nobody = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = nobody.local_addr();
    let error = client::request(address, Method::GET, "/", SHORT)
        .await
        .unwrap_err();
    assert!(matches!(error, client::Error::Timeout { .. }), "{error}");
    drop(nobody);
    let error = client::request(address, Method::GET, "/", PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, client::Error::Connect { .. }), "{error}");
    let error = client::request(address, Method::GET, "no path\n", PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, client::Error::Path { .. }), "{error}");
}
