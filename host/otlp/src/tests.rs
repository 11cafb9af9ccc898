use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use ostrakon_network::http::{Caller, Handler, Limits, Server};
use ostrakon_observe::metrics::Listener;
use ostrakon_observe::trace::{Operation, Span};
use ostrakon_test_support::pages::{code, rows};
use prost::Message as _;
use tokio::sync::{mpsc, watch};

use super::message::Export;
use super::*;

/// A collector that answers as instructed, and reports the requests that it receives.
struct Collector {
    seen: mpsc::UnboundedSender<Request<Bytes>>,
    answers: std::sync::Mutex<Vec<u16>>,
}

impl Handler for Collector {
    async fn call(&self, request: Request<Bytes>, _: &Caller) -> Response<Bytes> {
        let _ = self.seen.send(request);
        let status = self.answers.lock().unwrap().pop().unwrap_or(200);
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
    }
}

/// Sends one batch to a collector that gives these answers, the last one first. Returns the
/// requests it received, and the metrics.
async fn exported(answers: &[u16]) -> (Vec<Request<Bytes>>, String) {
    let (seen, mut requests) = mpsc::unbounded_channel();
    let collector = Collector {
        seen,
        answers: std::sync::Mutex::new(answers.to_vec()),
    };
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let endpoint = format!("http://{}/base/", server.local_addr());
    let (shutdown, down) = watch::channel(false);
    let metrics = Arc::new(Metrics::new("0"));
    let limits = Arc::new(arc_swap::ArcSwap::from_pointee(Limits::default()));
    let counted = Arc::new(Metrics::new("0"));
    let plain = (Listener::Public, watch::channel(None).1);
    let serving = tokio::spawn(server.run(Arc::new(collector), limits, counted, plain, down));
    let options = Options {
        endpoint: endpoint.parse().unwrap(),
        headers: headers("x-key=a%20secret").unwrap(),
        service: "kv".to_owned(),
        attributes: pairs("team=data, service.name=other").unwrap(),
        sampler: Sampler::new("always_on", None).unwrap(),
    };
    let pace = Pace {
        gather: Duration::from_millis(1),
        attempts: 3,
        pause: Duration::from_millis(1),
        ..Pace::default()
    };
    let (tracer, queue) = Tracer::new(options.sampler, 8);
    let (trace, mut root) = tracer.begin(&HeaderMap::new(), Operation::Request);
    drop(trace.span(Operation::Commit));
    root.as_mut().unwrap().fail("it broke".to_owned());
    drop((root, trace, tracer));
    let (_end, told) = oneshot::channel();
    Sending::new(&options, 3, Arc::clone(&metrics), pace)
        .run(queue, told)
        .await;
    shutdown.send_replace(true);
    serving.await.unwrap().unwrap();
    let mut all = Vec::new();
    while let Ok(request) = requests.try_recv() {
        all.push(request);
    }
    (all, metrics.render())
}

#[tokio::test]
async fn a_batch_is_sent_as_otlp_has_it() {
    let (requests, counted) = exported(&[]).await;
    let [request] = &requests[..] else {
        panic!("{requests:?}")
    };
    assert_eq!(request.method(), Method::POST);
    assert_eq!(request.uri().path(), "/base/v1/traces");
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    assert_eq!(request.headers()["x-key"], "a secret");
    let export = Export::decode(request.body().clone()).unwrap();
    let resource = export.resource_spans[0].resource.as_ref().unwrap();
    let said: Vec<_> = resource.attributes.iter().map(|it| &*it.key).collect();
    let own = ["service.name", "service.version", "service.instance.id"];
    assert_eq!(said, [&own[..], &["ostrakon.shard", "team"]].concat());
    let shown = rows(include_str!("../../README.md"), "| resource attribute |");
    let mut shown: Vec<_> = shown.iter().flat_map(|row| code(row[0])).collect();
    shown.push("team");
    assert_eq!(shown, said, "host/README.md, and what is sent");
    let [within, root] = &export.resource_spans[0].scope_spans[0].spans[..] else {
        panic!("{export:?}")
    };
    assert_eq!(within.parent_span_id, root.span_id);
    assert_eq!(within.trace_id, root.trace_id);
    assert_eq!((within.trace_id.len(), within.span_id.len()), (16, 8));
    assert_eq!((&*within.name, within.kind, root.kind), ("commit", 1, 2));
    assert_eq!(root.status.as_ref().unwrap().message, "it broke");
    assert!(within.start_time_unix_nano >= root.start_time_unix_nano);
    assert!(within.end_time_unix_nano <= root.end_time_unix_nano);
    assert!(
        counted.contains("\nostrakon_spans_exported_total 2\n"),
        "{counted}"
    );
}

#[tokio::test]
async fn a_collector_that_is_busy_is_asked_again_and_one_that_refuses_is_not() {
    for (answers, asked, exported_spans, refused) in [
        (&[200, 503, 429][..], 3, 2, 0),
        (&[503, 503, 503], 3, 0, 2),
        (&[400], 1, 0, 2),
    ] {
        let (requests, counted) = exported(answers).await;
        assert_eq!(requests.len(), asked, "{answers:?}");
        for line in [
            format!("\nostrakon_spans_exported_total {exported_spans}\n"),
            format!("\nostrakon_spans_dropped_total{{reason=\"refused\"}} {refused}\n"),
        ] {
            assert!(counted.contains(&line), "{answers:?}: {line} of {counted}");
        }
    }
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_collector_that_hangs() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let options = Options {
        endpoint: format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap(),
        headers: HeaderMap::new(),
        service: "kv".to_owned(),
        attributes: Vec::new(),
        sampler: Sampler::new("always_on", None).unwrap(),
    };
    let metrics = Arc::new(Metrics::new("0"));
    let (tracer, exporter) = Exporter::start(&options, 0, metrics).unwrap();
    drop(tracer.begin(&HeaderMap::new(), Operation::Request));
    let began = std::time::Instant::now();
    exporter.end().await;
    assert!(began.elapsed() < LAST + Duration::from_secs(1));
}

#[test]
fn addresses_and_lists_are_read_as_opentelemetry_has_them() {
    let of = |text: &str| {
        text.parse::<Endpoint>()
            .map(|it| (it.authority, it.path.to_string()))
    };
    let parsed = |authority: &str, path: &str| Ok((authority.to_owned(), path.to_owned()));
    assert_eq!(of("http://otel:4318"), parsed("otel:4318", "/v1/traces"));
    assert_eq!(of("http://otel/"), parsed("otel:80", "/v1/traces"));
    assert_eq!(
        of("http://[::1]:4318/a"),
        parsed("[::1]:4318", "/a/v1/traces")
    );
    for wrong in [
        "",
        "otel:4318",
        "/path",
        "https://otel:4318",
        "http://a@otel",
    ] {
        let error = of(wrong).unwrap_err().to_string();
        assert!(error.contains("http://HOST:4318"), "{wrong:?}: {error}");
    }
    assert_eq!(
        pairs(" a=1 , b=x%2Cy,").unwrap(),
        [("a", "1"), ("b", "x,y")].map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    for wrong in ["a", "=1", "a=%ff"] {
        assert_eq!(pairs(wrong), Err(BadEndpoint::Pairs), "{wrong:?}");
    }
    let given = headers("authorization=Bearer%20word").unwrap();
    assert_eq!(given["authorization"], "Bearer word");
    assert!(!format!("{given:?}").contains("word"), "{given:?}");
    assert!(headers("a b=1").is_err());
}

/// A span can have any time, and no time makes the message invalid.
#[test]
fn times_before_1970_are_the_beginning() {
    let (tracer, mut queue) = Tracer::new(Sampler::new("always_on", None).unwrap(), 1);
    drop(tracer.begin(&HeaderMap::new(), Operation::Request));
    let span = queue.spans.try_recv().unwrap();
    let old = Span {
        began: SystemTime::UNIX_EPOCH - Duration::from_secs(5),
        ..span
    };
    assert_eq!(message::Span::from(old).start_time_unix_nano, 0);
}
