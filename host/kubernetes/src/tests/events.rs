//! Events are posted when possible, and nothing waits for them.

use serde_json::Value;

use super::*;

fn refused(note: &str) -> Event {
    Event {
        kind: Kind::SwapRefused,
        note: note.to_owned(),
    }
}

impl Pod {
    fn tell(&self) {
        let kubernetes = self.kubernetes.clone();
        self.runtime.spawn(async move { kubernetes.tell().await });
    }

    fn event(&self, note: &str) -> Value {
        self.server.wait_for("the Event", |server| {
            server
                .events()
                .into_iter()
                .find(|event| event["note"] == note)
        })
    }

    fn waits_for_metric(&self, name: &str, value: f64) {
        self.server
            .wait_for(name, |_| (self.metric(name) == Some(value)).then_some(()));
    }
}

#[test]
fn an_event_says_what_happened_to_whom() {
    let pod = Pod::new(3);
    pod.tell();
    pod.kubernetes.record(refused("no"));
    let event = pod.event("no");
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["reason"], "SwapRefused");
    assert_eq!(event["regarding"]["kind"], "Pod");
    assert_eq!(event["regarding"]["name"], "shard-0");
    assert_eq!(
        event["regarding"]["uid"],
        "11111111-0000-0000-0000-000000000000"
    );
    assert_eq!(event["reportingInstance"], "shard-0");

    pod.kubernetes.record(Event {
        kind: Kind::ShardsMissing,
        note: "missing".to_owned(),
    });
    let event = pod.event("missing");
    assert_eq!(
        (&event["type"], &event["regarding"]["kind"]),
        (&"Warning".into(), &"StatefulSet".into())
    );
    pod.kubernetes.record(Event {
        kind: Kind::ReshardingDone,
        note: "done".to_owned(),
    });
    let event = pod.event("done");
    assert_eq!(
        (&event["type"], &event["reason"]),
        (&"Normal".into(), &"ReshardingDone".into())
    );
    assert_eq!(event["regarding"]["kind"], "StatefulSet");
    assert_eq!(event["regarding"]["name"], SET);
    assert_eq!(
        event["regarding"]["uid"],
        "00000000-0000-0000-0000-000000000001"
    );
    pod.waits_for_metric("ostrakon_kubernetes_events_posted_total", 3.0);

    // A note that is too long.
    pod.kubernetes.record(refused(&"x".repeat(5000)));
    pod.event(&format!("{}...", "x".repeat(1021)));
}

#[test]
fn repeats_are_counted_in_one_event_while_it_is_there() {
    let pod = Pod::new(3);
    pod.tell();
    for _ in 0..3 {
        pod.kubernetes.record(refused("no"));
    }
    pod.server.wait_for("the series", |server| {
        let count = server.events().first()?["series"]["count"].as_i64();
        (count == Some(3)).then_some(())
    });
    assert_eq!(pod.server.events().len(), 1);
    pod.server
        .change(ostrakon_test_support::api_server::World::forget_events);
    pod.kubernetes.record(refused("no"));
    assert!(pod.event("no")["series"].is_null());
}

#[test]
fn many_are_bounded_and_who_says_them_never_waits() {
    let pod = Pod::new(3);
    for number in 0..1000 {
        pod.kubernetes.record(refused(&number.to_string()));
    }
    pod.waits_for_metric("ostrakon_kubernetes_events_dropped_total", 1000.0 - 64.0);
    pod.tell();
    pod.waits_for_metric("ostrakon_kubernetes_events_dropped_total", 1000.0 - 20.0);
    assert_eq!(pod.server.events().len(), 20);
}

#[test]
fn what_the_role_does_not_allow_is_said_and_dropped() {
    let pod = Pod::new(3);
    let rules = pod.server.change(|world| std::mem::take(&mut world.rules));
    pod.tell();
    for number in 0..3 {
        pod.kubernetes.record(refused(&number.to_string()));
    }
    pod.waits_for_metric("ostrakon_kubernetes_events_dropped_total", 3.0);
    assert_eq!(
        pod.asked("create"),
        3,
        "a forbidden request must not be retried"
    );
    let problem = pod.kubernetes.status().events_problem.unwrap();
    assert!(
        problem.contains("create and patch events.events.k8s.io"),
        "{problem}"
    );
    pod.server.change(|world| world.rules = rules);
    pod.kubernetes.record(refused("allowed"));
    pod.event("allowed");
    pod.server.wait_for("no problem", |_| {
        pod.kubernetes
            .status()
            .events_problem
            .is_none()
            .then_some(())
    });
}

#[test]
fn a_server_that_is_away_is_tried_some_times() {
    let pod = Pod::new(3);
    pod.tell();
    pod.server.fail(|faults| faults.refuse = Some(503));
    pod.kubernetes.record(refused("lost"));
    pod.waits_for_metric("ostrakon_kubernetes_events_dropped_total", 1.0);
    assert_eq!(pod.asked("create"), 3);
    pod.server.fail(|faults| faults.is_silent = true);
    pod.kubernetes.record(refused("lost, too"));
    pod.waits_for_metric("ostrakon_kubernetes_events_dropped_total", 2.0);
    pod.server
        .fail(|faults| *faults = ostrakon_test_support::api_server::Faults::default());
    pod.kubernetes.record(refused("told"));
    pod.event("told");
    assert_eq!(pod.server.events().len(), 1);
}
