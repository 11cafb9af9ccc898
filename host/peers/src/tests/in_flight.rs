use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::*;

/// A handler that counts how many requests it works on at the same time.
struct Gauge {
    now: AtomicUsize,
    most: AtomicUsize,
    done: AtomicUsize,
    changed: watch::Sender<usize>,
    gate: Semaphore,
}

impl Gauge {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            now: 0.into(),
            most: 0.into(),
            done: 0.into(),
            changed: watch::Sender::new(0),
            gate: Semaphore::new(0),
        })
    }
}

struct Gauged(Arc<Gauge>);

/// A request that is being worked on, until it is done or dropped.
struct Working<'a>(&'a Gauge);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handler for Gauged {
    async fn call(&self, _peer: Identity, body: Bytes) -> Bytes {
        let gauge = &self.0;
        let now = gauge.now.fetch_add(1, Ordering::SeqCst) + 1;
        gauge.most.fetch_max(now, Ordering::SeqCst);
        gauge.changed.send_replace(now);
        let working = Working(gauge);
        gauge.gate.acquire().await.unwrap().forget();
        tokio::task::yield_now().await;
        drop(working);
        gauge.done.fetch_add(1, Ordering::SeqCst);
        body
    }
}

/// Sends many requests at once, and returns the highest number that was worked on at the same time.
async fn most(client: Endpoint, server: Endpoint, bodies: Vec<usize>, reach: usize) -> usize {
    let count = bodies.len();
    let gauge = Gauge::new();
    let server = Server::start(server, Gauged(Arc::clone(&gauge))).await;
    let connection = connect(&server, &client).await;
    let mut requests = JoinSet::new();
    for length in bodies {
        let connection = connection.clone();
        requests.spawn(async move {
            let answer = connection.request(Bytes::from(vec![0; length])).await;
            assert_eq!(answer.unwrap().len(), length);
        });
    }
    let mut changed = gauge.changed.subscribe();
    changed.wait_for(|now| *now >= reach).await.unwrap();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    gauge.gate.add_permits(count);
    requests.join_all().await;
    assert_eq!(gauge.done.load(Ordering::SeqCst), count);
    let most = gauge.most.load(Ordering::SeqCst);
    println!("{count} requests, at most {most} at a time");
    most
}

#[tokio::test]
async fn the_number_in_flight_is_bounded() {
    let mut client = endpoint(1);
    client.settings.max_in_flight = 8;
    assert_eq!(most(client, endpoint(2), vec![8; 200], 8).await, 8);
}

#[tokio::test]
async fn the_bytes_in_flight_are_bounded() {
    let mut client = endpoint(1);
    client.settings.max_in_flight_bytes = 100;
    assert_eq!(most(client.clone(), endpoint(2), vec![40; 50], 2).await, 2);
    // Longer than the bound. Such a body runs alone, but does not wait forever.
    assert_eq!(most(client, endpoint(2), vec![500; 5], 1).await, 1);
}

#[tokio::test]
async fn the_accepting_side_works_on_a_bounded_number() {
    let mut server = endpoint(2);
    server.settings.max_running = 4;
    assert_eq!(most(endpoint(1), server, vec![8; 200], 4).await, 4);
}

#[tokio::test]
async fn a_request_given_up_is_let_go_by_the_other_side_and_keeps_its_place_until_then() {
    let gauge = Gauge::new();
    let server = Server::start(endpoint(2), Gauged(Arc::clone(&gauge))).await;
    let mut client = endpoint(1);
    client.settings.max_in_flight = 1;
    let connection = connect(&server, &client).await;
    let copy = connection.clone();
    let first = tokio::spawn(async move { copy.request(body(1)).await });
    let mut changed = gauge.changed.subscribe();
    changed.wait_for(|now| *now == 1).await.unwrap();
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    // The first request is dropped, and its room is available to the second.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while gauge.now.load(Ordering::SeqCst) > 0 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the request is not dropped"
        );
        tokio::task::yield_now().await;
    }
    gauge.gate.add_permits(1);
    let second = connection.request(body(2));
    let second = tokio::time::timeout(Duration::from_secs(20), second).await;
    assert_eq!(second.expect("it is worked on").unwrap(), body(2));
    let (most, done) = (&gauge.most, &gauge.done);
    assert_eq!(most.load(Ordering::SeqCst), 1);
    assert_eq!(done.load(Ordering::SeqCst), 1);
}
