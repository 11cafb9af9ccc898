use std::time::Duration;

use super::*;

#[tokio::test]
async fn right_tokens_are_accepted_and_identities_told() {
    for tokens in [&[][..], &["a"], &["a", "b"]] {
        let (here, there) = (with_tokens(1, tokens), with_tokens(2, tokens));
        let identity = there.identity;
        let (connection, served) = shake(&here, there, Some(2)).await;
        let connection = connection.unwrap();
        assert_eq!(connection.peer(), identity);
        assert_eq!(connection.version(), 2);
        served.unwrap();
    }
}

#[tokio::test]
async fn wrong_tokens_are_refused_on_both_sides() {
    let (here, there) = shake(&with_tokens(1, &["a"]), with_tokens(2, &["b"]), None).await;
    assert!(matches!(here, Err(HandshakeError::Refused(reason)) if reason.contains("token")));
    assert!(matches!(
        there,
        Err(ServeError::Handshake(HandshakeError::WrongToken))
    ));
}

#[tokio::test]
async fn the_accepting_side_must_prove_its_token_too() {
    // Side 2 accepts "b" from us, but proves its first token, "a", which we do not know.
    let (here, there) = shake(&with_tokens(1, &["b"]), with_tokens(2, &["a", "b"]), None).await;
    assert!(matches!(here, Err(HandshakeError::WrongToken)));
    assert!(matches!(
        there,
        Err(ServeError::Handshake(HandshakeError::Refused(_)))
    ));
}

#[tokio::test]
async fn a_token_on_one_side_is_refused() {
    let (here, there) = shake(&with_tokens(1, &["a"]), endpoint(2), None).await;
    assert!(matches!(here, Err(HandshakeError::TokenMissingThere)));
    let there = there.unwrap_err().to_string();
    assert!(there.contains("the other side has a token but we have none"));

    let (here, there) = shake(&endpoint(1), with_tokens(2, &["a"]), None).await;
    assert!(matches!(here, Err(HandshakeError::TokenMissingHere)));
    let there = there.unwrap_err().to_string();
    assert!(there.contains("the other side has no token but we have one"));
}

#[tokio::test]
async fn tokens_rotate_in_three_steps() {
    let steps: [&[&str]; 4] = [&["old"], &["old", "new"], &["new", "old"], &["new"]];
    for pair in steps.windows(2) {
        for (here, there) in [(pair[0], pair[1]), (pair[1], pair[0]), (pair[1], pair[1])] {
            let (connection, served) =
                shake(&with_tokens(1, here), with_tokens(2, there), None).await;
            assert!(connection.is_ok(), "{here:?} to {there:?}");
            served.unwrap();
        }
    }
}

#[tokio::test]
async fn a_version_mismatch_names_both_ranges_on_both_sides() {
    let mut newer = endpoint(2);
    newer.settings.versions = Versions {
        lowest: 3,
        highest: 4,
    };
    let (here, there) = shake(&endpoint(1), newer.clone(), None).await;
    let here = here.unwrap_err().to_string();
    let there = there.unwrap_err().to_string();
    assert!(
        here.contains("we speak 2 to 2, the other side 3 to 4"),
        "{here}"
    );
    assert!(
        there.contains("we speak 3 to 4, the other side 2 to 2"),
        "{there}"
    );

    let mut wider = newer.clone();
    wider.settings.versions.highest = 9;
    let (connection, _) = shake(&newer, wider, None).await;
    assert_eq!(connection.unwrap().version(), 4);
}

#[tokio::test]
async fn another_peer_than_the_wanted_is_refused() {
    let (here, there) = shake(&endpoint(1), endpoint(2), Some(3)).await;
    assert!(matches!(
        here,
        Err(HandshakeError::WrongOrdinal {
            wanted: 3,
            found: 2
        })
    ));
    let there = there.unwrap_err().to_string();
    assert!(there.contains("you are peer 2, we wanted 3"), "{there}");
}

struct Picky;

impl Handler for Picky {
    fn admit(&self, peer: &Identity) -> Result<(), String> {
        Err(format!(
            "{peer} is of\nanother cluster {}",
            "x".repeat(2000)
        ))
    }

    async fn call(&self, _peer: Identity, body: Bytes) -> Bytes {
        body
    }
}

#[tokio::test]
async fn a_peer_that_is_not_admitted_is_told_why() {
    let mut server = Server::start(with_tokens(2, &["a"]), Picky).await;
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let refused = Connection::open(stream, &with_tokens(1, &["a"]), None).await;
    let reason = refused.unwrap_err().to_string();
    assert!(reason.contains("of another cluster xxx"), "{reason}");
    assert!(matches!(
        server.ends.recv().await.unwrap(),
        Err(ServeError::Handshake(HandshakeError::NotAdmitted(_)))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_slow_hello_is_given_up_after_five_seconds() {
    let start = tokio::time::Instant::now();
    let (_silent, stream) = tokio::io::duplex(4096);
    let (_stop, signal) = watch::channel(false);
    let served = serve(stream, &endpoint(2), Arc::new(Echo), signal).await;
    assert!(matches!(
        served,
        Err(ServeError::Handshake(HandshakeError::TimedOut(_)))
    ));
    assert_eq!(start.elapsed(), Duration::from_secs(5));

    let (_silent, stream) = tokio::io::duplex(4096);
    let opened = Connection::open(stream, &endpoint(1), None).await;
    assert!(matches!(opened, Err(HandshakeError::TimedOut(_))));
    assert_eq!(start.elapsed(), Duration::from_secs(10));
}
