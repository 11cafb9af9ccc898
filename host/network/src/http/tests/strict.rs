//! HTTP's rules for heads and bodies, case by case.

use super::*;

/// The expected answer to a request.
#[derive(Debug)]
enum Outcome {
    /// Answered by the handler, with this text.
    Run(&'static str),
    Refused(Refusal),
}
use Outcome::{Refused, Run};

const HTTP1: &[(&str, &str, Outcome)] = &[
    // The host (RFC 9112, 3.2).
    (
        "no host",
        "GET /a HTTP/1.1\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    ("no host in 1.0", "GET /a HTTP/1.0\r\n\r\n", Run("GET /a 0")),
    (
        "an empty host",
        "GET /a HTTP/1.1\r\nhost:\r\nconnection: close\r\n\r\n",
        Run("GET /a 0"),
    ),
    (
        "two hosts",
        "GET /a HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "a host twice",
        "GET /a HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "two hosts in 1.0",
        "GET /a HTTP/1.0\r\nhost: x\r\nhost: y\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "a list of hosts",
        "GET /a HTTP/1.1\r\nhost: x, y\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "a host with a user",
        "GET /a HTTP/1.1\r\nhost: u@x\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "a host with a path",
        "GET /a HTTP/1.1\r\nhost: x/y\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "a port that is none",
        "GET /a HTTP/1.1\r\nhost: x:y\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    // The target.
    (
        "an absolute target",
        "GET http://y/a?b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        Run("GET /a 0 host y"),
    ),
    (
        "an absolute target in 1.0",
        "GET http://y/a HTTP/1.0\r\n\r\n",
        Run("GET /a 0 host y"),
    ),
    (
        "an absolute target without a host",
        "GET http://y/a HTTP/1.1\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "a target with a user",
        "GET http://u@y/a HTTP/1.1\r\nhost: x\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "a tunnel",
        "CONNECT x:80 HTTP/1.1\r\nhost: x:80\r\n\r\n",
        Refused(refusals::NOT_IMPLEMENTED),
    ),
    (
        "a target with a space",
        "GET /a b HTTP/1.1\r\nhost: x\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "no target",
        "GET HTTP/1.1\r\nhost: x\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "no version",
        "GET /a\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "a later version",
        "GET /a HTTP/2.0\r\nhost: x\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "a method that is none",
        "G@T /a HTTP/1.1\r\nhost: x\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "a method of its own",
        "BREW /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        Run("BREW /a 0"),
    ),
    // Codings (RFC 9112, 6.1 and 7).
    (
        "compressed",
        "PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        Refused(refusals::NOT_IMPLEMENTED),
    ),
    (
        "compressed, in two lines",
        "PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        Refused(refusals::NOT_IMPLEMENTED),
    ),
    (
        "identity",
        "PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: identity, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        Refused(refusals::NOT_IMPLEMENTED),
    ),
    (
        "chunked twice",
        "PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "chunked twice, in two lines",
        "PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "an empty coding",
        "PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: , chunked\r\n\r\n0\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "not chunked at last",
        "PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "not chunked",
        "PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "chunked in 1.0",
        "PUT /a HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "in capitals",
        "PUT /a HTTP/1.1\r\nhost: x\r\nTRANSFER-ENCODING: Chunked\r\nconnection: close\r\n\r\n1\r\na\r\n0\r\n\r\n",
        Run("PUT /a 1"),
    ),
    (
        "chunks with extensions and trailers",
        "PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n1;a=b\r\na\r\n0;c\r\nd: e\r\n\r\n",
        Run("PUT /a 1"),
    ),
    (
        "a length that is no number",
        "PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "a chunk that is too long",
        "PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "chunked, and a length",
        "PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 9\r\n\r\n1\r\na\r\n0\r\n\r\nGET /b HTTP/1.1\r\nhost: x\r\n\r\n",
        Run("PUT /a 1"),
    ),
    // Lengths.
    (
        "a length of 2^64-1",
        "PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 18446744073709551615\r\n\r\n",
        Refused(refusals::BODY_SIZE),
    ),
    (
        "a length of 2^64-1, and some of it",
        "PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 18446744073709551615\r\n\r\nbody of some lines\r\nand words\r\n",
        Refused(refusals::BODY_SIZE),
    ),
    (
        "a length of 2^64-2",
        "PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 18446744073709551614\r\n\r\n",
        Refused(refusals::BODY_SIZE),
    ),
    (
        "a length of 2^64-3",
        "PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 18446744073709551613\r\n\r\n",
        Refused(refusals::BODY_SIZE),
    ),
    (
        "a length of 2^64",
        "PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 18446744073709551616\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "a length with a sign",
        "PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: +1\r\n\r\na",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "an empty length",
        "PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length:\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "two lengths",
        "PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "a list of lengths",
        "PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 1, 1\r\n\r\na",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "a length twice",
        "PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 1\r\nconnection: close\r\n\r\na",
        Run("PUT /a 1"),
    ),
    // Lines and names.
    (
        "a folded line",
        "GET /a HTTP/1.1\r\nhost: x\r\nb: c\r\n d\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "a space before the colon",
        "GET /a HTTP/1.1\r\nhost: x\r\nb : c\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "a space before the first name",
        "GET /a HTTP/1.1\r\n host: x\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "an empty name",
        "GET /a HTTP/1.1\r\nhost: x\r\n: c\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "a line end that is half",
        "GET /a HTTP/1.1\r\nhost: x\rb: c\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "a NUL",
        "GET /a HTTP/1.1\r\nhost: x\r\nb: \0\r\n\r\n",
        Refused(refusals::BAD_REQUEST),
    ),
    (
        "line ends of old",
        "GET /a HTTP/1.1\nhost: x\nconnection: close\n\n",
        Run("GET /a 0"),
    ),
    (
        "empty lines before",
        "\r\n\r\nGET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        Run("GET /a 0"),
    ),
];

#[tokio::test]
async fn requests_over_http_1_are_taken_as_the_standard_says() {
    let server = Running::new(patient());
    for (what, request, outcome) in HTTP1 {
        let answer = server.exchange(request.as_bytes()).await;
        match outcome {
            Run(text) => {
                let text = match text.split_once(" host ") {
                    Some((text, host)) => {
                        let said = format!("\r\nasked: {host}\r\n");
                        assert!(answer.contains(&said), "{what}: {answer}");
                        text
                    }
                    None => text,
                };
                assert!(
                    answer.starts_with("HTTP/1.") && answer.contains(" 200 OK"),
                    "{what}: {answer}"
                );
                assert!(answer.ends_with(text), "{what}: {answer}");
            }
            Refused(refusal) => {
                let code = format!("ostrakon-error: {}\r\n", refusal.code());
                assert!(answer.contains(&code), "{what}: {answer}");
                // A request in HTTP/1.0 is answered in that version.
                check_refusal(&answer.replacen("HTTP/1.0", "HTTP/1.1", 1), *refusal);
            }
        }
    }
    println!("{} cases", HTTP1.len());
    server.is_well().await;
    server.stop().await;
}

#[tokio::test]
async fn many_headers_are_not_taken_for_a_large_body() {
    let server = Running::new(Limits {
        max_header_bytes: 16 * 1024,
        ..patient()
    });
    let many: Vec<_> = (0..101).map(|n| format!("x{n}: y\r\n")).collect();
    let many = many.concat();
    let long = "y".repeat(20_000);
    for head in [
        format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n"),
        format!("\r\nGET / HTTP/1.1\r\nhost: x\r\n{many}\r\nbody"),
        format!("GET / HTTP/1.1\r\nhost: x\r\ny: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"),
    ] {
        let answer = server.exchange(head.as_bytes()).await;
        check_refusal(&answer, refusals::HEADER_SIZE);
    }
    server.stop().await;
}

#[tokio::test]
async fn answers_that_have_no_body_are_sent_without_one() {
    let server = Running::new(patient());
    let mut sender = server.h2().await;
    for (status, length) in [(204, None), (205, Some("0")), (304, None)] {
        for method in ["GET", "HEAD"] {
            let request = format!(
                "{method} /status/{status} HTTP/1.1\r\nhost: x\r\n\r\nGET /1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            );
            let answer = server.exchange(request.as_bytes()).await;
            let (head, next) = answer.split_once("\r\n\r\n").unwrap();
            let said = head
                .split("\r\n")
                .find_map(|line| line.strip_prefix("content-length: "));
            assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
            assert_eq!(said, length.filter(|_| method == "GET"), "{answer}");
            assert!(next.starts_with("HTTP/1.1 200"), "{answer}");

            let request = Request::builder()
                .method(method)
                .uri(format!("http://x/status/{status}"));
            let request = request.body(Full::default()).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.status(), status);
            let said = answer.headers().get("content-length");
            assert!(said.is_none_or(|length| length == "0"), "{answer:?}");
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "");
        }
    }
    drop(sender);
    server.stop().await;
}
