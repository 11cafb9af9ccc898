//! What visitors of one shard meet, in both versions.

mod support;

use std::time::Duration;

use ostrakon_guest::{
    Guest,
    testing::{Reply, TestShard},
};
use serde_json::{Value, json};
use support::{cookie, location, result};
use voting::Voting;

const FORM: &str = "question=Lunch%3F&options=Soup%0D%0ASalad%0D%0A%0D%0A%3Cb%3EBread%3C%2Fb%3E";

fn start<G: Guest>() -> TestShard<G> {
    TestShard::new().start().expect("it starts")
}

/// Creates the poll of a form, and returns its path.
fn create<G: Guest>(shard: &mut TestShard<G>, form: &str) -> String {
    location(&shard.post("/polls", form))
}

fn vote<G: Guest>(shard: &mut TestShard<G>, poll: &str, voter: usize, form: &str) -> Reply {
    let headers = [("cookie", &*cookie(voter))];
    shard.send("POST", &format!("{poll}/votes"), &headers, form)
}

#[test]
fn a_browser_gets_an_id_and_has_one_vote() {
    let mut shard = start::<Voting>();
    let poll = create(&mut shard, FORM);
    let page = shard.get(&poll);
    let set = page.header("set-cookie").expect("a cookie").to_owned();
    let (cookie, rest) = set.split_once(';').unwrap();
    assert_eq!(cookie.len(), "voter=".len() + 32);
    assert_eq!(rest, " Path=/; HttpOnly; SameSite=Lax; Max-Age=31536000");
    let headers = [("cookie", cookie)];
    let again = shard.send("GET", &poll, &headers, "");
    assert_eq!(again.header("set-cookie"), None);
    for (choices, votes) in [("choice=1", [0, 1, 0]), ("choice=0&choice=2", [1, 0, 0])] {
        let voted = shard.send("POST", &format!("{poll}/votes"), &headers, choices);
        assert_eq!(location(&voted), format!("{poll}/results"));
        let (count, _, rounds) = result(&shard.get(&format!("/api{poll}")));
        assert_eq!((count, &rounds[0]["counts"]), (1, &json!(votes)));
    }
    let results = shard.send("GET", &format!("{poll}/results"), &headers, "");
    let yours = "Your vote: <strong>Soup, then &lt;b&gt;Bread&lt;/b&gt;</strong>";
    assert!(results.text().contains(yours), "{}", results.text());
    let form = shard.send("GET", &poll, &headers, "");
    assert_eq!(form.text().matches(" selected>").count(), 2);
}

#[test]
fn a_vote_without_an_id_is_not_counted() {
    let mut shard = start::<Voting>();
    let poll = create(&mut shard, FORM);
    for cookie in ["", "voter=", "voter=ann", "other=1"] {
        let headers = [("cookie", cookie)];
        let reply = shard.send("POST", &format!("{poll}/votes"), &headers, "choice=1");
        assert_eq!(reply.status, 403);
        assert!(reply.text().contains("Allow cookies"), "{}", reply.text());
    }
    assert_eq!(result(&shard.get(&format!("/api{poll}"))).0, 0);
}

#[test]
fn a_poll_closes_at_its_time() {
    let mut shard = start::<Voting>();
    let poll = create(&mut shard, &format!("{FORM}&closes=2026-01-01T00%3A01"));
    assert_eq!(vote(&mut shard, &poll, 1, "choice=2").status, 303);
    let results = format!("{poll}/results");
    assert_eq!(shard.get(&results).header("refresh"), Some("5"));
    shard.advance(Duration::from_mins(1));
    let late = vote(&mut shard, &poll, 1, "choice=0");
    assert_eq!(late.status, 409);
    let text = "This poll closed at 2026-01-01 00:01 UTC.";
    assert!(late.text().contains(text), "{}", late.text());
    let page = shard.get(&poll);
    assert!(page.text().contains("no longer accepted"));
    assert!(!page.text().contains("<form"));
    let closed = shard.get(&results);
    assert_eq!(closed.header("refresh"), None);
    assert!(
        closed
            .text()
            .contains("&lt;b&gt;Bread&lt;/b&gt;</strong> won.")
    );
    let shown: Value = shard.get(&format!("/api{poll}")).json();
    assert_eq!(
        (&shown["closed"], &shown["winners"]),
        (&json!(true), &json!([2]))
    );
}

#[test]
fn bad_polls_are_rejected_with_the_form_and_what_to_do() {
    let mut shard = start::<Voting>();
    let many = (0..21).map(|number| number.to_string());
    let many = many.collect::<Vec<_>>().join("%0A");
    let long = "x".repeat(201);
    for (form, text) in [
        ("", "The question is empty"),
        (&*format!("question={long}"), "shorten it to at most 200"),
        ("question=a%00b", "control character"),
        (
            "question=a&options=one",
            "2 to 20 options, and this one has 1",
        ),
        (
            &*format!("question=a&options={many}"),
            "and this one has 21",
        ),
        ("question=a&options=b%0A%20B%20", "there twice"),
        (
            &*format!("question=a&options=b%0A{long}"),
            "Option 2 has 201",
        ),
        ("question=a&options=b%0Ac&closes=soon", "“soon” is no time"),
        (
            "question=a&options=b%0Ac&closes=2025-12-31T23%3A59",
            "closed already",
        ),
    ] {
        let reply = shard.post("/polls", form);
        assert_eq!(reply.status, 422, "{form}");
        assert!(reply.text().contains(text), "{text}: {}", reply.text());
        assert!(reply.text().contains("aria-invalid"));
    }
    assert_eq!(shard.post("/polls", "question=%zz").status, 400);
    let json = [("content-type", "application/json")];
    assert_eq!(shard.send("POST", "/polls", &json, "{}").status, 415);
    let polls = shard.part("GET", "/", &[]).response.body;
    assert_eq!(polls, br#"{"polls":[],"more":false}"#);
}

#[test]
fn the_longest_poll_fits_and_more_is_too_large() {
    let mut shard = start::<Voting>();
    let long = |count: usize| "%F0%9F%8D%B2".repeat(count);
    let options = (10..30).map(|number| format!("{number}{}", long(98)));
    let options = options.collect::<Vec<_>>().join("%0D%0A");
    let form = format!("question={}&options={options}", long(200));
    let poll = create(&mut shard, &form);
    assert_eq!(vote(&mut shard, &poll, 1, "choice=19").status, 303);
    let form = format!("question={}", "%3C".repeat(30_000));
    assert_eq!(shard.post("/polls", form).status, 413);
    assert_eq!(shard.post("/api/polls", " ".repeat(65_537)).status, 413);
}

#[test]
fn pages_load_and_run_nothing() {
    let mut shard = start::<Voting>();
    let poll = create(&mut shard, FORM);
    for path in [
        "/polls/new",
        &*poll,
        &*format!("{poll}/results"),
        "/nowhere",
    ] {
        let page = shard.get(path);
        let policy = page.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(page.header("cache-control"), Some("no-store"));
        assert!(!page.text().contains("<b>") && !page.text().contains("<script"));
    }
}

#[test]
fn bad_votes_are_rejected() {
    let mut shard = start::<Voting>();
    let poll = create(&mut shard, FORM);
    for (form, text) in [
        ("", "Choose an option as your 1st choice."),
        ("choice=&choice=", "Choose an option as your 1st choice."),
        ("choice=0&choice=0", "You chose “Soup” twice"),
        ("choice=3", "numbered from 0 to 2"),
        ("choice=256", "no option&#39;s number"),
        ("choice=-1", "no option&#39;s number"),
        ("choice=<b>", "`&lt;b&gt;` is no option"),
    ] {
        let reply = vote(&mut shard, &poll, 1, form);
        assert_eq!(reply.status, 422, "{form}");
        assert!(reply.text().contains(text), "{text}: {}", reply.text());
    }
    assert_eq!(result(&shard.get(&format!("/api{poll}"))).0, 0);
}

#[test]
fn other_sites_cannot_vote_or_create_polls() {
    let mut shard = start::<Voting>();
    let poll = create(&mut shard, FORM);
    let (voter, votes) = (cookie(1), format!("{poll}/votes"));
    for (name, value, status) in [
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "same-site", 403),
        ("sec-fetch-site", "same-origin", 303),
        ("sec-fetch-site", "none", 303),
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("origin", "https://polls.example:8443", 303),
    ] {
        let headers = [
            ("host", "polls.example:8443"),
            ("cookie", &*voter),
            (name, value),
        ];
        for (path, form) in [(&*votes, "choice=1"), ("/polls", FORM)] {
            let reply = shard.send("POST", path, &headers, form);
            assert_eq!(reply.status, status, "{name}: {value}: {path}");
        }
    }
    let link = [("sec-fetch-site", "cross-site")];
    assert_eq!(shard.send("GET", &poll, &link, "").status, 200);
}

#[test]
fn what_does_not_exist_is_a_page_or_json() {
    let mut shard = start::<Voting>();
    let unknown = format!("/polls/{:032x}", 7);
    let upper = format!("/polls/{:032X}", u128::MAX);
    for path in ["/nowhere", "/polls/7", &*unknown, &*upper] {
        let page = shard.get(path);
        assert_eq!(page.status, 404, "{path}");
        assert_eq!(
            page.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        assert!(page.text().contains("<h1>Not found</h1>"));
        let json = shard.get(&format!("/api{path}"));
        assert_eq!(
            (json.status, json.header("content-type")),
            (404, Some("application/json"))
        );
    }
    let reply = shard.get("/polls");
    assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")));
    let before = shard.part("GET", "/?before=yesterday", &[]);
    let joined = shard.gather("GET", "/?before=yesterday", &[], vec![before]);
    assert_eq!(joined.status, 400, "{}", joined.text());
    assert_eq!(vote(&mut shard, &unknown, 1, "choice=0").status, 404);
    assert!(shard.partition(&unknown["/polls/".len()..]).is_none());
}

#[test]
fn programs_use_json() {
    let mut shard = start::<Voting>();
    let poll =
        r#"{"question":"Tea?","options":["Yes","No\nthanks"],"closes":"2026-02-01T00:00:00Z"}"#;
    let created = shard.post("/api/polls", poll);
    assert_eq!(created.status, 201, "{}", created.text());
    let path = created.header("location").expect("a location").to_owned();
    let shown: Value = shard.get(&path).json();
    let id = path.strip_prefix("/api/polls/").unwrap();
    let expected = json!({
        "id": id, "question": "Tea?", "options": ["Yes", "No thanks"], "created": "2026-01-01T00:00:00Z",
        "closes": "2026-02-01T00:00:00Z", "closed": false, "votes": 0, "winners": [],
        "rounds": [{ "counts": [0, 0], "exhausted": 0 }], "yours": [],
    });
    assert_eq!(shown, expected);
    let voter = cookie(1);
    let headers = [("cookie", &*voter)];
    let vote = format!("{path}/vote");
    let voted = shard.send("PUT", &vote, &headers, r#"{"choices":[1,0]}"#);
    assert_eq!((voted.status, voted.text()), (204, ""));
    let shown: Value = shard.send("GET", &path, &headers, "").json();
    assert_eq!(
        (&shown["yours"], &shown["winners"]),
        (&json!([1, 0]), &json!([1]))
    );
    for (body, status) in [
        (r#"{"choices":[2]}"#, 422),
        (r#"{"choices":[]}"#, 422),
        (r#"{"choices":[0,0]}"#, 422),
        (r#"{"choice":0}"#, 400),
        ("choice=0", 400),
    ] {
        let reply = shard.send("PUT", &vote, &headers, body);
        assert_eq!(reply.status, status, "{body}");
        assert!(reply.json::<Value>()["message"].is_string());
    }
    assert_eq!(shard.put(&vote, r#"{"choices":[0]}"#).status, 403);
    assert_eq!(shard.post("/api/polls", "{}").status, 400);
    assert_eq!(
        shard
            .post("/api/polls", r#"{"question":"","options":[]}"#)
            .status,
        422
    );
}

#[test]
fn cookies_are_for_https_only_if_set_so() {
    let secure = |value: &str| {
        TestShard::<Voting>::new()
            .setting("secure-cookies", value)
            .start()
    };
    let mut shard = secure("true\n").unwrap();
    let poll = create(&mut shard, FORM);
    let set = shard
        .get(&poll)
        .header("set-cookie")
        .expect("a cookie")
        .to_owned();
    assert!(set.ends_with("; Secure"), "{set}");
    let refused = secure("yes").unwrap_err();
    assert!(refused.contains("setting `secure-cookies`"), "{refused}");
}

#[test]
fn version_1_counts_the_first_choice_of_a_form_of_version_2() {
    let mut shard = start::<voting_v1::Voting>();
    let poll = create(&mut shard, FORM);
    assert_eq!(
        vote(&mut shard, &poll, 1, "choice=1&choice=0&choice=").status,
        303
    );
    assert_eq!(vote(&mut shard, &poll, 2, "choice=2").status, 303);
    let shown = result(&shard.get(&format!("/api{poll}")));
    let rounds = json!([{ "counts": [0, 1, 1], "exhausted": 0 }]);
    assert_eq!(shown, (2, json!([1, 2]), rounds));
}

#[test]
fn a_full_poll_rejects_a_new_vote_and_keeps_the_others() {
    let limits = ostrakon_guest::testing::Limits {
        partition: 400,
        ..Default::default()
    };
    let mut shard = TestShard::<Voting>::new().limits(limits).start().unwrap();
    let poll = create(&mut shard, FORM);
    let statuses: Vec<_> = (0..8)
        .map(|voter| vote(&mut shard, &poll, voter, "choice=1").status)
        .collect();
    let counted = statuses.iter().filter(|status| **status == 303).count();
    assert!((1..8).contains(&counted), "{statuses:?}");
    assert!(
        statuses[counted..].iter().all(|status| *status == 507),
        "{statuses:?}"
    );
    let (votes, _, rounds) = result(&shard.get(&format!("/api{poll}")));
    assert_eq!(
        (votes, &rounds[0]["counts"]),
        (counted as u64, &json!([0, counted, 0]))
    );
}
