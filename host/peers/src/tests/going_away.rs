use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use super::super::frame::Frame;
use super::*;

type Executed = Arc<Mutex<HashMap<u64, u32>>>;

fn counting(executed: &Executed, reached: &watch::Sender<usize>) -> impl Handler {
    let (executed, reached) = (Arc::clone(executed), reached.clone());
    Answers(move |body: Bytes| {
        let (executed, reached) = (Arc::clone(&executed), reached.clone());
        async move {
            for _ in 0..number(&body) % 7 {
                tokio::task::yield_now().await;
            }
            *executed.lock().unwrap().entry(number(&body)).or_default() += 1;
            reached.send_modify(|count| *count += 1);
            body
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_or_doubled_while_servers_come_and_go_under_load() {
    const POOLS: u64 = 8;
    const TASKS: u64 = 16;
    const EACH: u64 = 150;
    let total = usize::try_from(POOLS * TASKS * EACH).unwrap();
    let executed = Executed::default();
    let reached = watch::Sender::new(0);
    let mut server = Server::start(endpoint(2), counting(&executed, &reached)).await;
    let pools: Vec<_> = (0..POOLS)
        .map(|_| {
            // Fewer than the tasks, so that some requests still wait when the server goes away.
            let mut client = endpoint(1);
            client.settings.max_in_flight = 6;
            Arc::new(Pool::new(Arc::new(client)))
        })
        .collect();
    for pool in &pools {
        pool.set_address(2, &server.address);
    }
    let not_sent = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for (p, pool) in (0..).zip(&pools) {
        for t in 0..TASKS {
            let pool = Arc::clone(pool);
            let not_sent = Arc::clone(&not_sent);
            clients.spawn(async move {
                let mut answered = 0;
                for r in 0..EACH {
                    let n = (p * TASKS + t) * EACH + r;
                    loop {
                        match pool.request(2, body(n)).await {
                            Ok(answer) => {
                                assert_eq!(answer, body(n));
                                answered += 1;
                                break;
                            }
                            Err(RequestError::NotSent(_)) => {
                                not_sent.fetch_add(1, Ordering::SeqCst);
                                tokio::task::yield_now().await;
                            }
                            Err(error) => panic!("{n}: {error}"),
                        }
                    }
                }
                answered
            });
        }
    }
    let mut seen = reached.subscribe();
    let mut left = 0;
    for round in 1..=10 {
        seen.wait_for(|count| *count >= round * total / 12)
            .await
            .unwrap();
        server.shutdown.send_replace(true);
        let next = Server::start(endpoint(2), counting(&executed, &reached)).await;
        for pool in &pools {
            pool.set_address(2, &next.address);
        }
        let mut old = std::mem::replace(&mut server, next);
        old.task.await.unwrap();
        while let Some(end) = old.ends.recv().await {
            end.unwrap();
            left += 1;
        }
    }
    let answered: usize = clients.join_all().await.into_iter().sum();
    let executed = executed.lock().unwrap();
    let runs: u32 = executed.values().sum();
    println!(
        "asked {total}, executed {runs}, answered {answered}, not sent and asked again {}, \
         connections left in order {left}",
        not_sent.load(Ordering::SeqCst)
    );
    assert_eq!(executed.len(), total);
    assert!(executed.values().all(|count| *count == 1));
    assert_eq!(answered, total);
    assert!(
        not_sent.load(Ordering::SeqCst) > 0,
        "no request met a server that was going away"
    );
    assert!(left >= 10);
}

#[tokio::test]
async fn a_busy_server_that_goes_away_turns_away_what_it_has_no_room_for() {
    let gate = Arc::new(Semaphore::new(0));
    let (sender, mut started) = mpsc::unbounded_channel();
    let shared = Arc::clone(&gate);
    let handler = Answers(move |body: Bytes| {
        sender.send(number(&body)).unwrap();
        let gate = Arc::clone(&shared);
        async move {
            gate.acquire().await.unwrap().forget();
            body
        }
    });
    let mut busy = endpoint(2);
    busy.settings.max_running = 2;
    let mut server = Server::start(busy, handler).await;
    let connection = connect(&server, &endpoint(1)).await;
    let mut requests = JoinSet::new();
    for n in 0..20 {
        let connection = connection.clone();
        requests.spawn(async move { connection.request(body(n)).await });
    }
    started.recv().await.unwrap();
    started.recv().await.unwrap();
    server.shutdown.send_replace(true);
    for _ in 0..18 {
        let turned_away = requests.join_next().await.unwrap().unwrap();
        let not_taken = Err(RequestError::NotSent(Cause::NotTaken));
        assert_eq!(turned_away, not_taken);
    }
    gate.add_permits(2);
    let answered = requests.join_all().await;
    assert_eq!(answered.len(), 2);
    assert!(answered.iter().all(Result::is_ok));
    server.ends.recv().await.unwrap().unwrap();
    assert!(
        started.recv().await.is_none(),
        "no other request may be executed"
    );
    let late = connection.request(body(99)).await;
    assert_eq!(late, Err(RequestError::NotSent(Cause::GoingAway)));
}

/// Runs a connecting side that sends one request after the server said that it is going away. It
/// confirms only then, if at all.
async fn leave(confirm: bool) -> (Result<(), ServeError>, Vec<Frame>, Duration) {
    let mut patient = endpoint(2);
    patient.settings.ping_idle = Duration::from_mins(10);
    let Piped {
        stream: mut here,
        stop,
        serving,
    } = piped(4096, patient, Echo);
    let mut greeted = greet(&mut here, &endpoint(1)).await.unwrap();
    let start = tokio::time::Instant::now();
    stop.send_replace(true);
    let goaway = greeted.buffer.next(&mut here).await.unwrap();
    assert_eq!(Frame::decode(goaway), Ok(Some(Frame::GoAway)));
    let mut frames = vec![Frame::Request {
        id: 1,
        body: body(1),
    }];
    if confirm {
        frames.push(Frame::GoAwayAck);
    }
    for frame in frames {
        let (head, body) = frame.encode();
        here.write_all(&head).await.unwrap();
        here.write_all(&body).await.unwrap();
    }
    let mut heard = Vec::new();
    while let Ok(bytes) = greeted.buffer.next(&mut here).await {
        heard.push(Frame::decode(bytes).unwrap().unwrap());
    }
    drop(here);
    (serving.await.unwrap(), heard, start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn what_crosses_the_going_away_is_answered() {
    let (end, heard, took) = leave(true).await;
    end.unwrap();
    assert_eq!(
        heard,
        [Frame::Answer {
            id: 1,
            body: body(1)
        }]
    );
    assert_eq!(took, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_confirms_is_left_after_the_bound() {
    let (end, heard, took) = leave(false).await;
    assert!(matches!(end, Err(ServeError::Connection(Cause::NoAck(_)))));
    assert_eq!(
        heard[0],
        Frame::Answer {
            id: 1,
            body: body(1)
        }
    );
    assert!(matches!(heard[1..], [Frame::Closing(_)]), "{heard:?}");
    assert_eq!(took, Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_its_last_answer() {
    let Piped {
        stream: mut here,
        stop,
        serving,
    } = piped(4096, endpoint(2), Echo);
    let greeted = greet(&mut here, &endpoint(1)).await;
    let mut buffer = greeted.unwrap().buffer;
    let large = Bytes::from(vec![0; 100_000]);
    stop.send_replace(true);
    buffer.next(&mut here).await.unwrap();
    let request = Frame::Request {
        id: 1,
        body: large.clone(),
    };
    for frame in [request, Frame::GoAwayAck] {
        let (head, body) = frame.encode();
        here.write_all(&head).await.unwrap();
        here.write_all(&body).await.unwrap();
    }
    // Longer than the other side may take to close.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let answer = Frame::decode(buffer.next(&mut here).await.unwrap());
    assert_eq!(answer, Ok(Some(Frame::Answer { id: 1, body: large })));
    assert!(buffer.next(&mut here).await.is_err());
    drop(here);
    serving.await.unwrap().unwrap();
}
