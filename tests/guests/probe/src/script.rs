//! The requests of the comparison.

use serde::Serialize;

/// A request.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    pub method: &'static str,
    pub path: String,
    pub headers: Vec<(&'static str, &'static str)>,
    pub body: Vec<u8>,
}

fn step(method: &'static str, path: &str) -> Step {
    Step {
        method,
        path: path.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
    }
}

impl Step {
    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }
}

const URLENCODED: &str = "application/x-www-form-urlencoded";

/// Requests that use all of the contract and of the SDK, well and badly.
pub fn script() -> Vec<Step> {
    let mut steps = vec![
        step("GET", "/"),
        step("HEAD", "/"),
        step("GET", "/nowhere"),
        step("DELETE", "/p/a"),
        step("GET", "/p/%zz"),
        step("GET", "/p/%ff"),
        step("GET", "/p/a%2Fb%20c?q=1+2&q=3"),
        step("GET", "/p/h").header("X-Some", "one").header("x-some", "two").header("cookie", "a=b; who=ann"),
        step("POST", "/p/a").body(b"12345"),
        step("GET", "/p/a/none"),
        step("GET", "/write-in-a-read/a"),
        step("POST", "/many/a"),
        step("GET", "/scan/a"),
        step("POST", "/limits/limits"),
        step("POST", "/discard/a"),
        step("POST", "/fail/a"),
        step("POST", "/trap/a"),
        step("GET", "/scan/a"),
        step("POST", "/collections/c"),
        step("POST", "/form/a").header("content-type", URLENCODED).body(b"name=An%26n&option=a&option=+b&number=7"),
        step("POST", "/form/a").header("content-type", URLENCODED).body(b"option=a"),
        step("POST", "/form/a").header("content-type", URLENCODED).body(b"name=a&number=x"),
        step("POST", "/form/a").header("content-type", URLENCODED).body(b"name=%f"),
        step("POST", "/form/a").header("content-type", "text/plain").body(b"name=a"),
        step("POST", "/multipart/a").header("content-type", "multipart/form-data; boundary=x").body(
            b"--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.b\"\r\nContent-Type: a/b\r\n\r\n\0\r\n\r\n--x--\r\n",
        ),
        step("POST", "/multipart/a").header("content-type", "multipart/form-data; boundary=x").body(b"--x\r\n"),
        step("GET", "/respond/a?with=page").header("if-none-match", "\"v0\", W/\"v1\""),
        step("GET", "/misuse/a"),
        step("GET", "/misuse-here"),
        step("POST", "/ids"),
        step("GET", "/mine").header("cookie", "who=ben"),
        step("GET", "/mine"),
        step("GET", "/by-header").header("x-tenant", "acme"),
        step("GET", "/by-header"),
        step("GET", "/no-key"),
        step("GET", "/long-key"),
        step("GET", "/all/misused"),
        step("GET", "/all/unreadable"),
        step("GET", "/all/absent"),
        step("GET", "/all/wrong"),
    ];
    for with in [
        "page",
        "cookie",
        "elsewhere",
        "time",
        "several",
        "reserved",
        "bad-name",
        "bad-value",
        "bad-status",
        "large-headers",
        "many-headers",
        "no-content",
        "reset",
        "unchanged",
        "too-much",
        "",
    ] {
        steps.push(step("GET", &format!("/respond/a?with={with}")));
    }
    for entry in ["e1", "e2", "e3", "e4", "f1"] {
        steps.push(step("PUT", &format!("/p/entries/{entry}")).body(entry.as_bytes()));
    }
    steps.push(step("PUT", "/p/entries/e1").body(b"changed"));
    steps.push(step("GET", "/p/entries/e1"));
    steps.push(step("HEAD", "/p/entries/e1"));
    for query in [
        "",
        "prefix=e",
        "from=e2",
        "until=e3",
        "from=e2&until=f",
        "from=f&until=e",
        "prefix=g",
    ] {
        steps.push(step("GET", &format!("/scan/entries?{query}")));
        steps.push(step("GET", &format!("/scan/entries?reverse=1&{query}")));
    }
    for _ in 0..2 {
        steps.push(step("DELETE", "/p/entries/e2"));
    }
    for key in ["all-a", "all-b", "all-c", "all-d", "all-e"] {
        steps.push(step("PUT", &format!("/p/{key}/e")).body(b"1"));
    }
    steps.push(step("GET", "/all?q=x"));
    steps
}

#[cfg(test)]
mod tests {
    use ostrakon_guest::testing::TestShard;

    #[test]
    fn the_script_reaches_each_way_to_fail_and_to_succeed() {
        let mut shard = TestShard::<crate::Probe>::new().start().expect("it starts");
        let mut statuses = std::collections::BTreeSet::new();
        for step in super::script() {
            let reply = shard.send(step.method, &step.path, &step.headers, &step.body);
            statuses.insert((reply.status, reply.failed));
        }
        for status in [200, 201, 202, 204, 303, 304, 400, 404, 405, 415, 418, 503] {
            assert!(
                statuses.contains(&(status, false)),
                "{status} is not in {statuses:?}"
            );
        }
        assert!(
            statuses.contains(&(500, true)) && statuses.contains(&(500, false)),
            "{statuses:?}"
        );
    }
}
