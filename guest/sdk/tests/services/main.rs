//! Three small services: what the SDK makes of them, and how many lines they take.

#![expect(
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    reason = "all endpoints have one signature"
)]

mod limiter;
mod polls;
mod sessions;

use std::time::Duration;

use limiter::Limiter;
use ostrakon_guest::testing::{TestCluster, TestShard};
use polls::Polls;
use sessions::Sessions;

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

#[test]
fn a_service_takes_few_lines_of_code() {
    for (name, source, most) in [
        ("limiter", include_str!("limiter.rs"), 40),
        ("sessions", include_str!("sessions.rs"), 60),
        ("polls", include_str!("polls.rs"), 80),
    ] {
        let lines = source.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("//"));
        let lines = lines.count();
        println!("{name}: {lines} lines");
        assert!(lines <= most, "{name}: {lines} lines");
    }
}

#[test]
fn a_bucket_gives_its_capacity_and_then_its_rate() {
    let limiter = TestShard::<Limiter>::new().setting("capacity", "3");
    let mut shard = limiter.setting("millis_per_token", "1000").start().unwrap();
    let mut given = |millis| {
        shard.advance(Duration::from_millis(millis));
        let asked = (0..10).map(|_| shard.get("/ann").status);
        asked.filter(|status| *status == 204).count()
    };
    assert_eq!(
        [0, 0, 999, 1, 2500, 60_000].map(&mut given),
        [3, 0, 0, 1, 2, 3]
    );
    let refused = TestShard::<Limiter>::new()
        .setting("capacity", "many")
        .start();
    assert!(refused.unwrap_err().contains("setting `capacity`"));
}

#[test]
fn a_session_is_found_by_the_id_that_the_server_made_until_it_expires() {
    let mut cluster = TestCluster::start(3, TestShard::<Sessions>::new).unwrap();
    let made = |cluster: &mut TestCluster| {
        let made = cluster.ask(0).post("/sessions", "\"ann\"");
        assert_eq!(made.status, 201);
        made.header("location").unwrap().to_owned()
    };
    let (first, second) = (made(&mut cluster), made(&mut cluster));
    assert_ne!(first, second);
    cluster.advance(Duration::from_mins(20));
    assert_eq!(cluster.ask(1).put(&second, "\"ben\"").status, 204);
    cluster.scale(5);
    cluster.advance(Duration::from_mins(20));
    assert_eq!(cluster.ask(4).get(&first).status, 404);
    assert_eq!(cluster.ask(4).get(&second).text(), "\"ben\"");
    assert_eq!(cluster.ask(2).put(&first, "\"late\"").status, 404);
    assert_eq!(
        cluster.ask(2).send("DELETE", &second, &[], "").text(),
        "true"
    );
    assert_eq!(cluster.get(&second).status, 404);
}

#[test]
fn a_browser_has_one_vote_and_all_shards_are_listed() {
    let mut cluster = TestCluster::start(3, TestShard::<Polls>::new).unwrap();
    for poll in ["lunch", "a%3Cb", "c", "d"] {
        let made = cluster.ask(1).send(
            "POST",
            &format!("/polls/{poll}"),
            &[FORM],
            "option=soup&option=%3Cb%3E",
        );
        assert_eq!(made.status, 303);
    }
    let listed = cluster.get("/polls");
    assert_eq!(
        listed.text().matches("<li>").count(),
        4,
        "{}",
        listed.text()
    );
    assert!(listed.text().contains("a&lt;b"), "{}", listed.text());
    let mut vote = |headers: &[(&str, &str)], choice: &str| {
        let headers = [&[FORM], headers].concat();
        cluster.ask(2).send(
            "POST",
            "/polls/lunch/votes",
            &headers,
            format!("choice={choice}"),
        )
    };
    let voted = vote(&[], "soup");
    let cookie = voted
        .header("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    assert_eq!(
        (voted.status, voted.header("location")),
        (303, Some("/polls/lunch"))
    );
    assert_eq!(vote(&[("cookie", &cookie)], "%3Cb%3E").status, 303);
    assert_eq!(vote(&[], "soup").status, 303);
    assert_eq!(vote(&[], "steak").status, 400);
    let page = cluster.get("/polls/lunch");
    assert!(
        page.text().contains("soup</button> 1<br>"),
        "{}",
        page.text()
    );
    assert!(
        page.text().contains("&lt;b&gt;</button> 1<br>"),
        "{}",
        page.text()
    );
}
