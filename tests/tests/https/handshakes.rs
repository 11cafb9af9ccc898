//! Handshakes that begin and are not completed.

use super::*;

/// Opens connections that begin a handshake and do not complete it.
fn half_handshakes(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let begun = (0..count).map(|_| {
        let mut stream = TcpStream::connect(address).expect("the host accepts connections");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("the timeout can be set");
        // The header of a record of 512 bytes, and four bytes of it.
        stream
            .write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 252])
            .expect("the bytes can be sent");
        stream
    });
    begun.collect()
}

/// Checks that the host closes the connection without a message.
#[track_caller]
fn assert_cut(stream: &mut TcpStream) {
    match stream.read(&mut [0; 64]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        open => panic!("the connection is still open: {open:?}"),
    }
}

#[test]
fn handshakes_that_do_not_go_on_hold_nobody_up_and_are_cut_off() {
    const MANY: usize = 500;
    let authority = Authority::new("a");
    let settings = "[http]\nheader_timeout = '1s'";
    let shard = shard(&secret_with(&issue(&authority), &[]), settings);
    let host = shard.start();
    let config = tls::client(&authority, None, HTTP1);
    let mut silent = half_handshakes(host.address, MANY);
    for number in 0..50 {
        let mut client = Client::new(host.address).over_tls(Arc::clone(&config));
        let answer = client.get(&format!("/save/key{number}/word"));
        assert_eq!(answer.expect("an answer").status, 200);
    }
    for stream in &mut silent {
        assert_cut(stream);
    }
    host.wait_until("all of them to be cut off", |host| {
        host.metric("ostrakon_tls_handshake_failures_total") == MANY as u64
    });
    // A connection that begins as TLS but is invalid is refused with a TLS alert.
    let mut stream = TcpStream::connect(host.address).expect("the host accepts connections");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("the timeout can be set");
    stream
        .write_all(&[0x16, 3, 1, 0, 4, 99, 0, 0, 0])
        .expect("the bytes can be sent");
    let mut alert = [0; 2];
    stream.read_exact(&mut alert).expect("an alert");
    assert_eq!(alert[0], 0x15);
    println!("{MANY} half handshakes, 50 whole ones with requests meanwhile, 0 failed");
    host.stop();
}

/// Incomplete handshakes take at most half of all places, and older ones are closed for newer ones.
#[test]
fn half_handshakes_leave_places_to_others() {
    let authority = Authority::new("a");
    let settings = "[http]\nmax_connections = 20\nheader_timeout = '10m'";
    let shard = shard(&secret_with(&issue(&authority), &[]), settings);
    let host = shard.start();
    let silent = half_handshakes(host.address, 10);
    host.wait_until("all of them", |host| {
        host.metric(r#"ostrakon_connections{listener="public"}"#) == 10
    });
    let more = half_handshakes(host.address, 5);
    let is_cut = |stream: &TcpStream| {
        stream.set_nonblocking(true).expect("it is set");
        match (&*stream).read(&mut [0; 64]) {
            Ok(0) => true,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
            Ok(_) => panic!("the host sent something"),
        }
    };
    // Five of the first ones, in any order, because they all came at once.
    host.wait_until("those that made room", |_| {
        silent.iter().filter(|stream| is_cut(stream)).count() == 5
    });
    assert!(!more.iter().any(is_cut), "a new connection was closed");
    let config = tls::client(&authority, None, HTTP1);
    let mut client = Client::new(host.address).over_tls(config);
    assert_eq!(client.get("/save/key/word").expect("an answer").status, 200);
    drop((silent, more));
    host.stop();
}
