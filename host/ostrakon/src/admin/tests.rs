use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use ostrakon_network::bearer::BearerTokens;
use ostrakon_network::http::client;
use ostrakon_observe::metrics::StoreSize;
use ostrakon_test_support::pages::rows;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::drain::Timing;

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Shard(Arc<AtomicBool>);

impl Subject for Shard {
    fn live(&self) -> Result<(), String> {
        if self.0.load(Ordering::SeqCst) {
            Err("the writer's thread has ended".into())
        } else {
            Ok(())
        }
    }

    fn status(&self) -> serde_json::Value {
        serde_json::json!({ "shard": 3 })
    }

    async fn plan(
        &self,
        shards: u32,
        component: Option<Bytes>,
    ) -> Result<serde_json::Value, NoAnswer> {
        let length = component.map(|component| component.len());
        Ok(serde_json::json!([shards, length]))
    }

    async fn rehearse(&self, body: Bytes) -> Result<serde_json::Value, NoAnswer> {
        Ok(serde_json::json!(body.len()))
    }

    fn history(&self) -> Result<serde_json::Value, NoAnswer> {
        Ok(serde_json::json!({ "generations": [] }))
    }

    async fn go_back(&self, to: Option<u64>) -> Result<serde_json::Value, NoAnswer> {
        Ok(serde_json::json!({ "going_back_to": to }))
    }

    fn rollout(&self) -> Result<serde_json::Value, NoAnswer> {
        Ok(serde_json::json!({ "watch": null }))
    }

    async fn order(&self, order: Order) -> Result<serde_json::Value, NoAnswer> {
        Ok(serde_json::json!({ "order": format!("{order:?}") }))
    }

    fn compaction(&self) -> serde_json::Value {
        serde_json::json!({ "state": "none" })
    }

    async fn compact(&self, begin: bool) -> Result<serde_json::Value, NoAnswer> {
        Ok(serde_json::json!({ "begun": begin }))
    }

    fn measure(&self, metrics: &Metrics) {
        metrics.store_size(StoreSize {
            bytes: 4096,
            entries: 1,
            reclaimable: 0,
            filesystem: None,
        });
    }
}

struct Open {
    address: SocketAddr,
    _admin: Admin,
}

fn start() -> (Open, Readiness, Drain, Arc<AtomicBool>) {
    let broken = Arc::new(AtomicBool::new(false));
    let readiness = Readiness::default();
    let drain = Drain::new(readiness.clone());
    let parts = Parts {
        subject: Shard(Arc::clone(&broken)),
        readiness: readiness.clone(),
        drain: drain.clone(),
        metrics: Arc::new(Metrics::new("test")),
        tokens: LiveTokens::default(),
        max_connections: 16,
    };
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.local_addr();
    let open = Open {
        address,
        _admin: Admin::start(server, parts).unwrap(),
    };
    (open, readiness, drain, broken)
}

async fn get(admin: &Open, path: &str) -> (u16, String) {
    call(admin, Method::GET, path).await
}

async fn call(admin: &Open, method: Method, path: &str) -> (u16, String) {
    let (status, body) = client::request(admin.address, method, path, PATIENCE)
        .await
        .unwrap();
    (status.as_u16(), String::from_utf8(body.into()).unwrap())
}

#[tokio::test]
async fn probes_follow_the_shards_state() {
    let (admin, readiness, drain, broken) = start();
    assert_eq!(get(&admin, "/livez").await, (200, "ok\n".into()));
    assert_eq!(get(&admin, "/startupz").await.0, 503);
    assert_eq!(
        get(&admin, "/readyz").await,
        (503, "the shard is starting\n".into())
    );
    readiness.set_started();
    assert_eq!(get(&admin, "/startupz").await.0, 200);
    assert_eq!(get(&admin, "/readyz").await.0, 503);
    readiness.set_generation_live();
    assert_eq!(get(&admin, "/readyz").await, (200, "ok\n".into()));
    drain.begin();
    assert_eq!(
        get(&admin, "/readyz").await,
        (503, "the shard is draining\n".into())
    );
    assert_eq!(get(&admin, "/livez").await.0, 200);
    broken.store(true, Ordering::SeqCst);
    assert_eq!(
        get(&admin, "/livez").await,
        (503, "the writer's thread has ended\n".into())
    );
}

#[tokio::test]
async fn metrics_are_in_the_format_that_is_asked_for() {
    let (admin, _, _, _) = start();
    for (accept, kind, family) in [
        (
            "",
            "text/plain; version=0.0.4; charset=utf-8",
            "ostrakon_swaps_total",
        ),
        (
            "accept: text/plain\r\n",
            "text/plain; version=0.0.4; charset=utf-8",
            "ostrakon_swaps_total",
        ),
        (
            "accept: application/openmetrics-text;q=0.6\r\naccept: text/plain;q=0.3,*/*;q=0.2\r\n",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "ostrakon_swaps",
        ),
        (
            "accept: image/png\r\n",
            "text/plain; version=0.0.4; charset=utf-8",
            "ostrakon_swaps_total",
        ),
    ] {
        let mut stream = tokio::net::TcpStream::connect(admin.address).await.unwrap();
        let request =
            format!("GET /metrics HTTP/1.1\r\nhost: x\r\n{accept}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{accept}: {answer}");
        assert!(
            answer.contains(&format!("\r\ncontent-type: {kind}\r\n")),
            "{accept}: {answer}"
        );
        let declared = format!("\n# TYPE {family} counter\n");
        assert!(answer.contains(&declared), "{accept}: {answer}");
        let is_open = kind.starts_with("application");
        assert_eq!(answer.ends_with("\n# EOF\n"), is_open, "{accept}: {answer}");
    }
}

#[tokio::test]
async fn status_is_json_and_metrics_are_measured_and_rendered() {
    let (admin, readiness, drain, _) = start();
    let _in_flight = drain.enter().unwrap();
    let metrics = async |admin: &Open| get(admin, "/metrics").await.1;
    let (status, body) = get(&admin, "/status").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["shard"]), (200, &3.into()));
    let (status, text) = get(&admin, "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "ostrakon_store_bytes 4096",
        "ostrakon_ready 0",
        "ostrakon_draining 0",
        "ostrakon_requests_in_flight 1",
    ] {
        assert!(text.contains(&format!("\n{line}\n")), "{line} of {text}");
    }
    // The format for a client that does not ask for a particular one.
    assert!(
        text.contains("\n# TYPE ostrakon_swaps_total counter\n"),
        "{text}"
    );
    readiness.set_started();
    readiness.set_generation_live();
    assert!(metrics(&admin).await.contains("\nostrakon_ready 1\n"));
    drain.begin();
    let text = metrics(&admin).await;
    assert!(text.contains("\nostrakon_ready 0\n"), "{text}");
    assert!(text.contains("\nostrakon_draining 1\n"), "{text}");
}

#[tokio::test]
async fn a_plan_is_asked_for_with_a_component_or_without() {
    let (admin, ..) = start();
    let authority = admin.address.to_string();
    let asked = async |method, path, body: &'static [u8]| {
        let question = client::Question {
            body: Bytes::from_static(body),
            ..Default::default()
        };
        let asked = client::send(&authority, method, path, question, PATIENCE).await;
        let (status, answer) = asked.unwrap();
        (status.as_u16(), serde_json::from_slice(&answer).ok())
    };
    let found = |length| Some(serde_json::json!([5, length]));
    let path = "/plan?shards=5";
    assert_eq!(asked(Method::GET, path, b"").await, (200, found(None)));
    let posted = asked(Method::POST, path, b"wasm").await;
    assert_eq!(posted, (200, found(Some(4))));
    assert_eq!(asked(Method::GET, "/plan?shards=x", b"").await.0, 400);
    assert_eq!(asked(Method::DELETE, path, b"").await.0, 405);
}

#[test]
fn the_reference_has_exactly_these_endpoints_with_their_methods() {
    let readme = include_str!("../../../README.md");
    let mut shown = BTreeMap::<_, BTreeSet<_>>::new();
    for row in rows(readme, "| endpoint | method |") {
        let path = row[0]
            .trim_matches('`')
            .split('?')
            .next()
            .unwrap_or_default();
        let methods = row[1].split(", ").map(str::to_owned);
        shown.entry(path.to_owned()).or_default().extend(methods);
    }
    let all = ENDPOINTS.into_iter().map(|(path, methods, _)| {
        let methods = methods.iter().map(ToString::to_string);
        (path.to_owned(), methods.collect::<BTreeSet<_>>())
    });
    assert_eq!(shown, all.collect(), "host/README.md, and the endpoints");
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_clearly() {
    let (admin, ..) = start();
    assert_eq!(get(&admin, "/nothing").await.0, 404);
    assert_eq!(call(&admin, Method::DELETE, "/livez").await.0, 405);
    assert_eq!(get(&admin, "/drain").await.0, 405);
}

#[tokio::test]
async fn draining_answers_when_it_is_done_and_again_with_the_same() {
    let (admin, _, drain, _) = start();
    let timing = Timing {
        serve_for: Duration::ZERO,
        deadline: PATIENCE,
    };
    let run = drain.clone();
    tokio::spawn(async move { run.run(|| timing, async {}, async {}).await });
    assert_eq!(
        call(&admin, Method::POST, "/drain").await,
        (200, "drained\n".into())
    );
    assert_eq!(
        call(&admin, Method::POST, "/drain").await,
        (200, "drained\n".into())
    );
    assert!(drain.is_refusing());
}

fn parts() -> Parts<Shard> {
    let readiness = Readiness::default();
    Parts {
        subject: Shard::default(),
        drain: Drain::new(readiness.clone()),
        readiness,
        metrics: Arc::new(Metrics::new("test")),
        tokens: LiveTokens::default(),
        max_connections: 16,
    }
}

#[test]
fn only_this_machine_may_rehearse() {
    const TOKEN: &str = "one-0123456789abcdef";
    let parts = parts();
    let tokens = BearerTokens::read(TOKEN.as_bytes()).unwrap();
    parts.tokens.store(Some(Arc::new(tokens)));
    let asked = |from: &str, headers: &[(&str, &str)]| {
        let mut request = Request::builder().method("POST").uri("/rehearse");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut head = request.body(()).unwrap().into_parts().0;
        let caller = Caller::plain(from.parse().unwrap(), "127.0.0.1:9090".parse().unwrap());
        let refused = parts.refuse(&mut head, &caller);
        refused.map_or(200, |response| response.status().as_u16())
    };
    let token = ("authorization", "Bearer one-0123456789abcdef");
    assert_eq!(asked("127.0.0.1:1", &[]), 200);
    assert_eq!(
        asked("127.0.0.1:1", &[("origin", "https://a.page"), token]),
        403
    );
    assert_eq!(asked("10.0.0.1:1", &[]), 401);
    assert_eq!(asked("10.0.0.1:1", &[token]), 403);
}

#[test]
fn what_changes_something_is_for_this_machine_and_for_tokens() {
    const ONE: &str = "one-0123456789abcdef";
    const TWO: &str = "two-0123456789abcdef";
    let parts = parts();
    let asked_at = |to: &str, path: &str, from: &str, headers: &[(&str, &str)]| {
        // The method is POST unless the path has another before it.
        let (method, path) = path.split_once(' ').unwrap_or(("POST", path));
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut head = request.body(()).unwrap().into_parts().0;
        let caller = Caller::plain(from.parse().unwrap(), to.parse().unwrap());
        let refused = parts.refuse(&mut head, &caller);
        refused.map_or(200, |response| response.status().as_u16())
    };
    let asked =
        |path: &str, from: &str, headers: &[_]| asked_at("127.0.0.1:9090", path, from, headers);
    let shown = |token: &str| format!("Bearer {token}");
    let (one, two) = (shown(ONE), shown(TWO));
    let (one, two) = ([("authorization", &*one)], [("authorization", &*two)]);
    let page = ("origin", "https://a.page");
    let elsewhere = ["10.0.0.1:1", "[::ffff:10.0.0.1]:1", "[2001:db8::1]:1"];
    let here = ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"];
    for path in [
        "/drain",
        "/plan?shards=5",
        "/rollback",
        "/rollout/pause",
        "/rollout/resume",
        "/rollout/promote?full=true",
        "/rollout/abort",
        "/compact",
        "DELETE /compact",
    ] {
        parts.tokens.store(None);
        for from in here {
            assert_eq!(asked(path, from, &[]), 200, "{from}");
            assert_eq!(asked(path, from, &[page]), 403, "{from}");
            // The sidecar of a service mesh, which forwards for any client.
            assert_eq!(asked_at("10.0.0.2:9090", path, from, &[]), 403, "{from}");
        }
        for from in elsewhere {
            assert_eq!(asked(path, from, &[]), 403, "{from}");
            assert_eq!(asked(path, from, &one), 403, "{from}");
        }
        let both = BearerTokens::read(format!("{ONE}\n{TWO}").as_bytes()).unwrap();
        parts.tokens.store(Some(Arc::new(both)));
        for from in elsewhere {
            assert_eq!(asked(path, from, &[]), 401, "{from}");
            assert_eq!(asked(path, from, &one), 200, "{from}");
            assert_eq!(asked(path, from, &two), 200, "{from}");
        }
        assert_eq!(asked(path, here[0], &[]), 200);
        assert_eq!(asked(path, here[0], &[page]), 401);
        assert_eq!(asked(path, here[0], &[page, one[0]]), 200);
        let rotated = BearerTokens::read(TWO.as_bytes()).unwrap();
        parts.tokens.store(Some(Arc::new(rotated)));
        assert_eq!(asked(path, elsewhere[0], &one), 401);
        assert_eq!(asked(path, elsewhere[0], &two), 200);
    }
}

#[tokio::test]
async fn dropping_the_port_closes_it_though_connections_are_open() {
    let (admin, ..) = start();
    let _idle = tokio::net::TcpStream::connect(admin.address).await.unwrap();
    assert_eq!(get(&admin, "/livez").await.0, 200);
    let address = admin.address;
    drop(admin);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
