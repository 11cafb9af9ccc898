use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::{Notify, Semaphore};

use super::super::frame::Frame;
use super::*;

#[tokio::test]
async fn a_thousand_requests_are_answered_in_reverse_exactly_once() {
    const COUNT: usize = 1000;
    let executed: Arc<Vec<AtomicUsize>> = Arc::new((0..COUNT).map(|_| 0.into()).collect());
    let gates: Arc<Vec<Notify>> = Arc::new((0..COUNT).map(|_| Notify::new()).collect());
    let arrived = AtomicUsize::new(0);
    let counts = Arc::clone(&executed);
    let handler = Answers(move |body: Bytes| {
        let n = usize::try_from(number(&body)).unwrap();
        counts[n].fetch_add(1, Ordering::SeqCst);
        if arrived.fetch_add(1, Ordering::SeqCst) + 1 == COUNT {
            gates[COUNT - 1].notify_one();
        }
        let gates = Arc::clone(&gates);
        async move {
            gates[n].notified().await;
            if n > 0 {
                gates[n - 1].notify_one();
            }
            body
        }
    });
    let server = Server::start(endpoint(2), handler).await;
    let connection = connect(&server, &endpoint(1)).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut requests = JoinSet::new();
    for n in 0..COUNT as u64 {
        let connection = connection.clone();
        let order = Arc::clone(&order);
        requests.spawn(async move {
            let answer = connection.request(body(n)).await.unwrap();
            assert_eq!(number(&answer), n);
            order.lock().unwrap().push(n);
        });
    }
    requests.join_all().await;
    let order = order.lock().unwrap().clone();
    let reversed: Vec<u64> = (0..COUNT as u64).rev().collect();
    assert_eq!(order, reversed);
    assert!(executed.iter().all(|n| n.load(Ordering::SeqCst) == 1));
    println!("asked {COUNT}, executed once each, answered once each in reverse order");
}

/// A stream that counts the writes that reach it.
struct Counted(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, bytes)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[tokio::test]
async fn waiting_requests_share_a_write() {
    let server = piped(1 << 20, endpoint(2), Echo);
    let writes = Arc::new(AtomicUsize::new(0));
    let stream = Counted(server.stream, Arc::clone(&writes));
    let connection = Connection::open(stream, &endpoint(1), None).await.unwrap();
    let before = writes.load(Ordering::SeqCst);
    let mut requests = JoinSet::new();
    for n in 0..500 {
        let connection = connection.clone();
        requests.spawn(async move { connection.request(body(n)).await.unwrap() });
    }
    requests.join_all().await;
    let writes = writes.load(Ordering::SeqCst) - before;
    println!("500 requests in {writes} writes");
    assert!(writes <= 5, "{writes}");
}

#[tokio::test]
async fn giving_up_a_request_disturbs_no_other() {
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
    let server = Server::start(endpoint(2), handler).await;
    let connection = connect(&server, &endpoint(1)).await;
    let mut requests: Vec<_> = (0..10)
        .map(|n| {
            let connection = connection.clone();
            tokio::spawn(async move { connection.request(body(n)).await })
        })
        .collect();
    for _ in 0..10 {
        started.recv().await.unwrap();
    }
    requests.remove(3).abort();
    gate.add_permits(10);
    for request in requests {
        request.await.unwrap().unwrap();
    }
    gate.add_permits(1);
    assert_eq!(connection.request(body(77)).await.unwrap(), body(77));
}

#[tokio::test]
async fn a_failed_handler_gives_unknown_and_keeps_the_connection() {
    let handler = Answers(|body: Bytes| async move {
        assert_ne!(number(&body), 13, "this handler panics on purpose");
        if number(&body) == 14 {
            return Bytes::from(vec![0; 2000]);
        }
        body
    });
    let mut small = endpoint(2);
    small.settings.max_frame = 1000;
    let server = Server::start(small, handler).await;
    let connection = connect(&server, &endpoint(1)).await;
    for n in [13, 14] {
        let failed = connection.request(body(n)).await;
        assert_eq!(failed, Err(RequestError::Unknown(Cause::Failed)));
    }
    assert_eq!(connection.request(body(15)).await.unwrap(), body(15));
}

#[tokio::test]
async fn too_large_a_body_is_not_sent_and_too_large_a_frame_ends_the_connection() {
    let mut small = endpoint(2);
    small.settings.max_frame = 1000;
    let mut server = Server::start(small.clone(), Echo).await;
    let most = 1000 - 9;

    let connection = connect(&server, &small).await;
    let fits = connection.request(Bytes::from(vec![1; most])).await;
    assert_eq!(fits.unwrap().len(), most);
    let refused = connection.request(Bytes::from(vec![1; most + 1])).await;
    assert!(matches!(
        refused,
        Err(RequestError::NotSent(Cause::TooLarge {
            length: 992,
            most: 991
        }))
    ));
    assert!(connection.is_open());

    let careless = connect(&server, &endpoint(1)).await;
    let ended = careless.request(Bytes::from(vec![1; most + 1])).await;
    let Err(RequestError::Unknown(Cause::Told(reason))) = ended else {
        panic!("{ended:?}");
    };
    assert!(reason.contains("a frame of 1001 bytes is above the 1000 allowed"));
    assert!(matches!(
        server.ends.recv().await.unwrap(),
        Err(ServeError::Connection(Cause::FrameTooLarge {
            length: 1001,
            most: 1000
        }))
    ));
    assert_eq!(connection.request(body(1)).await.unwrap(), body(1));
}

#[tokio::test]
async fn a_length_alone_ends_the_connection_before_anything_is_buffered() {
    let mut server = Server::start(endpoint(2), Echo).await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let greeted = greet(&mut stream, &endpoint(1)).await;
    assert!(greeted.is_ok());
    stream.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let end = server.ends.recv().await.unwrap();
    assert!(matches!(
        end,
        Err(ServeError::Connection(Cause::FrameTooLarge {
            length: u32::MAX,
            ..
        }))
    ));
}

#[test]
fn frames_come_back_as_they_were() {
    let body = Bytes::from_static(b"body");
    let frames = [
        Frame::Request {
            id: 1,
            body: body.clone(),
        },
        Frame::Answer {
            id: u64::MAX,
            body: body.clone(),
        },
        Frame::NotTaken { id: 3 },
        Frame::Failed { id: 4 },
        Frame::Ping(5),
        Frame::Pong(6),
        Frame::GoAway,
        Frame::GoAwayAck,
        Frame::Closing(body),
    ];
    for frame in frames {
        let (head, body) = frame.clone().encode();
        let bytes = Bytes::from([&head[4..], &body[..]].concat());
        assert_eq!(
            u32::from_be_bytes(head[..4].try_into().unwrap()) as usize,
            bytes.len()
        );
        assert_eq!(Frame::decode(bytes.clone()), Ok(Some(frame)));
        for length in 0..9 {
            assert!(Frame::decode(bytes.slice(..length)).is_err());
        }
    }
    assert_eq!(Frame::decode(Bytes::from_static(&[99; 9])), Ok(None));
    assert!(Frame::decode(Bytes::from_static(&[5; 10])).is_err());
}
