//! The alert rules and the dashboard use only metrics that exist. Each alert fires when it should,
//! and says what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use ostrakon_test_support::tools::{output, tool};
use ostrakon_tests::manifests::{Deploy, objects, repository, the};
use serde_json::{Value, json};

/// Labels that Prometheus and its operator add.
const LABELS: [&str; 5] = ["namespace", "job", "pod", "instance", "le"];
const NOT_OURS: [&str; 1] = ["up"];

/// The metrics and labels in host/README.md. A test of the host compares that list with the code.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let readme = fs::read_to_string(repository().join("host/README.md")).unwrap();
    let rows = readme
        .lines()
        .filter(|line| line.starts_with("| `ostrakon_"));
    let mut metrics = BTreeMap::<_, BTreeSet<_>>::new();
    for row in rows {
        let cells: Vec<_> = row.split('|').collect();
        let spans = |text: &str| -> Vec<String> {
            let spans = text.split('`').skip(1).step_by(2);
            spans.map(str::to_owned).collect()
        };
        let labels: BTreeSet<_> = spans(cells[3]).into_iter().collect();
        for name in spans(cells[1]) {
            metrics.entry(name).or_default().extend(labels.clone());
        }
    }
    assert!(metrics.len() > 20, "{metrics:?}");
    metrics
}

/// Checks the names in a query: metrics, and labels in selectors and aggregations.
fn check_names(query: &str, metrics: &BTreeMap<String, BTreeSet<String>>) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = 0;
    let mut labels: BTreeSet<_> = LABELS.into_iter().map(str::to_owned).collect();
    for word in query.split(|c: char| !is_word(c)) {
        if !word.starts_with("ostrakon_") {
            found += usize::from(NOT_OURS.contains(&word));
            continue;
        }
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| word.strip_suffix(suffix))
            .filter(|base| metrics.contains_key(*base));
        let of = metrics.get(base.unwrap_or(word));
        labels.extend(
            of.unwrap_or_else(|| panic!("there is no {word}: {query}"))
                .clone(),
        );
        found += 1;
    }
    assert!(found > 0, "{query} uses no metric");
    // Names before a comparison in braces, and lists in parentheses after `by` and `on`.
    let mut used = Vec::new();
    for braces in query.split('{').skip(1) {
        let inside = braces.split('}').next().unwrap();
        used.extend(
            inside
                .split(',')
                .map(|one| one.split(['=', '!']).next().unwrap().trim()),
        );
    }
    for list in query
        .split(" by (")
        .skip(1)
        .chain(query.split(" on (").skip(1))
    {
        used.extend(list.split(')').next().unwrap().split(',').map(str::trim));
    }
    for label in used {
        assert!(
            labels.contains(label),
            "the metric has no label {label}: {query}"
        );
    }
}

/// The alert rules, as Prometheus itself reads them.
fn rules() -> Value {
    let path = repository().join("deploy/components/monitoring/prometheusrule.yaml");
    objects(&fs::read_to_string(path).unwrap())[0]["spec"].clone()
}

fn alerts() -> Vec<Value> {
    let groups = rules()["groups"].as_array().unwrap().clone();
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap().clone());
    rules.collect()
}

fn dashboard() -> Value {
    let path = repository().join("deploy/components/monitoring/dashboard.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Each panel's title and query, including those of annotations and variables.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut queries = Vec::new();
    for panel in list(&dashboard["panels"]) {
        for target in list(&panel["targets"]) {
            queries.push((text(&panel["title"]), text(&target["expr"])));
        }
    }
    for annotation in list(&dashboard["annotations"]["list"]) {
        queries.push((text(&annotation["name"]), text(&annotation["expr"])));
    }
    for variable in list(&dashboard["templating"]["list"]) {
        if let Some(of) = text(&variable["definition"]).strip_prefix("label_values(") {
            let (series, label) = of.trim_end_matches(')').rsplit_once(", ").unwrap();
            let name = text(&variable["name"]);
            queries.push((name, format!("count by ({label}) ({series})")));
        }
    }
    queries
}

fn check_rules(directory: &Path, rules: &Value) {
    let path = directory.join("rules.json");
    fs::write(&path, rules.to_string()).unwrap();
    output(
        tool("promtool")
            .args(["check", "rules", "--lint=all", "--lint-fatal"])
            .arg(path),
    );
}

#[test]
fn every_alert_names_metrics_that_there_are_and_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    check_rules(directory.path(), &rules());
    let metrics = metrics();
    let mut names = BTreeSet::new();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        check_names(alert["expr"].as_str().unwrap(), &metrics);
        assert!(names.insert(name.to_owned()), "there are two alerts {name}");
        assert!(name.starts_with("Ostrakon"), "{name}");
        let annotation = |key: &str| alert["annotations"][key].as_str().unwrap_or_default();
        assert!(annotation("summary").len() > 20, "{name}");
        assert!(
            annotation("description").len() > 100,
            "the description of {name} is too short to say what to do"
        );
        let severity = &alert["labels"]["severity"];
        assert!(
            ["critical", "warning"].iter().any(|one| severity == one),
            "{name}"
        );
    }
    println!("{} alerts", names.len());
}

/// The runbook in deploy/README.md has a heading for each alert, in the rules' order, and each
/// alert links to its own.
#[test]
fn every_alert_has_its_heading_in_the_runbook() {
    let readme = fs::read_to_string(repository().join("deploy/README.md")).unwrap();
    let headings = readme.lines().filter_map(|line| line.strip_prefix("### "));
    let headings: Vec<_> = headings
        .filter(|heading| heading.starts_with("Ostrakon"))
        .collect();
    let alerts = alerts();
    let name = |alert: &Value| alert["alert"].as_str().unwrap().to_owned();
    let names: Vec<_> = alerts.iter().map(name).collect();
    assert_eq!(headings, names);
    for alert in &alerts {
        let url = alert["annotations"]["runbook_url"].as_str().unwrap();
        let end = format!("/deploy/README.md#{}", name(alert).to_lowercase());
        assert!(url.ends_with(&end), "{url}");
    }
}

/// For each alert, `alerts.yaml` has data that makes it fire and data that does not.
#[test]
fn each_alert_comes_when_it_should_and_not_before() {
    let directory = tempfile::tempdir().unwrap();
    // Annotations are not compared: promtool would need all of them written twice.
    let mut silent = rules();
    for rule in silent["groups"][0]["rules"].as_array_mut().unwrap() {
        rule.as_object_mut().unwrap().remove("annotations");
    }
    check_rules(directory.path(), &silent);
    let cases = repository().join("tests/tests/alerts.yaml");
    let cases = fs::read_to_string(cases).unwrap();
    let parsed = &objects(&cases)[0];
    let tests = parsed["tests"].as_array().unwrap();
    for alert in alerts() {
        let firing = |expected: bool| {
            tests.iter().any(|test| {
                test["alert_rule_test"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|rule| {
                        let empty = rule["exp_alerts"].as_array().is_none_or(Vec::is_empty);
                        rule["alertname"] == alert["alert"] && empty != expected
                    })
            })
        };
        assert!(
            firing(true) && firing(false),
            "{} needs a case in which it fires and one in which it does not",
            alert["alert"]
        );
    }
    fs::write(directory.path().join("alerts.yaml"), &cases).unwrap();
    let mut promtool = tool("promtool");
    promtool
        .current_dir(directory.path())
        .args(["test", "rules", "alerts.yaml"]);
    output(&mut promtool);
    println!("{} cases", tests.len());
}

#[test]
fn every_panel_of_the_dashboard_asks_for_metrics_that_there_are() {
    let directory = tempfile::tempdir().unwrap();
    let (dashboard, metrics) = (dashboard(), metrics());
    let queries = queries(&dashboard);
    let mut rules = Vec::new();
    for (number, (title, query)) in queries.iter().enumerate() {
        let query = query.replace("$__rate_interval", "5m");
        check_names(&query, &metrics);
        assert!(!title.is_empty());
        rules.push(json!({ "record": format!("panel:number:{number}"), "expr": query }));
    }
    // Prometheus itself parses the queries.
    let group = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    check_rules(directory.path(), &group);
    let mut ids = BTreeSet::new();
    let panels = dashboard["panels"].as_array().unwrap();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let is_row = panel["type"] == "row";
        assert!(
            is_row
                || panel["description"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty())
        );
        let place = &panel["gridPos"];
        assert!(
            place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24,
            "{panel}"
        );
    }
    // Prints the metrics that no panel shows.
    let all: String = queries.iter().map(|(_, query)| query.as_str()).collect();
    let unseen: Vec<_> = metrics
        .keys()
        .filter(|name| !all.contains(name.as_str()))
        .collect();
    println!(
        "{} panels, {} queries; metrics that no panel uses: {unseen:?}",
        panels.len(),
        queries.len()
    );
}

#[test]
fn the_operators_find_the_ports_rules_and_dashboard() {
    let deploy = Deploy::new();
    deploy.add("watched", "disk", &["monitoring"]);
    let objects = deploy.render("watched");
    let monitor = &the(&objects, "ServiceMonitor", "server")["spec"];
    let service = the(&objects, "Service", "server-peers");
    for (label, value) in monitor["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&service["metadata"]["labels"][label], value);
    }
    // Only one of the two Services is scraped; otherwise each shard would be counted twice.
    let clients = &the(&objects, "Service", "server")["metadata"]["labels"];
    assert!(clients["app.kubernetes.io/component"].is_null());
    let endpoint = &monitor["endpoints"][0];
    let ports = service["spec"]["ports"].as_array().unwrap();
    assert!(ports.iter().any(|port| port["name"] == endpoint["port"]));
    assert_eq!(
        (&endpoint["port"], &endpoint["path"]),
        (&json!("admin"), &json!("/metrics"))
    );
    let map = the(&objects, "ConfigMap", "server-dashboard");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let text = map["data"]["ostrakon.json"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), dashboard());
}
