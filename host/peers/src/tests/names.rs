//! Peers that are not, or not yet, at the address that their name resolves to.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::DuplexStream;
use tokio::time::{Instant, advance, sleep};

use super::*;

const NAME: &str = "kv-2.kv:7070";

fn at(host: u8) -> SocketAddr {
    ([10, 0, 0, host], 7070).into()
}

/// The process at an address.
#[derive(Clone, Debug)]
enum Host {
    /// A shard of this ordinal and incarnation.
    Shard(u32, u64),
    /// A machine that is gone: attempts to connect hang.
    Gone,
}

/// A network and its name server.
#[derive(Default)]
struct World {
    hosts: Mutex<HashMap<SocketAddr, Host>>,
    /// The name server's answer; `None` means that it does not answer at all.
    name: Mutex<Option<io::Result<Vec<SocketAddr>>>>,
    asked: Mutex<Vec<Instant>>,
    dialed: Mutex<Vec<SocketAddr>>,
    /// Has a clone for each hanging dial.
    hanging: Arc<()>,
}

impl World {
    fn name_is(&self, answer: &[u8]) {
        let answer = answer.iter().map(|host| at(*host)).collect();
        *self.name.lock().unwrap() = Some(Ok(answer));
    }

    fn name_is_unknown(&self) {
        let error = io::Error::other("no such name");
        *self.name.lock().unwrap() = Some(Err(error));
    }

    fn put(&self, host: u8, it: Host) {
        self.hosts.lock().unwrap().insert(at(host), it);
    }

    fn hanging(&self) -> usize {
        Arc::strong_count(&self.hanging) - 1
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn dialed(&self) -> Vec<SocketAddr> {
        self.dialed.lock().unwrap().clone()
    }
}

impl Dial for Arc<World> {
    type Stream = DuplexStream;

    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        assert_eq!(address, NAME);
        self.asked.lock().unwrap().push(Instant::now());
        sleep(Duration::from_millis(1)).await;
        let answer = match &*self.name.lock().unwrap() {
            None => None,
            Some(Ok(found)) => Some(Ok(found.clone())),
            Some(Err(error)) => Some(Err(io::Error::other(error.to_string()))),
        };
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    async fn dial(&self, at: SocketAddr) -> io::Result<DuplexStream> {
        self.dialed.lock().unwrap().push(at);
        sleep(Duration::from_millis(1)).await;
        let host = self.hosts.lock().unwrap().get(&at).cloned();
        match host {
            None => Err(io::ErrorKind::ConnectionRefused.into()),
            Some(Host::Gone) => {
                let _hanging = Arc::clone(&self.hanging);
                std::future::pending().await
            }
            Some(Host::Shard(ordinal, incarnation)) => {
                let (here, there) = tokio::io::duplex(4096);
                tokio::spawn(async move {
                    let (_stop, signal) = watch::channel(false);
                    let mut server = endpoint(ordinal);
                    server.identity.incarnation = incarnation;
                    let slow = Answers(|body: Bytes| async move {
                        // A request with a number waits that many milliseconds.
                        sleep(Duration::from_millis(number(&body))).await;
                        body
                    });
                    serve(there, &server, Arc::new(slow), signal).await
                });
                Ok(here)
            }
        }
    }
}

fn world() -> (Arc<World>, Arc<Pool<Arc<World>>>) {
    let world = Arc::new(World::default());
    let pool = Pool::with_dial(Arc::new(endpoint(1)), Arc::clone(&world));
    pool.set_address(2, NAME);
    (world, Arc::new(pool))
}

fn peer(incarnation: u64) -> Identity {
    Identity {
        incarnation,
        ..endpoint(2).identity
    }
}

/// Repeats a request until it is answered, as waiting requests do. Returns how long that took.
async fn answered(pool: &Pool<Arc<World>>) -> Duration {
    let began = Instant::now();
    while let Err(error) = pool.request(2, body(0)).await {
        assert!(error.is_not_sent(), "{error}");
        sleep(Duration::from_millis(20)).await;
        assert!(began.elapsed() < Duration::from_mins(1), "{error}");
    }
    began.elapsed()
}

async fn ask_until(
    pool: &Pool<Arc<World>>,
    body: Bytes,
    until: Instant,
) -> Result<Bytes, RequestError> {
    let answered = pool.ask(2, body, Some(until)).await;
    answered.map(|answered| answered.body)
}

#[tokio::test(start_paused = true)]
async fn where_a_peer_said_that_it_is_its_name_is_not_asked_for() {
    let (world, pool) = world();
    world.name_is_unknown();
    world.put(5, Host::Shard(2, 7));
    pool.announced(&peer(7), Some(at(5)));
    answered(&pool).await;
    assert_eq!((world.asked(), world.dialed()), (0, vec![at(5)]));
}

/// A decision about a shard is accepted only from the address that the peer's name resolves to,
/// not from any caller that claims the peer's ordinal.
#[tokio::test(start_paused = true)]
async fn it_is_known_whether_a_peer_was_found_where_its_name_leads() {
    let (world, pool) = world();
    world.name_is(&[4]);
    world.put(4, Host::Shard(2, 7));
    let by_name = pool.ask(2, body(0), None).await.unwrap();
    let asked = world.asked();
    assert!(pool.is_at_its_name(&by_name).await);
    assert_eq!(world.asked(), asked, "the address must come from the name");
    world.put(5, Host::Shard(2, 8));
    pool.announced(&peer(8), Some(at(5)));
    let announced = pool.ask(2, body(0), None).await.unwrap();
    assert!(!pool.is_at_its_name(&announced).await);
    world.name_is_unknown();
    assert!(!pool.is_at_its_name(&announced).await);
    *world.name.lock().unwrap() = None;
    assert!(
        !pool.is_at_its_name(&announced).await,
        "the name gives no answer"
    );
    world.name_is(&[5]);
    assert!(pool.is_at_its_name(&announced).await);
    world.name_is_unknown();
    assert!(
        pool.is_at_its_name(&announced).await,
        "the address must be used as long as its connection lasts"
    );
}

/// Another process, which also has the token, reuses the address.
#[tokio::test(start_paused = true)]
async fn an_address_that_is_left_is_forgotten() {
    for disowns in [false, true] {
        let (world, pool) = world();
        world.name_is(&[4]);
        world.put(4, Host::Shard(2, 9));
        world.put(5, Host::Shard(2, 8));
        pool.announced(&peer(8), Some(at(5)));
        let answered = pool.ask(2, body(0), None).await.unwrap();
        if disowns {
            pool.disown(&answered, "it is somebody else");
        } else {
            pool.leave(&answered, "it is somebody else");
        }
        let error = pool.request(2, body(0)).await.unwrap_err().to_string();
        assert!(error.contains("somebody else"), "{error}");
        sleep(Duration::from_secs(1)).await;
        pool.request(2, body(0)).await.unwrap();
        assert_eq!(world.dialed(), [at(5), at(4)], "disowns: {disowns}");
    }
}

/// The name server keeps saying that the name does not exist, as caches do for half a minute. Once
/// the peer has announced itself, the next request goes through, whatever pause is set.
#[tokio::test(start_paused = true)]
async fn a_peers_word_ends_the_pause_after_failures() {
    let (world, pool) = world();
    world.name_is_unknown();
    for _ in 0..10 {
        pool.request(2, body(0)).await.unwrap_err();
        advance(Duration::from_millis(500)).await;
    }
    pool.request(2, body(0)).await.unwrap_err();
    world.put(5, Host::Shard(2, 8));
    pool.announced(&peer(8), Some(at(5)));
    assert!(answered(&pool).await < Duration::from_millis(20));
}

/// The old address hangs until the timeout of the attempt, which is 5 s away.
#[tokio::test(start_paused = true)]
async fn a_peers_word_ends_an_attempt_that_hangs() {
    let (world, pool) = world();
    world.name_is(&[4]);
    world.put(4, Host::Gone);
    let asking = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { answered(&pool).await }
    });
    sleep(Duration::from_millis(700)).await;
    assert_eq!(world.hanging(), 1);
    world.put(5, Host::Shard(2, 8));
    pool.announced(&peer(8), Some(at(5)));
    let took = asking.await.unwrap();
    assert!(took < Duration::from_millis(720), "{took:?}");
    assert_eq!(world.hanging(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_name_is_asked_for_again_while_an_attempt_hangs_and_the_old_one_given_up() {
    let (world, pool) = world();
    world.name_is(&[4]);
    world.put(4, Host::Gone);
    world.put(6, Host::Gone);
    world.put(5, Host::Shard(2, 8));
    let asking = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { answered(&pool).await }
    });
    sleep(Duration::from_millis(1100)).await;
    assert_eq!((world.asked(), world.hanging()), (3, 1));
    world.name_is(&[6]);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(world.hanging(), 1, "the former address must be given up");
    world.name_is(&[6, 5]);
    let took = asking.await.unwrap();
    assert!(took < Duration::from_millis(2200), "{took:?}");
    assert_eq!(world.dialed(), [at(4), at(6), at(5)]);
}

/// With a service mesh or address translation, the source address of a peer's connections may not
/// lead to the peer.
#[tokio::test(start_paused = true)]
async fn an_address_that_leads_nowhere_costs_a_moment_and_the_name_is_used() {
    let (world, pool) = world();
    world.name_is(&[4]);
    world.put(4, Host::Shard(2, 7));
    world.put(5, Host::Gone);
    pool.announced(&peer(7), Some(at(5)));
    let took = answered(&pool).await;
    assert!(took < Duration::from_millis(300), "{took:?}");
    assert_eq!(world.hanging(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_address_where_another_answers_is_forgotten() {
    let (world, pool) = world();
    world.name_is_unknown();
    world.put(5, Host::Shard(3, 7));
    pool.announced(&peer(7), Some(at(5)));
    let error = pool.request(2, body(0)).await.unwrap_err().to_string();
    assert!(
        error.contains("peer 3 answered instead of peer 2"),
        "{error}"
    );
    for _ in 0..5 {
        advance(Duration::from_secs(5)).await;
        pool.request(2, body(0)).await.unwrap_err();
    }
    assert_eq!(world.dialed(), [at(5)]);
}

/// The system's resolver can occupy a thread for half a minute if no server answers.
#[tokio::test(start_paused = true)]
async fn without_a_name_server_a_peer_is_found_where_it_was() {
    let (world, pool) = world();
    world.name_is(&[4]);
    world.put(4, Host::Shard(2, 7));
    answered(&pool).await;
    *world.name.lock().unwrap() = None;
    // The peer's machine disappears without closing its connections.
    world.put(4, Host::Gone);
    pool.announced(&peer(8), Some(at(5)));
    world.put(4, Host::Shard(2, 8));
    let took = answered(&pool).await;
    assert!(took < Duration::from_millis(600), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_another_peer_tells_is_used_where_the_name_is_not_known() {
    let (world, pool) = world();
    world.name_is_unknown();
    let endpoint = endpoint(1);
    let told = Pool::with_dial(Arc::new(endpoint.clone()), Arc::clone(&world));
    told.set_address(2, NAME);
    told.request(2, body(0)).await.unwrap_err();
    world.put(5, Host::Shard(2, 7));
    endpoint.addresses.tell(2, at(5));
    assert!(answered(&told).await < Duration::from_millis(20));
    drop(pool);
}

/// A machine that disappeared together with an earlier process of the peer.
#[tokio::test(start_paused = true)]
async fn what_is_in_flight_to_an_earlier_process_ends_when_a_later_one_is_there() {
    let (world, pool) = world();
    world.name_is(&[4]);
    world.put(4, Host::Shard(2, 7));
    let asking = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { pool.request(2, body(60_000)).await }
    });
    sleep(Duration::from_millis(100)).await;
    pool.announced(&peer(7), Some(at(4)));
    sleep(Duration::from_millis(100)).await;
    assert!(!asking.is_finished());
    world.put(5, Host::Shard(2, 8));
    pool.announced(&peer(8), Some(at(5)));
    let ended = asking.await.unwrap();
    assert_eq!(ended, Err(RequestError::Unknown(Cause::Replaced)));
    answered(&pool).await;
    assert_eq!(world.dialed(), [at(4), at(5)]);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_not_sent_after_its_time_and_waited_for_if_it_was() {
    let (world, pool) = world();
    world.name_is(&[4]);
    world.put(4, Host::Gone);
    let until = || Instant::now() + Duration::from_secs(2);
    let began = Instant::now();
    let late = ask_until(&pool, body(0), until()).await;
    assert_eq!(late, Err(RequestError::NotSent(Cause::Late)));
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    world.put(5, Host::Shard(2, 8));
    pool.announced(&peer(8), Some(at(5)));
    let answer = ask_until(&pool, body(9_000), until()).await;
    assert_eq!(answer, Ok(body(9_000)));
}
