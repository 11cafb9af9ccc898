//! Events of the group `events.k8s.io`, and the API server's rules for them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::NAMESPACE;
use super::refusal::Refusal;

/// The Events that were posted, by name.
#[derive(Debug, Default)]
pub(super) struct Events(BTreeMap<String, Value>);

const FIELDS: [&str; 11] = [
    "apiVersion",
    "kind",
    "metadata",
    "eventTime",
    "reportingController",
    "reportingInstance",
    "action",
    "reason",
    "type",
    "note",
    "regarding",
];

impl Events {
    pub(super) fn all(&self) -> impl Iterator<Item = &Value> {
        self.0.values()
    }

    pub(super) fn add(&mut self, event: Value) -> Result<Value, Refusal> {
        let name = text(&event["metadata"], "name")?.to_owned();
        if self.0.contains_key(&name) {
            let message = format!("events.events.k8s.io \"{name}\" already exists");
            return Err(Refusal::new(409, message));
        }
        self.0.insert(name, event.clone());
        Ok(event)
    }

    /// Merges a patch, which may contain the count of occurrences and the time of the last one.
    pub(super) fn patch(&mut self, name: &str, patch: &Value) -> Result<Value, Refusal> {
        let Some(event) = self.0.get_mut(name) else {
            let message = format!("events.events.k8s.io \"{name}\" not found");
            return Err(Refusal::new(404, message));
        };
        let fields = patch.as_object().ok_or_else(|| invalid("patch"))?;
        if let Some(other) = fields.keys().find(|field| *field != "series") {
            return Err(invalid(&format!("{other}: field is immutable")));
        }
        let series = &patch["series"];
        if series["count"].as_i64().is_none_or(|count| count < 2) {
            return Err(invalid("series.count: should be at least 2"));
        }
        micro_time(series, "lastObservedTime")?;
        event["series"] = series.clone();
        Ok(event.clone())
    }
}

/// Checks a new Event as the API server does.
pub(super) fn valid(event: &Value) -> Result<(), Refusal> {
    let fields = event.as_object().ok_or_else(|| invalid("no object"))?;
    if let Some(other) = fields
        .keys()
        .find(|field| !FIELDS.contains(&field.as_str()))
    {
        return Err(Refusal::new(
            400,
            format!("unknown or deprecated field {other}"),
        ));
    }
    if event["apiVersion"] != "events.k8s.io/v1" || event["kind"] != "Event" {
        return Err(Refusal::new(400, "the kind does not match the path"));
    }
    if event["metadata"]["namespace"] != NAMESPACE {
        return Err(Refusal::new(
            400,
            "the namespace of the object does not match the request",
        ));
    }
    micro_time(event, "eventTime")?;
    for field in [
        "reportingController",
        "reportingInstance",
        "action",
        "reason",
    ] {
        if !(1..=128).contains(&text(event, field)?.len()) {
            return Err(invalid(&format!(
                "{field}: can have at most 128 characters"
            )));
        }
    }
    if text(event, "note")?.len() > 1024 {
        return Err(invalid("note: can have at most 1024 characters"));
    }
    if !matches!(text(event, "type")?, "Normal" | "Warning") {
        return Err(invalid("type: Normal or Warning"));
    }
    let regarding = &event["regarding"];
    for field in ["apiVersion", "kind", "name"] {
        text(regarding, field)?;
    }
    if regarding["namespace"] != NAMESPACE {
        return Err(invalid(
            "regarding.namespace: does not match event.namespace",
        ));
    }
    Ok(())
}

/// A time with exactly six digits after the second.
fn micro_time(of: &Value, field: &str) -> Result<(), Refusal> {
    let time = text(of, field)?;
    let digits = time.strip_suffix('Z').and_then(|time| time.split_once('.'));
    let is_micro = digits.is_some_and(|(second, digits)| {
        second.len() == "2026-11-21T08:00:00".len() && digits.len() == 6
    });
    if is_micro {
        Ok(())
    } else {
        Err(Refusal::new(400, format!("{field}: parsing time {time:?}")))
    }
}

fn text<'v>(of: &'v Value, field: &str) -> Result<&'v str, Refusal> {
    of[field]
        .as_str()
        .ok_or_else(|| invalid(&format!("{field}: required value")))
}

fn invalid(what: &str) -> Refusal {
    Refusal::new(422, format!("Event is invalid: {what}"))
}
