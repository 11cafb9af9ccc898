//! The operation that a request asks for.

use ostrakon_guest::{Error, RequestHead, Result, paths};

/// The operation that a request asks for. A `HEAD` of a read is a `GET` whose body the host omits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// `GET /save/<key>/<word>`: a write, though it is a `GET`.
    Save { key: String, word: String },
    /// `GET /load/<key>`
    Load { key: String },
    /// `GET /allKeys`: this shard's keys.
    AllKeys,
    /// `GET /keys`: the keys of all shards.
    Keys,
    /// `GET /kv/<key>`
    Get { key: String },
    /// `PUT /kv/<key>`
    Put { key: String },
    /// `DELETE /kv/<key>`
    Delete { key: String },
    /// `GET /kv?prefix=&after=&limit=`
    List(Page),
}

/// The range of keys to list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) prefix: String,
    pub(crate) after: String,
    /// From 1 to 1,000.
    pub(crate) limit: u32,
}

const MAX_LIMIT: u32 = 1000;
const MAX_KEY: usize = 1024;

impl Call {
    /// Parses a request's line. Percent-encoding is decoded after the path is split, so `%2F` is a slash in a key.
    pub(crate) fn of(head: &RequestHead) -> Result<Self> {
        let path = head.path();
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            ["", "save", key, word] if !key.is_empty() && !word.is_empty() => {
                allow(head, &["GET"])?;
                Ok(Self::Save {
                    key: checked(key)?,
                    word: paths::decode(word)?,
                })
            }
            ["", "load", key] if !key.is_empty() => {
                allow(head, &["GET", "HEAD"])?;
                Ok(Self::Load { key: checked(key)? })
            }
            ["", "allKeys"] => {
                allow(head, &["GET", "HEAD"])?;
                Ok(Self::AllKeys)
            }
            ["", "keys"] => {
                allow(head, &["GET", "HEAD"])?;
                Ok(Self::Keys)
            }
            ["", "kv"] => {
                allow(head, &["GET", "HEAD"])?;
                Ok(Self::List(Page::of(head)?))
            }
            // Everything after `/kv/` is the key: its slashes need no encoding.
            ["", "kv", ..] => {
                allow(head, &["GET", "HEAD", "PUT", "DELETE"])?;
                let key = checked(path.strip_prefix("/kv/").unwrap_or_default())?;
                Ok(match head.method() {
                    "PUT" => Self::Put { key },
                    "DELETE" => Self::Delete { key },
                    _ => Self::Get { key },
                })
            }
            _ => Err(Error::new(
                404,
                "path_not_found",
                "this path does not exist: use /kv/<key>, /kv, /save/<key>/<word>, /load/<key>, /allKeys or /keys",
            )),
        }
    }
}

impl Page {
    fn of(head: &RequestHead) -> Result<Self> {
        let limit = match head.query("limit")?.as_deref() {
            None | Some("") => 100,
            Some(limit) => limit
                .parse()
                .ok()
                .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                .ok_or_else(|| Error::new(400, "bad_limit", "limit is a number from 1 to 1000"))?,
        };
        Ok(Self {
            prefix: head.query("prefix")?.unwrap_or_default(),
            after: head.query("after")?.unwrap_or_default(),
            limit,
        })
    }
}

fn allow(head: &RequestHead, methods: &[&str]) -> Result<()> {
    if methods.contains(&head.method()) {
        Ok(())
    } else {
        Err(Error::method_not_allowed(&methods.join(", ")))
    }
}

/// A decoded key. Its length is checked against the host's bounds here, so that the error has the same form as others.
fn checked(encoded: &str) -> Result<String> {
    let key = paths::decode(encoded)?;
    match key.len() {
        1..=MAX_KEY => Ok(key),
        _ => Err(Error::new(400, "bad_key", "a key has 1 to 1024 bytes")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;

    use ostrakon_test_support::pages::{code, errors, rows};

    use super::*;

    const GUIDE: &str = include_str!("../../README.md");

    fn name(call: &Call) -> &'static str {
        match call {
            Call::Save { .. } => "save",
            Call::Load { .. } => "load",
            Call::AllKeys => "allKeys",
            Call::Keys => "keys",
            Call::Get { .. } => "get",
            Call::Put { .. } => "put",
            Call::Delete { .. } => "delete",
            Call::List(_) => "list",
        }
    }

    #[test]
    fn the_guide_has_exactly_the_requests_that_are_answered() {
        let mut shown = BTreeMap::<_, BTreeSet<_>>::new();
        for row in rows(GUIDE, "| request | response |") {
            let words: Vec<_> = code(row[0]).flat_map(|span| span.split(' ')).collect();
            let (path, methods) = words.split_last().expect("a request has words");
            shown.entry(*path).or_default().extend(methods.to_vec());
        }
        let mut answered = BTreeSet::new();
        for (path, methods) in shown {
            for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"] {
                let call = Call::of(&RequestHead::new(method, path));
                let is_shown = methods.contains(method);
                assert_eq!(call.is_ok(), is_shown, "{method} {path}");
                answered.extend(call.ok().as_ref().map(name));
            }
        }
        let all = [
            "allKeys", "delete", "get", "keys", "list", "load", "put", "save",
        ];
        assert_eq!(answered, BTreeSet::from(all), "guest/README.md");
    }

    #[test]
    fn the_guide_has_exactly_the_codes_that_this_guest_returns() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let files = fs::read_dir(folder).expect("the sources are there");
        let sources = files.filter_map(|file| fs::read_to_string(file.ok()?.path()).ok());
        let mut all: BTreeSet<_> = sources
            .flat_map(|source| errors(&source).collect::<Vec<_>>())
            .collect();
        let of_the_sdk = [
            Error::method_not_allowed("GET"),
            paths::decode("%").expect_err("it is cut off").into(),
        ];
        all.extend(of_the_sdk.map(|error| format!("{} {}", error.code(), error.status())));
        // Of `Part`, if a shard did not answer.
        all.insert("incomplete 503".to_owned());
        let rows = rows(GUIDE, "| code | status | cause |");
        let shown = rows.iter().flat_map(|row| {
            let of_one = |code| format!("{code} {}", row[1]);
            code(row[0]).map(of_one)
        });
        assert_eq!(shown.collect::<BTreeSet<_>>(), all, "guest/README.md");
    }
}
