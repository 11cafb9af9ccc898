use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;

use tokio::io::DuplexStream;
use tokio::time::Instant;

use super::*;

/// Opens pipes to a server in memory, or fails, and records when.
#[derive(Default)]
struct Pipes {
    up: bool,
    times: Mutex<Vec<Instant>>,
}

impl Dial for Arc<Pipes> {
    type Stream = DuplexStream;

    async fn resolve(&self, _address: &str) -> std::io::Result<Vec<SocketAddr>> {
        Ok(vec![([10, 0, 0, 2], 7070).into()])
    }

    async fn dial(&self, _at: SocketAddr) -> std::io::Result<DuplexStream> {
        self.times.lock().unwrap().push(Instant::now());
        tokio::time::sleep(Duration::from_millis(10)).await;
        if !self.up {
            return Err(std::io::Error::other("nobody home"));
        }
        let (here, there) = tokio::io::duplex(4096);
        tokio::spawn(async move {
            let (_stop, signal) = watch::channel(false);
            serve(there, &endpoint(2), Arc::new(Echo), signal).await
        });
        Ok(here)
    }
}

fn pool(endpoint: Endpoint, up: bool) -> (Arc<Pool<Arc<Pipes>>>, Arc<Pipes>) {
    let pipes = Arc::new(Pipes {
        up,
        ..Pipes::default()
    });
    let pool = Pool::with_dial(Arc::new(endpoint), Arc::clone(&pipes));
    pool.set_address(2, "pipe");
    (Arc::new(pool), pipes)
}

async fn ask_at_once(pool: &Arc<Pool<Arc<Pipes>>>, count: u64) -> usize {
    let answered = AtomicUsize::new(0);
    let mut requests = JoinSet::new();
    for n in 0..count {
        let pool = Arc::clone(pool);
        requests.spawn(async move { pool.request(2, body(n)).await });
    }
    for outcome in requests.join_all().await {
        match outcome {
            Ok(_) => _ = answered.fetch_add(1, Ordering::SeqCst),
            Err(error) => assert!(error.is_not_sent(), "{error}"),
        }
    }
    answered.into_inner()
}

#[tokio::test(start_paused = true)]
async fn all_wait_for_the_same_attempt() {
    let (many, pipes) = pool(endpoint(1), true);
    assert_eq!(ask_at_once(&many, 100).await, 100);
    assert_eq!(pipes.times.lock().unwrap().len(), 1);

    let mut three = endpoint(1);
    three.settings.connections = 3;
    let (many, pipes) = pool(three, true);
    assert_eq!(ask_at_once(&many, 100).await, 100);
    assert_eq!(pipes.times.lock().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_outlives_the_request_that_began_it() {
    let (pool, pipes) = pool(endpoint(1), true);
    let copy = Arc::clone(&pool);
    let first = tokio::spawn(async move { copy.request(2, body(1)).await });
    tokio::task::yield_now().await;
    first.abort();
    assert_eq!(pool.request(2, body(2)).await.unwrap(), body(2));
    assert_eq!(pipes.times.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn pauses_double_up_to_two_seconds_and_fail_at_once_meanwhile() {
    let (pool, pipes) = pool(endpoint(1), false);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(9) {
        assert_eq!(ask_at_once(&pool, 3).await, 0);
        let before = Instant::now();
        let refused = pool.request(2, body(1)).await.unwrap_err().to_string();
        assert!(refused.contains("nobody home"), "{refused}");
        assert_eq!(before.elapsed(), Duration::ZERO);
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    let times = pipes.times.lock().unwrap();
    let pauses: Vec<u128> = times
        .windows(2)
        .map(|t| (t[1] - t[0]).as_millis())
        .collect();
    println!("pauses in ms, with 10 ms for the attempt: {pauses:?}");
    for (pause, wanted) in pauses.iter().zip([100, 200, 400, 800, 1600, 2000, 2000]) {
        assert!(
            (wanted + 10..wanted + 30).contains(pause),
            "{pause} for {wanted}"
        );
    }
    assert!(pauses.len() >= 6);
}

#[tokio::test(start_paused = true)]
async fn with_other_credentials_it_is_tried_at_once() {
    let (change, credentials) = watch::channel(Arc::default());
    let (pool, pipes) = pool(
        Endpoint {
            credentials,
            ..endpoint(1)
        },
        false,
    );
    assert_eq!(ask_at_once(&pool, 3).await, 0);
    assert_eq!(ask_at_once(&pool, 3).await, 0);
    assert_eq!(pipes.times.lock().unwrap().len(), 1);
    change.send_replace(Arc::default());
    assert_eq!(ask_at_once(&pool, 3).await, 0);
    assert_eq!(pipes.times.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_peer_of_another_ordinal_is_not_asked() {
    let executed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&executed);
    let handler = Answers(move |body| {
        count.fetch_add(1, Ordering::SeqCst);
        async { body }
    });
    let server = Server::start(endpoint(2), handler).await;
    let pool = Pool::new(Arc::new(endpoint(1)));
    pool.set_address(3, &server.address);
    let refused = pool.request(3, body(1)).await.unwrap_err();
    assert!(refused.is_not_sent());
    let text = refused.to_string();
    assert!(text.contains("peer 2 answered instead of peer 3"), "{text}");
    assert_eq!(executed.load(Ordering::SeqCst), 0);
    let unknown = pool.request(4, body(1)).await;
    assert_eq!(unknown, Err(RequestError::NotSent(Cause::NoAddress(4))));
    pool.set_address(2, &server.address);
    assert_eq!(pool.request(2, body(1)).await.unwrap(), body(1));
    pool.remove(2);
    assert!(pool.request(2, body(1)).await.unwrap_err().is_not_sent());
}

#[tokio::test]
async fn a_lost_connection_is_made_again() {
    let server = Server::start(endpoint(2), Echo).await;
    let pool = Pool::new(Arc::new(endpoint(1)));
    pool.set_address(2, &server.address);
    pool.request(2, body(1)).await.unwrap();
    server.shutdown.send_replace(true);
    server.task.await.unwrap();
    let listener = TcpListener::bind(&server.address).await.unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (_stop, signal) = watch::channel(false);
        serve(stream, &endpoint(2), Arc::new(Echo), signal).await
    });
    assert_eq!(pool.request(2, body(2)).await.unwrap(), body(2));
}

/// A process that turns out not to be the peer: other requests sent to it count as not run, and the
/// pool looks for the peer again after a pause.
#[tokio::test(start_paused = true)]
async fn what_was_sent_to_somebody_else_was_not_run_and_a_late_answer_harms_no_new_connection() {
    let (pool, pipes) = pool(endpoint(1), true);
    let answered = pool.ask(2, body(1), None).await.unwrap();
    // Sent but not answered, because no other task has run since.
    let mut sent = std::pin::pin!(pool.request(2, body(2)));
    assert!(sent.as_mut().now_or_never().is_none());
    pool.disown(&answered, "a stranger");
    let error = sent.await.unwrap_err();
    assert!(
        error.is_not_sent() && error.to_string().contains("a stranger"),
        "{error}"
    );
    assert!(pool.request(2, body(3)).await.unwrap_err().is_not_sent());
    assert_eq!(
        pipes.times.lock().unwrap().len(),
        1,
        "the second attempt must wait"
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(pool.request(2, body(4)).await.unwrap(), body(4));
    assert_eq!(pipes.times.lock().unwrap().len(), 2);
    pool.disown(&answered, "a stranger");
    assert_eq!(pool.request(2, body(5)).await.unwrap(), body(5));
    assert_eq!(pipes.times.lock().unwrap().len(), 2);
}
