use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_vanished_server_is_noticed_and_its_request_unknown() {
    let (here, mut there) = tokio::io::duplex(4096);
    let greeting = tokio::spawn(async move {
        welcome(&mut there, &endpoint(2)).await.unwrap();
        there
    });
    let connection = Connection::open(here, &endpoint(1), None).await.unwrap();
    let _vanished = greeting.await.unwrap();
    let start = Instant::now();
    let lost = connection.request(body(1)).await;
    let silent = Cause::Silent(Duration::from_secs(2));
    assert_eq!(lost, Err(RequestError::Unknown(silent.clone())));
    assert_eq!(start.elapsed(), Duration::from_secs(2));
    assert_eq!(connection.shut_by(), Some(silent));
}

#[tokio::test(start_paused = true)]
async fn a_vanished_client_is_noticed() {
    let mut server = piped(4096, endpoint(2), Echo);
    greet(&mut server.stream, &endpoint(1)).await.unwrap();
    let start = Instant::now();
    let end = server.serving.await.unwrap();
    assert!(matches!(end, Err(ServeError::Connection(Cause::Silent(_)))));
    assert_eq!(start.elapsed(), Duration::from_secs(15));
}

/// Sends requests whose responses take an hour to a server that works on `max_running` at the same
/// time.
async fn long(max_running: u32, count: u64) {
    let handler = Answers(|body: Bytes| async {
        sleep(Duration::from_hours(1)).await;
        body
    });
    let mut server = endpoint(2);
    server.settings.max_running = max_running;
    let server = piped(4096, server, handler);
    let connection = Connection::open(server.stream, &endpoint(1), None)
        .await
        .unwrap();
    let start = Instant::now();
    let mut requests = JoinSet::new();
    for n in 0..count {
        let connection = connection.clone();
        requests.spawn(async move { connection.request(body(n)).await.unwrap() });
    }
    requests.join_all().await;
    let hours = count.div_ceil(u64::from(max_running));
    assert_eq!(start.elapsed(), Duration::from_secs(hours * 3600));
    assert!(connection.is_open());
}

#[tokio::test(start_paused = true)]
async fn pings_keep_a_quiet_connection() {
    long(10, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_pauses_reading_is_not_taken_for_vanished() {
    long(1, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_takes_a_minute_each_way_does_not_look_like_silence() {
    const SIZE: usize = 600 << 10;
    let (here, near) = tokio::io::duplex(1024);
    let (far, there) = tokio::io::duplex(1024);
    let (_stop, signal) = watch::channel(false);
    tokio::spawn(async move { serve(there, &endpoint(2), Arc::new(Echo), signal).await });
    let (near_from, near_to) = tokio::io::split(near);
    let (far_from, far_to) = tokio::io::split(far);
    for (mut from, mut to) in [(near_from, far_to), (far_from, near_to)] {
        tokio::spawn(async move {
            let mut bytes = [0; 1024];
            while let Ok(count @ 1..) = from.read(&mut bytes).await {
                sleep(Duration::from_millis(100)).await;
                to.write_all(&bytes[..count]).await.unwrap();
            }
        });
    }
    let connection = Connection::open(here, &endpoint(1), None).await.unwrap();
    let start = Instant::now();
    let answer = connection.request(Bytes::from(vec![7; SIZE])).await;
    assert_eq!(answer.unwrap().len(), SIZE);
    println!("took {:?} of paused time", start.elapsed());
    assert!(start.elapsed() >= Duration::from_mins(2));
}
