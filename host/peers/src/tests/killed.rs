use std::collections::HashSet;
use std::sync::Mutex;

use super::*;

#[tokio::test]
async fn a_connection_killed_mid_request_gives_unknown_for_what_was_sent_only() {
    let (sender, mut started) = mpsc::unbounded_channel();
    let handler = Answers(move |body: Bytes| {
        sender.send(number(&body)).unwrap();
        std::future::pending()
    });
    let server = Server::start(endpoint(2), handler).await;
    let mut client = endpoint(1);
    client.settings.max_in_flight = 10;
    let connection = connect(&server, &client).await;
    let mut requests = JoinSet::new();
    for n in 0..50 {
        let connection = connection.clone();
        requests.spawn(async move { (n, connection.request(body(n)).await) });
    }
    let mut executed = HashSet::new();
    for _ in 0..10 {
        executed.insert(started.recv().await.unwrap());
    }
    server.killer().abort();
    let (mut unknown, mut not_sent) = (HashSet::new(), HashSet::new());
    while let Some(done) = requests.join_next().await {
        match done.unwrap() {
            (n, Err(RequestError::Unknown(_))) => unknown.insert(n),
            (n, Err(RequestError::NotSent(_))) => not_sent.insert(n),
            (_, Ok(_)) => panic!("a request was answered"),
        };
    }
    assert_eq!(unknown, executed);
    assert_eq!((unknown.len(), not_sent.len()), (10, 40));
    let late = connection.request(body(99)).await.unwrap_err();
    assert!(late.is_not_sent(), "{late}");
    assert!(
        started.recv().await.is_none(),
        "no other request may be executed"
    );
}

#[tokio::test]
async fn a_partly_written_request_is_unknown_and_those_behind_it_not_sent() {
    let (here, mut there) = tokio::io::duplex(256);
    let greeting = tokio::spawn(async move {
        welcome(&mut there, &endpoint(2)).await.unwrap();
        there
    });
    let connection = Connection::open(here, &endpoint(1), None).await.unwrap();
    let there = greeting.await.unwrap();
    let mut requests = Vec::new();
    for length in [100_000, 8, 8, 8] {
        let connection = connection.clone();
        requests.push(tokio::spawn(async move {
            connection.request(Bytes::from(vec![0; length])).await
        }));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
    drop(there);
    let mut errors = Vec::new();
    for request in requests {
        errors.push(request.await.unwrap().unwrap_err().is_not_sent());
    }
    assert_eq!(errors, [false, true, true, true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_moment_of_the_kill_not_sent_was_never_executed() {
    let (mut answered, mut unknown, mut not_sent, mut ran) = (0, 0, 0, 0);
    for round in 0..40 {
        let executed: Arc<Mutex<HashSet<u64>>> = Arc::default();
        let reached = watch::Sender::new(0);
        let (set, count) = (Arc::clone(&executed), reached.clone());
        let handler = Answers(move |body: Bytes| {
            assert!(
                set.lock().unwrap().insert(number(&body)),
                "a request was executed twice"
            );
            count.send_modify(|count| *count += 1);
            async {
                tokio::task::yield_now().await;
                body
            }
        });
        let server = Server::start(endpoint(2), handler).await;
        let mut client = endpoint(1);
        client.settings.max_in_flight = 64;
        let connection = connect(&server, &client).await;
        let mut requests = JoinSet::new();
        for n in 0..500 {
            let connection = connection.clone();
            requests.spawn(async move { (n, connection.request(body(n)).await) });
        }
        let mut seen = reached.subscribe();
        seen.wait_for(|count| *count > round * 10).await.unwrap();
        server.killer().abort();
        let done = requests.join_all().await;
        let _ = server.task.await;
        let executed = executed.lock().unwrap().clone();
        ran += executed.len();
        for (n, outcome) in done {
            match outcome {
                Ok(answer) => {
                    assert_eq!(answer, body(n));
                    assert!(executed.contains(&n));
                    answered += 1;
                }
                Err(RequestError::Unknown(_)) => unknown += 1,
                Err(RequestError::NotSent(_)) => {
                    assert!(!executed.contains(&n), "{n} was executed");
                    not_sent += 1;
                }
            }
        }
    }
    println!("executed {ran}: answered {answered}, unknown {unknown}, not sent {not_sent}");
    assert_eq!(answered + unknown + not_sent, 40 * 500);
    assert!(answered > 0 && unknown > 0 && not_sent > 0);
    assert!(ran >= answered && ran <= answered + unknown);
}
