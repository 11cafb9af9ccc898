//! Accepted settings, rejected settings, and the messages.

use std::collections::BTreeSet;

use ostrakon_test_support::pages::{code, rows};

use super::*;

#[track_caller]
fn refused(text: &str, expected: &str) {
    let message = Settings::parse(text)
        .expect_err("must be refused")
        .to_string();
    assert_eq!(message, expected);
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(Settings::parse("").unwrap(), Settings::default());
}

#[test]
fn sizes_are_text_or_bytes_and_times_are_text() {
    let settings = Settings::parse(
        "http.max_body_bytes = '2MiB'\nstore.max_value_bytes = 4096\n\
         guest.read_deadline = '1m 30s'\nlog.filter = 'ostrakon=debug,warn'",
    )
    .unwrap();
    assert_eq!(settings.http.max_body_bytes, 2 << 20);
    assert_eq!(settings.store.max_value_bytes, 4096);
    assert_eq!(settings.guest.read_deadline, Duration::from_secs(90));
    assert_eq!(settings.log.filter.as_deref(), Some("ostrakon=debug,warn"));
}

#[test]
fn an_unknown_field_or_section_is_named_with_its_line() {
    refused(
        "[writer]\nmax_wait = '1s'\nmax_wiat = '2s'\n",
        "ostrakon.toml, line 3: unknown field `max_wiat`, expected one of `max_waiting`, `max_wait`, `max_group`",
    );
    refused(
        "[writers]\n",
        "ostrakon.toml, line 1: unknown field `writers`, expected one of `http`, `guest`, `store`, `writer`, `drain`, `log`, `cluster`, `rollout`, `rehearsal`",
    );
}

#[test]
fn what_is_not_toml_is_one_line() {
    let message = Settings::parse("a = 1\n= 2")
        .expect_err("must be refused")
        .to_string();
    assert!(message.starts_with("ostrakon.toml, line 2: "), "{message}");
    assert!(!message.contains('\n'), "{message}");
}

#[test]
fn a_value_outside_its_bounds_is_shown_with_them() {
    refused(
        "http.max_connections = 0",
        "http.max_connections is 0; it must be 1 to 1000000",
    );
    refused(
        "http.max_header_bytes = 8191",
        "http.max_header_bytes is 8191 bytes; it must be 8KiB to 1MiB",
    );
    refused(
        "writer.max_wait = '2h'",
        "writer.max_wait is 2h; it must be 1ms to 1h",
    );
    refused(
        "writer.max_wait = '0s'",
        "writer.max_wait is 0s; it must be 1ms to 1h",
    );
    refused(
        "guest.max_memory = '8GiB'",
        "guest.max_memory is 8GiB; it must be 1MiB to 4GiB",
    );
}

#[test]
fn values_that_contradict_each_other_are_both_shown() {
    refused(
        "guest.read_budget = '2s'",
        "guest.read_budget is 2s; it must not be above guest.read_deadline, which is 1s",
    );
    refused(
        "store.max_value_bytes = '32MiB'",
        "store.max_value_bytes is 32MiB; it must not be above store.max_partition_bytes, which is 16MiB",
    );
    refused(
        "cluster.shards = 2\nstore.max_partition_bytes = '17MiB'",
        "store.max_partition_bytes is 17MiB; it must not be above the limit for moving to another shard, which is 16MiB",
    );
    refused(
        "cluster.topology = 'statefulset'\nstore.max_partition_bytes = '17MiB'",
        "store.max_partition_bytes is 17MiB; it must not be above the limit for moving to another shard, which is 16MiB",
    );
    refused(
        "guest.max_memory = '4MiB'",
        "http.max_body_bytes is 8MiB; it must not be above guest.max_memory, which is 4MiB",
    );
    refused(
        "http.max_replies_bytes = '1MiB'",
        "guest.max_reply_bytes is 9MiB; it must not be above http.max_replies_bytes, which is 1MiB",
    );
    refused(
        "http.max_bodies_bytes = '1MiB'",
        "http.max_body_bytes is 8MiB; it must not be above http.max_bodies_bytes, which is 1MiB",
    );
    refused(
        "drain.serve_for = '25s'",
        "drain.serve_for is 25s; it must be below drain.deadline, which is 25s",
    );
}

#[test]
fn clients_are_redirected_only_to_where_shards_are() {
    let parse = |url: &str| {
        let cluster = format!("[cluster]\nrouting = 'redirect'\npublic_url = '{url}'");
        Settings::parse(&cluster)
    };
    for url in [
        "http://kv-{}.kv.default.svc:8080",
        "https://10.0.0.{1}",
        "http://[::{1}]:80",
    ] {
        let settings = parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(settings.cluster.routing, Routing::Redirect);
        let of_0 = url.replace("{}", "0").replace("{1}", "1");
        let public_url = settings.cluster.public_url.expect("it is set");
        assert_eq!(public_url.of(ostrakon_protocol::Ordinal(0)), of_0);
    }
    for url in [
        "kv-{}:8080",
        "ftp://kv-{}",
        "http://kv-{}/",
        "http://kv-{}/kv",
        "http://kv/{}",
        "http://kv-{}?a=b",
        "http://kv-{}#a",
        "http://you@kv-{}",
        "http://kv {}",
        "http://:80{}",
    ] {
        let refused = parse(url).expect_err(url).to_string();
        let start = format!("cluster.public_url is {url:?}; write http:// or https://, a host");
        assert!(refused.starts_with(&start), "{refused}");
    }
    let same = parse("http://kv:8080")
        .expect_err("all the same")
        .to_string();
    assert!(same.contains("the same for every shard"), "{same}");
    refused(
        "cluster.routing = 'redirect'",
        "cluster.routing is \"redirect\"; set cluster.public_url too, such as \"http://kv-{}.kv:8080\", where {} is the ordinal of the shard that clients are sent to",
    );
    refused(
        "cluster.routing = 'proxy'",
        "ostrakon.toml, line 1: unknown variant `proxy`, expected one of `forward`, `redirect`, `local`",
    );
    let local = Settings::parse("cluster.routing = 'local'").expect("needs no address");
    assert_eq!(local.cluster.routing, Routing::Local);
}

#[test]
fn the_number_of_shards_can_come_from_a_stateful_set() {
    let settings = Settings::parse("cluster.topology = 'statefulset'").unwrap();
    assert_eq!(settings.cluster.topology, Topology::StatefulSet);
    refused(
        "cluster.topology = 'deployment'",
        "ostrakon.toml, line 1: unknown variant `deployment`, expected `settings` or `statefulset`",
    );
}

#[test]
fn a_log_filter_that_cannot_be_read_is_refused() {
    refused(
        "log.filter = 'ostrakon=loud=x'",
        "log.filter: \"ostrakon=loud=x\" is not a log filter: write a level, or target=level pairs with commas between",
    );
    refused(
        "log.filter = 'inof'",
        "log.filter: \"inof\" in \"inof\" is none of the levels off, error, warn, info, debug and trace: write a target with its level, as in inof=trace",
    );
}

/// The names that the parser lists when it meets an unknown one.
fn known(unknown: &str) -> Vec<String> {
    let error = Settings::parse(unknown).expect_err("it is no setting");
    let message = error.to_string();
    let (_, expected) = message
        .split_once("expected ")
        .unwrap_or_else(|| panic!("no list in: {message}"));
    let names = expected.split('`').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

/// All existing settings, such as `http.max_connections`.
fn all_settings() -> Vec<String> {
    let sections = known("no-such-section = 0");
    let settings = sections.iter().flat_map(|section| {
        let settings = known(&format!("{section}.no-such-setting = 0"));
        settings
            .into_iter()
            .map(move |name| format!("{section}.{name}"))
    });
    settings.collect()
}

/// The rows of the table of settings in host/README.md: name and default.
fn documented() -> Vec<(String, String)> {
    let readme = include_str!("../../../README.md");
    let rows = rows(readme, "| setting | default |").into_iter();
    rows.map(|row| (row[0].trim_matches('`').to_owned(), row[1].to_owned()))
        .collect()
}

#[test]
fn the_reference_has_exactly_the_settings_that_the_parser_knows() {
    let mut documented: Vec<_> = documented().into_iter().map(|(name, _)| name).collect();
    let mut all = all_settings();
    documented.sort_unstable();
    all.sort_unstable();
    assert!(all.len() > 30, "{all:?}");
    assert_eq!(documented, all, "host/README.md and the settings differ");
}

/// The values that the parser lists when it meets an unknown one.
fn values(setting: &str) -> BTreeSet<String> {
    let known = known(&format!("{setting} = 'no-such-value'"));
    known.into_iter().collect()
}

#[test]
fn the_reference_has_exactly_the_values_of_each_setting_that_is_a_choice() {
    let readme = include_str!("../../../README.md");
    let routing = rows(readme, "| value | what happens |");
    let shown = routing.iter().flat_map(|row| code(row[0]));
    let shown: BTreeSet<_> = shown.map(str::to_owned).collect();
    assert_eq!(shown, values("cluster.routing"), "host/README.md");
    let topology = rows(readme, "| setting | default |")
        .into_iter()
        .find(|row| row[0] == "`cluster.topology`");
    let topology = topology.expect("the setting has a row");
    let shown = code(topology[2]).filter(|span| !span.contains(['.', '-']));
    let shown: BTreeSet<_> = shown.map(str::to_owned).collect();
    assert_eq!(shown, values("cluster.topology"), "host/README.md");
}

/// A file with all rows has the same meaning as an empty one.
#[test]
fn the_reference_shows_the_default_of_each_setting() {
    let defaults = format!("{:?}", Settings::default());
    let mut all = String::new();
    for (name, default) in documented() {
        if default == "none" {
            let (_, field) = name.split_once('.').expect("a section and a name");
            let is_none = |none: &str| defaults.contains(&format!("{field}: {none}"));
            assert!(is_none("None") || is_none("[]"), "{name}");
            continue;
        }
        let is_list = default.starts_with('[');
        let is_word =
            !is_list && default.parse::<u64>().is_err() && default.parse::<bool>().is_err();
        let value = if is_word {
            format!("{default:?}")
        } else {
            default
        };
        all.extend([name.as_str(), " = ", &value, "\n"]);
    }
    let shown = Settings::parse(&all).expect("what host/README.md shows can be read");
    assert_eq!(shown, Settings::default());
}
