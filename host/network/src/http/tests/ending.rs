//! Clients that disconnect, handlers that panic, servers that shut down.

use super::*;

#[tokio::test]
async fn a_client_that_goes_away_ends_its_request_only() {
    let server = Running::new(patient());
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    timeout(PATIENCE, server.handler.entered.notified())
        .await
        .unwrap();
    // The client disconnects by a reset: closing only the sending side would not count as leaving.
    let socket = socket2::SockRef::from(&stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    timeout(PATIENCE, server.handler.dropped.notified())
        .await
        .expect("the request is dropped");
    assert!(server.handler.cut.load(Ordering::SeqCst));

    let mut stream = server.connect().await;
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf")
        .await
        .unwrap();
    drop(stream);
    server.is_well().await;
    server.stop().await;
}

#[tokio::test]
async fn a_handler_that_panics_is_answered_500_and_the_connection_goes_on() {
    let server = Running::new(patient());
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /panic HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let answer = read_answer(&mut stream, refusals::INTERNAL.text().len()).await;
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    assert!(answer.contains("ostrakon-error: internal"), "{answer}");
    stream
        .write_all(b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert!(
        read_answer(&mut stream, 8)
            .await
            .starts_with("HTTP/1.1 200")
    );
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn shutting_down_finishes_what_is_in_flight_and_closes_what_is_idle() {
    let server = Running::new(patient());
    let mut silent = server.connect().await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    read_answer(&mut idle, 8).await;
    let mut sender = server.h2().await;
    let over_h2 = Request::get("http://x/wait").body(Full::default()).unwrap();
    let over_h2 = tokio::spawn(sender.send_request(over_h2));
    timeout(PATIENCE, server.handler.entered.notified())
        .await
        .unwrap();
    let mut busy = server.connect().await;
    busy.write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    timeout(PATIENCE, server.handler.entered.notified())
        .await
        .unwrap();

    server.shutdown.send(true).unwrap();
    assert_eq!(read_to_end(&mut silent).await, "");
    assert_eq!(read_to_end(&mut idle).await, "");
    assert!(
        TcpStream::connect(server.address).await.is_err(),
        "nothing more is accepted"
    );
    assert!(!server.task.is_finished(), "requests are in flight");

    server.handler.release.notify_one();
    server.handler.release.notify_one();
    let answer = read_to_end(&mut busy).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("GET /wait 0"),
        "{answer}"
    );
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    let response = timeout(PATIENCE, over_h2).await.unwrap().unwrap().unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "GET /wait 0"
    );
    drop((sender, silent, idle, busy));
    server.stop().await;
}

#[tokio::test]
async fn an_h2_client_is_told_to_go_elsewhere_while_it_is_still_answered() {
    let server = Running::new(patient());
    let mut sender = server.h2().await;
    let request = |path| Request::get(path).body(Full::default()).unwrap();
    let waiting = tokio::spawn(sender.send_request(request("http://x/wait")));
    server.handler.entered.notified().await;
    server.handler.leaving.notify_one();
    server.handler.release.notify_one();
    let response = timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    // The client must send nothing more on this connection.
    let told = async {
        while sender.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, told).await.expect("it is told");
    // Other clients are still served.
    server.is_well().await;
    server.stop().await;
}
