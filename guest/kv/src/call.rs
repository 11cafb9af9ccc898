//! The operation that a request asks for.

use ostrakon_guest::{Error, RequestLine, Result, paths};

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
    pub(crate) fn of(line: &RequestLine) -> Result<Self> {
        let path = line.path();
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            ["", "save", key, word] if !key.is_empty() && !word.is_empty() => {
                allow(line, &["GET"])?;
                Ok(Self::Save {
                    key: checked(key)?,
                    word: paths::decode(word)?,
                })
            }
            ["", "load", key] if !key.is_empty() => {
                allow(line, &["GET", "HEAD"])?;
                Ok(Self::Load { key: checked(key)? })
            }
            ["", "allKeys"] => {
                allow(line, &["GET", "HEAD"])?;
                Ok(Self::AllKeys)
            }
            ["", "keys"] => {
                allow(line, &["GET", "HEAD"])?;
                Ok(Self::Keys)
            }
            ["", "kv"] => {
                allow(line, &["GET", "HEAD"])?;
                Ok(Self::List(Page::of(line)?))
            }
            // Everything after `/kv/` is the key: its slashes need no encoding.
            ["", "kv", ..] => {
                allow(line, &["GET", "HEAD", "PUT", "DELETE"])?;
                let key = checked(path.strip_prefix("/kv/").unwrap_or_default())?;
                Ok(match line.method() {
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
    fn of(line: &RequestLine) -> Result<Self> {
        let limit = match line.query("limit")?.as_deref() {
            None | Some("") => 100,
            Some(limit) => limit
                .parse()
                .ok()
                .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                .ok_or_else(|| Error::new(400, "bad_limit", "limit is a number from 1 to 1000"))?,
        };
        Ok(Self {
            prefix: line.query("prefix")?.unwrap_or_default(),
            after: line.query("after")?.unwrap_or_default(),
            limit,
        })
    }
}

fn allow(line: &RequestLine, methods: &[&str]) -> Result<()> {
    if methods.contains(&line.method()) {
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
