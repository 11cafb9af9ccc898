//! The clock that dates responses.

use super::*;

/// A clock that the test sets, in seconds after 1970.
static CLOCK: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

fn clock() -> std::time::SystemTime {
    std::time::UNIX_EPOCH + Duration::from_secs(CLOCK.load(Ordering::SeqCst))
}

#[tokio::test]
async fn answers_are_dated_by_the_clock_as_it_is_also_when_it_was_set_back() {
    const DAY: u64 = 24 * 60 * 60;
    let server = Running::with_clock(patient(), clock);
    let mut stream = server.connect().await;
    let mut sender = server.h2().await;
    for (days, date) in [
        (20_000, "Fri, 04 Oct 2024 00:00:00 GMT"),
        (20_060, "Tue, 03 Dec 2024 00:00:00 GMT"),
        (20_000, "Fri, 04 Oct 2024 00:00:00 GMT"),
    ] {
        CLOCK.store(days * DAY, Ordering::SeqCst);
        stream
            .write_all(b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let answer = read_answer(&mut stream, 8).await;
        assert!(
            answer.contains(&format!("\r\ndate: {date}\r\n")),
            "{answer}"
        );
        assert_eq!(answer.matches("date: ").count(), 1);
        let request = Request::get("http://x/1").body(Full::default()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.headers()["date"], date);
    }
    drop((stream, sender));
    server.stop().await;
}
