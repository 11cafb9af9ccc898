//! Credentials that change while connections are open.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ostrakon_test_support::certificates::Authority;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::tls::{credentials, mutual};
use super::*;

/// How long a test waits for an expected event.
const PATIENCE: Duration = Duration::from_secs(50);

type Changing = watch::Sender<Arc<Credentials>>;

/// An endpoint, and the sender that changes its credentials.
fn changing(ordinal: u32, first: Credentials) -> (Endpoint, Changing) {
    let (sender, credentials) = watch::channel(Arc::new(first));
    let endpoint = Endpoint {
        credentials,
        ..endpoint(ordinal)
    };
    (endpoint, sender)
}

/// Waits until a connection accepts no more requests.
async fn shut(connection: &Connection) {
    let shut = async {
        while connection.is_open() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, shut).await.expect("it shuts");
}

fn tokens(tokens: &[&str]) -> Credentials {
    credentials(None, tokens, Demand::All)
}

#[tokio::test]
async fn a_token_that_is_taken_away_ends_what_was_admitted_by_it() {
    let (there, change) = changing(2, tokens(&["new", "old"]));
    let mut server = Server::start(there, Echo).await;
    let (here, _) = changing(1, tokens(&["old", "new"]));
    let old = connect(&server, &here).await;
    let new = connect(&server, &with_tokens(1, &["new"])).await;
    change.send_replace(Arc::new(tokens(&["new"])));
    // The connection is told to end, and ends, without any request.
    let end = timeout(PATIENCE, server.ends.recv()).await;
    end.expect("it ends").unwrap().unwrap();
    let refused = old.request(body(1)).await.unwrap_err();
    assert!(refused.is_not_sent(), "{refused}");
    assert_eq!(new.request(body(2)).await.unwrap(), body(2));
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let again = Connection::open(stream, &here, None).await;
    assert!(again.is_err(), "{again:?}");
}

#[tokio::test]
async fn the_connecting_side_leaves_who_has_shown_what_was_taken_away() {
    let server = Server::start(with_tokens(2, &["old", "new"]), Echo).await;
    let (here, change) = changing(1, tokens(&["new", "old"]));
    let connection = connect(&server, &here).await;
    assert_eq!(connection.request(body(1)).await.unwrap(), body(1));
    change.send_replace(Arc::new(tokens(&["new"])));
    shut(&connection).await;
    assert_eq!(connection.shut_by(), Some(Cause::Revoked));
    let refused = connection.request(body(2)).await;
    assert_eq!(refused, Err(RequestError::NotSent(Cause::Revoked)));
}

#[tokio::test]
async fn an_authority_that_is_taken_away_ends_what_was_admitted_by_it() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let all = |tls| credentials(Some(&tls), &[], Demand::All);
    let (there, change) = changing(2, all(mutual(&new.issue_here(), &[&old, &new])));
    let mut server = Server::start(there, Echo).await;
    let pool = |issuer: &Authority| {
        let tls = mutual(&issuer.issue_here(), &[&old, &new]);
        let pool = Pool::new(Arc::new(changing(1, all(tls)).0));
        pool.set_address(2, &server.address);
        pool
    };
    let (with_old, with_new) = (pool(&old), pool(&new));
    with_old.request(2, body(1)).await.unwrap();
    with_new.request(2, body(1)).await.unwrap();
    change.send_replace(Arc::new(all(mutual(&new.issue_here(), &[&new]))));
    let end = timeout(PATIENCE, server.ends.recv()).await;
    end.expect("it ends").unwrap().unwrap();
    let refused = with_old.request(2, body(2)).await.unwrap_err();
    assert!(refused.is_not_sent(), "{refused}");
    assert_eq!(with_new.request(2, body(2)).await.unwrap(), body(2));
}

/// A request that is in flight at the revocation is still answered.
#[tokio::test]
async fn requests_in_flight_are_answered_before_a_connection_ends() {
    let gate = Arc::new(Semaphore::new(0));
    let (sender, mut started) = mpsc::unbounded_channel();
    let shared = Arc::clone(&gate);
    let handler = Answers(move |body: Bytes| {
        sender.send(()).unwrap();
        let gate = Arc::clone(&shared);
        async move {
            gate.acquire().await.unwrap().forget();
            body
        }
    });
    let (there, change) = changing(2, tokens(&["new", "old"]));
    let mut server = Server::start(there, handler).await;
    let connection = connect(&server, &with_tokens(1, &["old", "new"])).await;
    let mut requests = JoinSet::new();
    for n in 0..20 {
        let connection = connection.clone();
        requests.spawn(async move { connection.request(body(n)).await.unwrap() });
    }
    for _ in 0..20 {
        started.recv().await.unwrap();
    }
    change.send_replace(Arc::new(tokens(&["new"])));
    shut(&connection).await;
    gate.add_permits(20);
    assert_eq!(requests.join_all().await.len(), 20);
    let end = timeout(PATIENCE, server.ends.recv()).await;
    end.expect("it ends").unwrap().unwrap();
}

/// A side that confirms nothing is disconnected after `goaway_timeout`. A side that keeps a request
/// open forever is disconnected after `revoked_timeout`.
#[tokio::test(start_paused = true)]
async fn nobody_stays_beyond_the_bound() {
    let (there, change) = changing(2, tokens(&["new", "old"]));
    let mut server = piped(4096, there, Echo);
    let greeted = greet(&mut server.stream, &with_tokens(1, &["old", "new"])).await;
    assert!(greeted.is_ok());
    let start = Instant::now();
    change.send_replace(Arc::new(tokens(&["new"])));
    let end = timeout(PATIENCE, server.serving)
        .await
        .expect("it ends")
        .unwrap();
    assert!(matches!(end, Err(ServeError::Connection(Cause::NoAck(_)))));
    assert!(start.elapsed() <= Duration::from_secs(11));

    let endless = Answers(|_| std::future::pending());
    let (there, change) = changing(2, tokens(&["new", "old"]));
    let server = piped(4096, there, endless);
    let here = with_tokens(1, &["old", "new"]);
    let connection = Connection::open(server.stream, &here, None).await.unwrap();
    let asked = tokio::spawn(async move { connection.request(body(1)).await });
    sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    change.send_replace(Arc::new(tokens(&["new"])));
    let end = timeout(PATIENCE, server.serving)
        .await
        .expect("it ends")
        .unwrap();
    assert!(
        matches!(end, Err(ServeError::Connection(Cause::Revoked))),
        "{end:?}"
    );
    assert!(start.elapsed() <= Duration::from_secs(31));
    assert!(matches!(
        asked.await.unwrap(),
        Err(RequestError::Unknown(_))
    ));
}

/// Only the runtime's clock is paused. The time that applies to certificates goes on.
#[tokio::test(start_paused = true)]
async fn a_certificate_that_expires_ends_what_was_admitted_by_it() {
    let authority = Authority::new("a");
    let short = authority.issue_for(&["localhost"], -60, 2, &[]);
    let all = |tls| credentials(Some(&tls), &[], Demand::All);
    let (there, _kept) = changing(2, all(mutual(&authority.issue_here(), &[&authority])));
    let (here, _kept) = changing(1, all(mutual(&short, &[&authority])));
    let server = piped(4096, there, Echo);
    let connection = Connection::open_tls(server.stream, &here, "localhost", None).await;
    let connection = connection.unwrap();
    assert_eq!(connection.request(body(1)).await.unwrap(), body(1));
    let end = timeout(Duration::from_hours(2_000), server.serving).await;
    end.expect("it ends").unwrap().unwrap();
    assert_eq!(connection.shut_by(), Some(Cause::GoingAway));
}

/// Tokens, certificates, authorities, and the kinds of credentials change under load, on two
/// shards that see each change at different times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_fails_while_everything_rotates() {
    const ROUNDS: usize = 3;
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let tls = |issuer: &Authority, believed: &[&Authority]| mutual(&issuer.issue_here(), believed);
    let mut steps = Vec::new();
    for _ in 0..ROUNDS {
        let all = |tls, tokens: &[&str]| credentials(tls, tokens, Demand::All);
        let any = |tls, tokens: &[&str]| credentials(tls, tokens, Demand::Any);
        steps.extend([
            all(None, &["old"]),
            all(None, &["old", "new"]),
            all(None, &["new", "old"]),
            all(None, &["new"]),
            any(Some(&tls(&one, &[&one])), &["new"]),
            all(Some(&tls(&one, &[&one])), &[]),
            all(Some(&tls(&one, &[&one, &two])), &[]),
            all(Some(&tls(&two, &[&one, &two])), &[]),
            all(Some(&tls(&two, &[&two])), &[]),
            any(Some(&tls(&two, &[&two])), &["old"]),
            all(Some(&tls(&two, &[&two])), &["old"]),
            any(Some(&tls(&two, &[&two])), &["old"]),
        ]);
    }
    let (there, change_there) = changing(2, steps[0].clone());
    let (here, change_here) = changing(1, steps[0].clone());
    let executed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&executed);
    let handler = Answers(move |body| {
        count.fetch_add(1, Ordering::SeqCst);
        async { body }
    });
    let server = Server::start(there, handler).await;
    let pool = Arc::new(Pool::new(Arc::new(here)));
    pool.set_address(2, &server.address);
    let (stop, stopped) = watch::channel(false);
    let answered = watch::Sender::new(0_usize);
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let (pool, stopped, answered) = (Arc::clone(&pool), stopped.clone(), answered.clone());
        clients.spawn(async move {
            let mut again = 0;
            while !*stopped.borrow() {
                match pool.request(2, body(7)).await {
                    Ok(_) => answered.send_modify(|count| *count += 1),
                    // A request that was not sent is retried, as a shard does.
                    Err(RequestError::NotSent(_)) => {
                        again += 1;
                        sleep(Duration::from_millis(1)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            again
        });
    }
    let mut seen = answered.subscribe();
    let mut progress = async || {
        let until = *seen.borrow() + 20;
        seen.wait_for(|count| *count >= until).await.unwrap();
    };
    for (number, step) in steps.iter().enumerate().skip(1) {
        let mut order = [&change_here, &change_there];
        if number % 2 == 0 {
            order.reverse();
        }
        for change in order {
            change.send_replace(Arc::new(step.clone()));
            progress().await;
        }
    }
    stop.send_replace(true);
    let again: usize = clients.join_all().await.into_iter().sum();
    let answered = *answered.borrow();
    println!(
        "{} changes: {answered} answered, {again} not sent and sent again, 0 failed",
        steps.len() - 1
    );
    assert_eq!(executed.load(Ordering::SeqCst), answered);
}
