//! What the system holds for clients that do not take their answers.

use super::*;

/// The length of an answer that the system takes whole, and of which a client's small window takes
/// a little.
const HELD: usize = 24 * 1024;

/// A client whose system takes little before the client reads.
async fn small(server: &Running) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(server.address).await.unwrap()
}

/// Asks for an answer of a little more than [`HELD`], and waits until the system holds most of it.
async fn asking(server: &Running, more: &str) -> TcpStream {
    let mut stream = small(server).await;
    let path = "x".repeat(HELD);
    let request = format!("GET /{path} HTTP/1.1\r\nhost: x\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    until("the answer is sent", || held(server, &stream) > HELD / 2).await;
    stream
}

/// How many bytes the system holds for a client, whether or not the server still has the socket.
fn held(server: &Running, client: &TcpStream) -> usize {
    room::queues(server, client)[0]
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = tokio::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}: not in time");
        tokio::time::sleep(SHORT / 10).await;
    }
}

/// Regression: the system went on holding the answer for minutes, and clients that made the host
/// close many connections could collect any amount of memory.
#[tokio::test]
async fn what_a_client_does_not_take_is_discarded_with_its_connection() {
    const CLIENTS: usize = 8;
    let impatient = Limits {
        answer_patience: SHORT,
        max_connections: CLIENTS,
        ..patient()
    };
    let idle = Limits {
        idle_timeout: 4 * SHORT,
        ..patient()
    };
    for (how, limits) in [
        ("evicted", impatient),
        ("idle", idle),
        ("cut at shutdown", patient()),
    ] {
        let mut server = Running::new(limits);
        let (mut clients, mut waiting) = (Vec::new(), Vec::new());
        for _ in 0..CLIENTS {
            clients.push(asking(&server, "").await);
        }
        match how {
            "evicted" => {
                tokio::time::sleep(limits.answer_patience).await;
                for _ in 0..CLIENTS {
                    waiting.push(server.wait().await);
                }
            }
            "idle" => {}
            _ => {
                server.shutdown.send(true).unwrap();
                let down = timeout(Duration::from_mins(1), &mut server.task).await;
                down.expect("it ends").unwrap().unwrap();
            }
        }
        for stream in &clients {
            until(how, || held(&server, stream) == 0).await;
        }
        let mut reset = 0;
        for stream in &mut clients {
            let mut rest = Vec::new();
            let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
            let error = read.expect("it ends").expect_err("it does not end well");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{how}");
            assert!(rest.len() < HELD, "{how}: the client had everything");
            reset += 1;
        }
        println!("{how}: {reset} connections reset, nothing held for them");
    }
}

#[tokio::test]
async fn an_answer_that_the_system_holds_keeps_its_place_until_it_is_taken() {
    let server = Running::new(Limits {
        max_connections: 1,
        ..patient()
    });
    let mut slow = asking(&server, "").await;
    // Longer than an idle connection keeps its place.
    let began = tokio::time::Instant::now();
    let mut refused = 0;
    while began.elapsed() < Duration::from_millis(1500) {
        let answer = client::request(server.address, Method::GET, "/well", PATIENCE).await;
        assert!(answer.is_ok_and(|(status, _)| status == StatusCode::SERVICE_UNAVAILABLE));
        refused += 1;
    }
    let mut answer = [0; 1024];
    let mut taken = 0;
    while taken < HELD {
        taken += timeout(PATIENCE, slow.read(&mut answer))
            .await
            .unwrap()
            .expect("it goes on");
        tokio::time::sleep(SHORT / 20).await;
    }
    until("all is taken", || held(&server, &slow) == 0).await;
    server.is_well().await;
    println!("{refused} new clients refused, 1 answer of {HELD} bytes taken slowly");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_has_said_all_may_take_its_answer_slowly() {
    let mut server = Running::new(patient());
    for is_down in [false, true] {
        let mut stream = asking(&server, "connection: close\r\n").await;
        stream.shutdown().await.unwrap();
        if is_down {
            server.shutdown.send(true).unwrap();
        }
        tokio::time::sleep(10 * SHORT).await;
        let answer = read_to_end(&mut stream).await;
        assert!(
            answer.ends_with(" 0") && answer.len() > HELD,
            "{}",
            answer.len()
        );
    }
    let down = timeout(PATIENCE, &mut server.task).await;
    down.expect("it ends").unwrap().unwrap();
}
