//! The text formats for metrics, and the choice between them by a client's `accept` header.

use std::fmt::Write as _;

/// A text format for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus' text format 0.0.4, which every reader of metrics understands.
    Text,
    /// `OpenMetrics` 1.0, which Prometheus prefers.
    OpenMetrics,
}

impl Exposition {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The format to use for a request's `accept` headers: `OpenMetrics` if it is named and
    /// preferred at least as much as text, otherwise text, even if neither is accepted.
    pub fn accepted<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let mut open = Liking::default();
        let mut text = Liking::default();
        for range in accept.into_iter().flat_map(|value| value.split(',')) {
            let Some(range) = Range::parse(range) else {
                continue;
            };
            match (&*range.kind, range.version) {
                ("application/openmetrics-text", None | Some("1.0.0" | "0.0.1")) => {
                    open.named(range.weight);
                }
                ("text/plain", None | Some("0.0.4")) => text.named(range.weight),
                ("text/*" | "*/*", _) => text.met(range.weight),
                _ => {}
            }
        }
        match open.named {
            Some(weight) if weight > 0.0 && weight >= text.weight() => Self::OpenMetrics,
            _ => Self::Text,
        }
    }
}

/// A client's preference for a media type: the highest that its headers state.
#[derive(Default)]
struct Liking {
    named: Option<f32>,
    /// The preference from a range that includes the type. It counts only if the type itself is
    /// not named.
    met: Option<f32>,
}

impl Liking {
    fn named(&mut self, weight: f32) {
        self.named = Some(self.named.map_or(weight, |before| before.max(weight)));
    }

    fn met(&mut self, weight: f32) {
        self.met = Some(self.met.map_or(weight, |before| before.max(weight)));
    }

    fn weight(&self) -> f32 {
        self.named.or(self.met).unwrap_or(0.0)
    }
}

/// One of the media ranges in an `accept` header (RFC 9110, 12.5.1).
struct Range<'a> {
    kind: String,
    version: Option<&'a str>,
    weight: f32,
}

impl<'a> Range<'a> {
    /// Returns `None` if the text is not a media range.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let mut range = Self {
            kind: parts.next()?.to_ascii_lowercase(),
            version: None,
            weight: 1.0,
        };
        for parameter in parts {
            let (name, value) = parameter.split_once('=')?;
            let value = value.trim().trim_matches('"');
            match name.trim() {
                "q" | "Q" => {
                    let weight = value.parse().ok()?;
                    range.weight = (0.0..=1.0).contains(&weight).then_some(weight)?;
                }
                "version" => range.version = Some(value),
                _ => {}
            }
        }
        Some(range)
    }
}

/// Converts `OpenMetrics` text, as the registry writes it, to Prometheus' text format. In that
/// format a family of counters has the name of its samples, and there are fewer types, no units
/// and no end mark.
///
/// The registry writes no exemplars, timestamps or `_created` samples, which would have to be
/// removed, too.
pub(super) fn text_of(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    // A family's help precedes its type, which determines its name.
    let mut help = "";
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match [(); 4].map(|()| words.next().unwrap_or_default()) {
            ["#", "HELP", _, said] => help = said,
            ["#", "TYPE", family, kind] => {
                let (ending, kind) = match kind {
                    "counter" => ("_total", kind),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    _ => ("", kind),
                };
                let declared = writeln!(
                    text,
                    "# HELP {family}{ending} {help}\n# TYPE {family}{ending} {kind}"
                );
                debug_assert!(declared.is_ok(), "writing to a string does not fail");
            }
            ["#", ..] => {}
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_the_format_it_asks_for_and_text_where_it_does_not_say() {
        use Exposition::{OpenMetrics, Text};
        // The headers that Prometheus 2.53 and 3.5, curl, browsers and the Datadog agent send are
        // among these.
        for (accept, format) in [
            (&[][..], Text),
            (&["*/*"], Text),
            (&["text/plain"], Text),
            (&["text/plain; version=0.0.4"], Text),
            (
                &["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
                Text,
            ),
            (
                &["application/openmetrics-text; version=1.0.0; charset=utf-8"],
                OpenMetrics,
            ),
            (&["Application/OpenMetrics-Text"], OpenMetrics),
            (
                &[
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ],
                OpenMetrics,
            ),
            (
                &[
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                ],
                OpenMetrics,
            ),
            (
                &["text/plain;q=0.5", "application/openmetrics-text"],
                OpenMetrics,
            ),
            (&["application/openmetrics-text;q=0.5", "text/plain"], Text),
            (&["application/openmetrics-text;q=0.5, */*"], Text),
            (
                &["application/openmetrics-text;q=0.5, text/*;q=0.4"],
                OpenMetrics,
            ),
            (
                &["application/openmetrics-text;q=0.5, text/plain;q=0.1, */*"],
                OpenMetrics,
            ),
            (&["application/openmetrics-text;q=0"], Text),
            (
                &["text/plain;q=0, application/openmetrics-text;q=0.001"],
                OpenMetrics,
            ),
            (&["application/openmetrics-text; version=2.0.0"], Text),
            (
                &["application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily"],
                Text,
            ),
            (&["application/json"], Text),
            (&["application/openmetrics-text;q=2", ";;q", "q=,"], Text),
        ] {
            assert_eq!(
                Exposition::accepted(accept.iter().copied()),
                format,
                "{accept:?}"
            );
        }
    }

    #[test]
    fn what_open_metrics_says_otherwise_is_said_as_prometheus_does() {
        let open = "# HELP a Of all kinds.\n# TYPE a counter\na_total{x=\"# TYPE b info\"} 1\n\
                    # HELP b_seconds # B.\n# TYPE b_seconds histogram\n# UNIT b_seconds seconds\n\
                    b_seconds_sum 0.0\nb_seconds_count 0\nb_seconds_bucket{le=\"+Inf\"} 0\n\
                    # HELP c C.\n# TYPE c info\nc_info{v=\"1\"} 1\n\
                    # HELP d D.\n# TYPE d unknown\nd 1\n# HELP e E.\n# TYPE e gauge\ne 1\n# EOF\n";
        let text = "# HELP a_total Of all kinds.\n# TYPE a_total counter\na_total{x=\"# TYPE b info\"} 1\n\
                    # HELP b_seconds # B.\n# TYPE b_seconds histogram\n\
                    b_seconds_sum 0.0\nb_seconds_count 0\nb_seconds_bucket{le=\"+Inf\"} 0\n\
                    # HELP c_info C.\n# TYPE c_info gauge\nc_info{v=\"1\"} 1\n\
                    # HELP d D.\n# TYPE d untyped\nd 1\n# HELP e E.\n# TYPE e gauge\ne 1\n";
        assert_eq!(text_of(open), text);
    }
}
