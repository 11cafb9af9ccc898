use std::io;
use std::sync::{Arc, Mutex};

use super::*;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A backlog whose lines nobody reads.
fn unread() -> Backlog {
    Backlog::start(MOST, io::pipe().expect("a pipe").1, |_| {}).expect("it starts")
}

#[test]
fn json_lines_have_their_fields_and_the_filter_changes_live() {
    let lines = Lines::default();
    let writer = lines.clone();
    let (layer, filter) = layer(Format::Json, "warn", 3, move || writer.clone()).unwrap();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        tracing::info!("unseen");
        assert_eq!(lines.take(), "");

        tracing::warn!(peer = 4, "seen");
        let line: serde_json::Value = serde_json::from_str(&lines.take()).unwrap();
        assert_eq!(
            (&line["level"], &line["shard"], &line["peer"]),
            (&"WARN".into(), &3.into(), &4.into())
        );
        assert_eq!(line["message"], "seen");

        filter.set("error,ostrakon=info").unwrap();
        tracing::info!("seen now");
        assert!(lines.take().contains("seen now"));

        let error = filter.set("ostrakon=loud").unwrap_err();
        assert!(error.to_string().contains("ostrakon=loud"), "{error}");
        tracing::info!("still seen");
        assert!(lines.take().contains("still seen"));
    });
}

/// The parser takes a word that is not a level for a target, and a filter with only a target
/// silences all others.
#[test]
fn a_misspelt_level_is_refused_and_the_rest_of_the_grammar_is_not() {
    for word in ["inof", "ostrakon", "warning"] {
        for filter in [word.to_owned(), format!("info, {word}")] {
            let error = check(&filter).unwrap_err().to_string();
            assert!(error.contains(&format!("{word}=trace")), "{error}");
        }
    }
    for filter in [
        "",
        "off",
        "INFO",
        "3",
        "warn,",
        "ostrakon_shard::writer=debug, warn",
        "guest=off",
        "info,[request{path=a}]=trace",
        "info,[request]",
    ] {
        check(filter).unwrap_or_else(|error| panic!("{filter:?}: {error}"));
    }
}

/// Our own lines report failures of the API server once, and say what to do. Its client library's
/// lines appear only on request.
#[test]
fn the_api_servers_client_is_silent_unless_it_is_named() {
    let logged = |directives| {
        let lines = Lines::default();
        let writer = lines.clone();
        let (layer, _) = layer(Format::Json, directives, 3, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::error!(target: "kube_client::client::builder", "failed");
        });
        lines.take()
    };
    assert_eq!(logged("trace"), "");
    assert!(logged("info,kube_client=warn").contains("failed"));
}

#[test]
fn people_get_a_line_without_colour_codes_where_there_is_no_terminal() {
    let lines = Lines::default();
    let writer = lines.clone();
    let (layer, _) = layer(Format::Human, "info", 3, move || writer.clone()).unwrap();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        tracing::info!(shard = 3, "hello");
    });
    let line = lines.take();
    assert!(
        line.contains("INFO") && line.contains("hello") && line.contains("shard"),
        "{line}"
    );
}

/// The fields of an event's line, which must be an object on one line.
fn logged(event: impl FnOnce()) -> serde_json::Map<String, serde_json::Value> {
    let lines = Lines::default();
    let writer = lines.clone();
    let (layer, _) = layer(Format::Json, "trace", 3, move || writer.clone()).unwrap();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), event);
    let line = lines.take();
    assert_eq!(line.matches('\n').count(), 1, "{line}");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[test]
fn each_line_has_the_same_fields_first_and_each_once() {
    let nothing: Option<u32> = None;
    let line = logged(|| {
        let error = io::Error::other("a \"reason\"\nin two lines");
        tracing::info!(
            target: "guest",
            %error,
            generation = 7_u64,
            ratio = 0.5,
            is_so = true,
            took = ?std::time::Duration::from_millis(5),
            nothing,
            shard = 9,
            level = "mine",
            "said {}",
            "so"
        );
    });
    let names: Vec<_> = line.keys().map(String::as_str).collect();
    let first = ["timestamp", "level", "shard", "target", "message"];
    let all: std::collections::BTreeSet<_> = names.iter().copied().collect();
    assert!(first.iter().all(|name| all.contains(name)), "{names:?}");
    assert!(!all.contains("nothing"), "{names:?}");
    let is = |name: &str, value: serde_json::Value| assert_eq!(line[name], value, "{name}");
    is("level", "INFO".into());
    is("shard", 3.into());
    is("target", "guest".into());
    is("message", "said so".into());
    is("error", "a \"reason\"\nin two lines".into());
    is("generation", 7.into());
    is("ratio", 0.5.into());
    is("is_so", true.into());
    is("took", "5ms".into());
    let time = line["timestamp"].as_str().unwrap();
    let form = "0000-00-00T00:00:00.000000Z";
    let digits = |text: &str| text.replace(|letter: char| letter.is_ascii_digit(), "0");
    assert_eq!(digits(time), form, "{time}");
}

#[test]
fn a_panic_is_one_line() {
    let before = std::panic::take_hook();
    let line = logged(|| {
        panics::log(unread());
        let caught = std::panic::catch_unwind(|| panic!("first\nsecond"));
        assert!(caught.is_err());
    });
    std::panic::set_hook(before);
    assert_eq!(line["level"], "ERROR");
    assert_eq!(line["panic"], "first\nsecond");
    assert!(line["place"].as_str().unwrap().contains("tests.rs:"));
}

/// Text with which a guest, a client or a peer may try to forge lines of the host.
const FORGED: &str = "well\r\n2026-11-21T08:00:00Z ERROR ostrakon: forged\u{85}a\u{2028}b\u{2029}c\0\x1b[2K\u{202e}dlo\u{2066}\u{200b}\u{9b}1A\x7f";

fn forge() {
    let error = io::Error::other(FORGED);
    tracing::info!(target: "guest", guest = %FORGED, error = &error as &dyn std::error::Error, "{FORGED}");
    tracing::warn!(quoted = FORGED, shown = ?FORGED, "none");
}

#[test]
fn nobody_elses_words_end_a_line_or_colour_it_in_any_format() {
    for format in [Format::Human, Format::Json] {
        let lines = Lines::default();
        let writer = lines.clone();
        let (layer, _) = layer(format, "trace", 3, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), forge);
        let text = lines.take();
        assert_eq!(text.lines().count(), 2, "{text:?}");
        let strange: Vec<char> = text
            .chars()
            .filter(|letter| *letter != '\n' && !ostrakon_base::printable::is_printable(*letter))
            .collect();
        assert!(strange.is_empty(), "{format:?}: {strange:?} in {text:?}");
        if format == Format::Json {
            let line: serde_json::Value =
                serde_json::from_str(text.lines().next().unwrap()).unwrap();
            for field in ["message", "guest", "error"] {
                assert_eq!(line[field], FORGED, "JSON must keep the text unchanged");
            }
        }
    }
}

#[test]
fn a_level_alone_is_that_of_our_own_lines() {
    let logged = |directives: &str| {
        let lines = Lines::default();
        let writer = lines.clone();
        let (layer, _) = layer(Format::Json, directives, 3, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::debug!(target: "ostrakon_shard::writer", "ours");
            tracing::debug!(target: "guest", "guest's");
            tracing::trace!(target: "ostrakon_shard::writer", "our trace");
            tracing::debug!(target: "cranelift_codegen::context", "theirs");
            tracing::info!(target: "wasmtime", "their info");
            tracing::debug!(target: "wasmtime::runtime", "named");
        });
        let text = lines.take();
        let lines = text.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["message"].as_str().unwrap().to_owned()
        });
        lines.collect::<Vec<_>>()
    };
    assert_eq!(logged("debug"), ["ours", "guest's", "their info"]);
    assert_eq!(
        logged("trace"),
        ["ours", "guest's", "our trace", "their info"]
    );
    assert_eq!(logged("info"), ["their info"]);
    assert_eq!(logged("warn"), [""; 0]);
    assert_eq!(logged("warn, debug"), ["ours", "guest's", "their info"]);
    assert_eq!(
        logged("debug,wasmtime=debug"),
        ["ours", "guest's", "their info", "named"]
    );
    assert_eq!(logged("debug,guest=off,wasmtime=off"), ["ours"]);
    assert_eq!(logged("debug,ostrakon=info"), ["guest's", "their info"]);
    assert_eq!(
        logged("debug,ostrakon_shard::writer=trace"),
        ["ours", "guest's", "our trace", "their info"]
    );
}

#[test]
fn the_last_line_is_as_the_others_are() {
    let error = "no\nsuch \u{202e}file";
    let line = Format::Json.last_line(Some(3), error);
    let (line, rest) = line.split_once('\n').expect("it ends");
    assert_eq!(rest, "");
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(
        (&line["level"], &line["shard"], &line["message"]),
        (&"ERROR".into(), &3.into(), &error.into())
    );
    assert_eq!(line["target"], "ostrakon_observe::telemetry");
    assert!(
        line["timestamp"]
            .as_str()
            .is_some_and(|at| at.ends_with('Z'))
    );
    let line = Format::Json.last_line(None, error);
    assert!(line.contains(r#""shard":null"#), "{line}");
    let line = Format::Human.last_line(Some(3), error);
    assert_eq!(line, "error: no\\nsuch \\u{202e}file\n");
}
