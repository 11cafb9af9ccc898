//! What is taken, what is refused, and in which words.

use super::*;

/// The table that users are given.
const DEFAULTS: &str = r#"
    [http]
    max_connections = 10000
    max_header_bytes = "32KiB"
    max_heads_bytes = "64MiB"
    max_body_bytes = "8MiB"
    max_bodies_bytes = "256MiB"
    max_replies_bytes = "256MiB"
    header_timeout = "10s"
    body_timeout = "30s"
    idle_timeout = "75s"

    [guest]
    max_memory = "64MiB"
    read_budget = "2ms"
    read_deadline = "1s"
    write_deadline = "250ms"
    check_deadline = "5s"
    migrate_deadline = "60s"
    max_reply_bytes = "9MiB"
    max_requests_per_instance = 1000000
    log_lines_per_second = 100
    compile_memory = "1GiB"
    compile_cpu = "2m"
    compile_deadline = "5m"

    [store]
    max_partition_key_bytes = 1024
    max_key_bytes = 1024
    max_value_bytes = "9MiB"
    max_partition_bytes = "16MiB"

    [lane]
    max_waiting = 4096
    max_wait = "10s"
    max_group = 1024

    [drain]
    serve_for = "0s"
    deadline = "25s"

    [cluster]
    topology = "settings"
    shards = 1
    max_wait = "10s"
    routing = "forward"

    [log]
"#;

#[track_caller]
fn refused(text: &str, expected: &str) {
    let message = Settings::parse(text)
        .expect_err("must be refused")
        .to_string();
    assert_eq!(message, expected);
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    assert_eq!(Settings::parse(DEFAULTS).unwrap(), Settings::default());
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
        "[lane]\nmax_wait = '1s'\nmax_wiat = '2s'\n",
        "ostrakon.toml, line 3: unknown field `max_wiat`, expected one of `max_waiting`, `max_wait`, `max_group`",
    );
    refused(
        "[lanes]\n",
        "ostrakon.toml, line 1: unknown field `lanes`, expected one of `http`, `guest`, `store`, `lane`, `drain`, `log`, `cluster`",
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
        "lane.max_wait = '2h'",
        "lane.max_wait is 2h; it must be 1ms to 1h",
    );
    refused(
        "lane.max_wait = '0s'",
        "lane.max_wait is 0s; it must be 1ms to 1h",
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
        "store.max_partition_bytes is 17MiB; it must not be above what can move to another shard, which is 16MiB",
    );
    refused(
        "cluster.topology = 'statefulset'\nstore.max_partition_bytes = '17MiB'",
        "store.max_partition_bytes is 17MiB; it must not be above what can move to another shard, which is 16MiB",
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

/// README's table has a row for each setting, with the default of it.
#[test]
fn the_readme_shows_each_setting_with_its_default() {
    let readme = include_str!("../../../../README.md");
    let defaults: toml::Table = DEFAULTS.parse().unwrap();
    for (section, settings) in &defaults {
        for (name, value) in settings.as_table().unwrap() {
            let row = format!("| `{section}.{name}` |");
            let line = readme.lines().find(|line| line.starts_with(&row));
            let line = line.unwrap_or_else(|| panic!("README has no {row}"));
            let shown = line.split('|').nth(2).unwrap().trim();
            let number = || value.as_integer().expect("text or a number").to_string();
            let value = value.as_str().map_or_else(number, str::to_owned);
            let size = |text: &str| text.parse::<ByteSize>().map(|size| size.as_u64()).ok();
            let same = shown == value || (size(shown).is_some() && size(shown) == size(&value));
            assert!(same, "README: {line}; default: {value}");
        }
    }
}
