use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::super::frame_buffer::FrameBuffer;
use super::super::handshake::Message;
use super::super::proof::{Role, Transcript};
use super::*;

type Tape = Arc<Mutex<Vec<u8>>>;

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, tape: Tape) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        tape.lock().unwrap().extend_from_slice(&bytes[..count]);
        to.write_all(&bytes[..count]).await.unwrap();
    }
    let _ = to.shutdown().await;
}

async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap();
    stream.write_all(&length.to_be_bytes()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
}

/// A listener that accepts one stream and hands it over.
async fn one() -> (String, JoinHandle<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let accepted = tokio::spawn(async move { listener.accept().await.unwrap().0 });
    (address, accepted)
}

#[tokio::test]
async fn a_recorded_handshake_cannot_be_replayed_to_either_side() {
    let executed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&executed);
    let handler = Answers(move |body| {
        count.fetch_add(1, Ordering::SeqCst);
        async { body }
    });
    let mut server = Server::start(with_tokens(2, &["a"]), handler).await;
    let (asked, answered) = (Tape::default(), Tape::default());
    let (address, accepted) = one().await;
    let client = TcpStream::connect(&address).await.unwrap();
    let (client_from, client_to) = accepted.await.unwrap().into_split();
    let upstream = TcpStream::connect(&server.address).await.unwrap();
    let (server_from, server_to) = upstream.into_split();
    let up = tokio::spawn(copy(client_from, server_to, Arc::clone(&asked)));
    let down = tokio::spawn(copy(server_from, client_to, Arc::clone(&answered)));

    let here = with_tokens(1, &["a"]);
    let connection = Connection::open(client, &here, None).await.unwrap();
    connection.request(body(1)).await.unwrap();
    drop(connection);
    up.await.unwrap();
    down.await.unwrap();
    server.ends.recv().await.unwrap().unwrap();
    assert_eq!(executed.load(Ordering::SeqCst), 1);

    let tape = asked.lock().unwrap().clone();
    let mut replay = TcpStream::connect(&server.address).await.unwrap();
    replay.write_all(&tape).await.unwrap();
    replay.shutdown().await.unwrap();
    assert!(matches!(
        server.ends.recv().await.unwrap(),
        Err(ServeError::Handshake(HandshakeError::WrongToken))
    ));
    assert_eq!(executed.load(Ordering::SeqCst), 1);

    let tape = answered.lock().unwrap().clone();
    let (address, accepted) = one().await;
    let client = TcpStream::connect(&address).await.unwrap();
    let mut replay = accepted.await.unwrap();
    replay.write_all(&tape).await.unwrap();
    let opened = Connection::open(client, &here, None).await;
    assert!(
        matches!(opened, Err(HandshakeError::WrongToken)),
        "{opened:?}"
    );
}

#[tokio::test]
async fn an_echo_is_refused() {
    let (address, accepted) = one().await;
    let client = TcpStream::connect(&address).await.unwrap();
    let (from, to) = accepted.await.unwrap().into_split();
    tokio::spawn(copy(from, to, Tape::default()));
    let opened = Connection::open(client, &with_tokens(1, &["a"]), None).await;
    assert!(
        matches!(opened, Err(HandshakeError::Reflected)),
        "{opened:?}"
    );
}

#[tokio::test]
async fn a_proof_sent_back_is_refused() {
    let (address, accepted) = one().await;
    let client = TcpStream::connect(&address).await.unwrap();
    let mut stream = accepted.await.unwrap();
    let attack = tokio::spawn(async move {
        let mut buffer = FrameBuffer::new(1024);
        buffer.next(&mut stream).await.unwrap();
        let hello = hello(&with_tokens(2, &["guess"]));
        send(&mut stream, &hello.encode()).await;
        let proof = buffer.next(&mut stream).await.unwrap();
        let Message::Proof(proof) = postcard::from_bytes(&proof).unwrap() else {
            panic!("no proof");
        };
        assert!(proof.is_some());
        let welcome = postcard::to_stdvec(&Message::Welcome(proof)).unwrap();
        send(&mut stream, &welcome).await;
        let refusal = buffer.next(&mut stream).await.unwrap();
        assert!(matches!(
            postcard::from_bytes(&refusal).unwrap(),
            Message::Refused(_)
        ));
    });
    let opened = Connection::open(client, &with_tokens(1, &["a"]), None).await;
    assert!(
        matches!(opened, Err(HandshakeError::WrongToken)),
        "{opened:?}"
    );
    attack.await.unwrap();
}

#[test]
fn a_proof_holds_for_its_role_hellos_and_token_only() {
    let tokens = Tokens::new(vec![token("a"), token("b")]);
    let transcript = Transcript {
        binding: None,
        connecting: b"onetwo",
        accepting: b"three",
    };
    for right in ["a", "b"] {
        let proof = transcript.prove(&token(right), Role::Connecting);
        assert!(
            transcript
                .verify(&tokens, Role::Connecting, &proof)
                .is_some()
        );
        assert!(
            transcript
                .verify(&tokens, Role::Accepting, &proof)
                .is_none()
        );
        let moved = Transcript {
            binding: None,
            connecting: b"one",
            accepting: b"twothree",
        };
        assert!(moved.verify(&tokens, Role::Connecting, &proof).is_none());
        let swapped = Transcript {
            binding: None,
            connecting: b"three",
            accepting: b"onetwo",
        };
        assert!(swapped.verify(&tokens, Role::Accepting, &proof).is_none());
    }
    let proof = transcript.prove(&token("c"), Role::Connecting);
    assert!(
        transcript
            .verify(&tokens, Role::Connecting, &proof)
            .is_none()
    );
    assert!(
        transcript
            .verify(&Tokens::none(), Role::Connecting, &proof)
            .is_none()
    );
}

#[tokio::test]
async fn a_guest_cannot_skip_the_proof() {
    let mut server = Server::start(with_tokens(2, &["a"]), Echo).await;
    for message in [
        Message::Proof(None),
        Message::Proof(Some([0; 32])),
        Message::Ready,
    ] {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        let hello = hello(&with_tokens(1, &["guess"]));
        send(&mut stream, &hello.encode()).await;
        send(&mut stream, &postcard::to_stdvec(&message).unwrap()).await;
        stream.shutdown().await.unwrap();
        let end = server.ends.recv().await.unwrap();
        assert!(matches!(end, Err(ServeError::Handshake(_))), "{end:?}");
    }
}

#[tokio::test]
async fn garbage_and_silence_do_no_harm_to_others() {
    let mut server = Server::start(with_tokens(2, &["a"]), Echo).await;
    let connection = connect(&server, &with_tokens(1, &["a"])).await;
    let _silent = TcpStream::connect(&server.address).await.unwrap();
    let garbage: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x00\x00\x05hello",
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x08shardpr\n",
        b"\x00\x00\x00\x10shar",
    ];
    for bytes in garbage {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let end = server.ends.recv().await.unwrap();
        assert!(matches!(end, Err(ServeError::Handshake(_))), "{end:?}");
        assert_eq!(connection.request(body(5)).await.unwrap(), body(5));
    }
    assert!(connection.is_open());
}
