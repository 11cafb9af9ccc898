//! Requests to the API server, parsed as strictly as possible.

use std::collections::BTreeMap;

use hyper::Method;

use super::NAMESPACE;
use super::refusal::Refusal;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The verb: list, watch, create, patch.
    pub verb: &'static str,
    pub group: &'static str,
    /// In the plural, such as `statefulsets`.
    pub resource: &'static str,
    /// The object's name, where the request has one.
    pub name: Option<String>,
    /// The version to start from, where the request has one.
    pub version: Option<String>,
    /// The time limit in seconds, where the request has one.
    pub seconds: Option<u64>,
    pub bookmarks: bool,
}

impl Question {
    pub(super) fn new(method: &Method, path: &str, query: &str) -> Result<Self, Refusal> {
        let (group, rest) = Self::group(path)?;
        let mut query = parameters(query)?;
        let resource = match group {
            "apps" => "statefulsets",
            _ => "events",
        };
        let mut parts = rest.split('/');
        if parts.next() != Some(resource) {
            return Err(Refusal::new(
                404,
                "the server could not find the requested resource",
            ));
        }
        let named = parts.next().map(str::to_owned);
        if parts.next().is_some() {
            return Err(Refusal::new(
                404,
                "the server could not find the requested resource",
            ));
        }
        let is_watch = query
            .remove("watch")
            .is_some_and(|watch| watch == "true" || watch == "1");
        let is_collection = named.is_none();
        let verb = match (method.as_str(), is_collection) {
            ("GET", true) if is_watch => "watch",
            ("GET", true) => "list",
            ("GET", false) => "get",
            ("POST", true) => "create",
            ("PATCH", false) => "patch",
            _ => {
                return Err(Refusal::new(
                    405,
                    "the server does not allow this method on the requested resource",
                ));
            }
        };
        let mut question = Self {
            verb,
            group,
            resource,
            name: named,
            version: None,
            seconds: None,
            bookmarks: false,
        };
        question.take(query)?;
        Ok(question)
    }

    /// The API group, and the path after the namespace.
    fn group(path: &str) -> Result<(&'static str, &str), Refusal> {
        let groups = [
            ("apps", "/apis/apps/v1/"),
            ("events.k8s.io", "/apis/events.k8s.io/v1/"),
        ];
        let found = groups
            .into_iter()
            .find_map(|(group, prefix)| Some((group, path.strip_prefix(prefix)?)));
        let (group, rest) = found.ok_or_else(|| Refusal::new(404, "404 page not found"))?;
        let rest = rest
            .strip_prefix("namespaces/")
            .and_then(|rest| rest.strip_prefix(NAMESPACE)?.strip_prefix('/'));
        let rest = rest.ok_or_else(|| Refusal::new(403, "forbidden: another namespace"))?;
        Ok((group, rest))
    }

    fn take(&mut self, query: BTreeMap<String, String>) -> Result<(), Refusal> {
        let is_read = matches!(self.verb, "list" | "watch");
        for (name, value) in query {
            match name.as_str() {
                "fieldSelector" if is_read => self.name = Some(selected(&value)?),
                "resourceVersion" if self.verb == "watch" => self.version = Some(value),
                "timeoutSeconds" if is_read => {
                    let seconds = value.parse();
                    self.seconds = Some(seconds.map_err(|_| bad("timeoutSeconds"))?);
                }
                "allowWatchBookmarks" if self.verb == "watch" => self.bookmarks = value == "true",
                _ => return Err(bad(&name)),
            }
        }
        Ok(())
    }
}

/// The name in a field selector.
fn selected(selector: &str) -> Result<String, Refusal> {
    let (field, name) = selector
        .split_once('=')
        .ok_or_else(|| bad("fieldSelector"))?;
    if field != "metadata.name" {
        let message = format!("field label not supported: {field}");
        return Err(Refusal::new(400, message));
    }
    Ok(name.trim_start_matches('=').to_owned())
}

fn parameters(query: &str) -> Result<BTreeMap<String, String>, Refusal> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let decoded = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').ok_or_else(|| bad(pair))?;
        Ok((name.to_owned(), decoded(value)?))
    });
    decoded.collect()
}

/// Decodes percent-encoding.
fn decoded(value: &str) -> Result<String, Refusal> {
    let mut parts = value.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2).ok_or_else(|| bad(value))?;
        bytes.push(u8::from_str_radix(code, 16).map_err(|_| bad(value))?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).map_err(|_| bad(value))
}

fn bad(what: &str) -> Refusal {
    Refusal::new(400, format!("invalid parameter: {what}"))
}
