//! A poll: its id, which is the key of its partition, and what its creator wrote.

use std::{collections::BTreeSet, fmt, time::Duration};

use ostrakon_guest::{
    Error, Request, RequestHead, Result, Store, forms::Form, router::Params, time,
};
use serde::{Deserialize, Serialize};

pub(crate) const POLL: &str = "poll";
const ID_DIGITS: usize = 32;
const MAX_QUESTION: usize = 200;
const MAX_OPTION: usize = 100;
const MIN_OPTIONS: usize = 2;
const MAX_OPTIONS: usize = 20;

/// A poll as it is stored, under `poll` in its partition. It does not change.
#[derive(Debug, Serialize, Deserialize)]
pub struct Poll {
    pub question: String,
    pub options: Vec<String>,
    /// In milliseconds since 1970-01-01 UTC, as `closes`.
    pub(crate) created: u64,
    #[serde(default)]
    pub(crate) closes: Option<u64>,
}

impl Poll {
    pub(crate) fn load(store: Store) -> Result<Self> {
        store
            .get_json(POLL)?
            .ok_or_else(|| Error::not_found("There is no such poll. Check the link."))
    }

    pub(crate) fn store(&self, store: Store) -> Result<()> {
        Ok(store.set_json(POLL, self)?)
    }

    pub(crate) fn is_closed(&self, now: Duration) -> bool {
        is_past(self.closes, now)
    }

    pub(crate) fn check_open(&self, now: Duration) -> Result<()> {
        match self.closes {
            Some(closes) if self.is_closed(now) => Err(Error::new(
                409,
                "closed",
                format!(
                    "This poll closed at {}. Votes are no longer accepted; see its results.",
                    readable(closes)
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The options that a form names, the most preferred one first. Fields without a choice are skipped.
    pub(crate) fn choices(&self, form: &Form) -> Result<Vec<u8>> {
        let named = form.all("choice").map(str::trim);
        let named = named.filter(|choice| !choice.is_empty());
        let choices = named.map(|choice| {
            let option = choice.parse().ok();
            option.ok_or_else(|| invalid(format!("`{choice}` is no option's number.")))
        });
        self.checked(choices.collect::<Result<_>>()?)
    }

    /// The same numbers, if the poll has all these options. There can be none.
    pub(crate) fn checked(&self, choices: Vec<u8>) -> Result<Vec<u8>> {
        let has = |choice: &u8| usize::from(*choice) < self.options.len();
        match choices.iter().find(|choice| !has(choice)) {
            None => Ok(choices),
            Some(choice) => Err(invalid(format!(
                "This poll has no option {choice}: its options are numbered from 0 to {}.",
                self.options.len() - 1
            ))),
        }
    }
}

pub(crate) fn is_past(closes: Option<u64>, now: Duration) -> bool {
    closes.is_some_and(|closes| Duration::from_millis(closes) <= now)
}

/// A time as people read it: `2026-01-01 18:30 UTC`.
pub(crate) fn readable(millis: u64) -> String {
    let text = time::rfc3339(Duration::from_millis(millis));
    let minutes = text.rsplit_once(':').map_or(&*text, |(minutes, _)| minutes);
    minutes.replace('T', " ") + " UTC"
}

/// What was sent can be read, but is not valid.
pub(crate) fn invalid(message: String) -> Error {
    Error::new(422, "invalid", message)
}

/// The id of a poll that a request creates.
#[expect(clippy::unnecessary_wraps, reason = "the router's type for keys")]
pub(crate) fn new_id(head: &RequestHead, _: &Params) -> Result<Vec<u8>> {
    Ok(head.random_id().into())
}

/// The id of the poll in a request's path.
pub(crate) fn id_in_path(_: &RequestHead, params: &Params) -> Result<Vec<u8>> {
    let id = params.param("poll");
    if is_id(id) {
        Ok(id.into())
    } else {
        Err(Error::not_found("There is no such poll. Check the link."))
    }
}

/// Whether this can be an id that the service made: of a poll, or of a voter.
pub(crate) fn is_id(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == ID_DIGITS && text.bytes().all(is_digit)
}

/// The id of the poll that a request belongs to.
pub(crate) fn id(request: &Request) -> Result<String> {
    let key = request
        .partition()
        .and_then(|key| String::from_utf8(key).ok());
    key.ok_or_else(|| Error::not_found("There is no such poll. Check the link."))
}

/// A poll as its creator wrote it, not yet checked.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) question: String,
    pub(crate) options: Vec<String>,
    pub(crate) closes: String,
}

/// The field of a draft that is wrong, and what to do.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) field: &'static str,
    message: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl Draft {
    pub(crate) fn of(form: &Form) -> Self {
        let field = |name| form.get(name).unwrap_or_default().to_owned();
        let options = form.get("options").unwrap_or_default().lines();
        let options = options.filter(|line| !line.trim().is_empty());
        Self {
            question: field("question"),
            options: options.map(str::to_owned).collect(),
            closes: field("closes"),
        }
    }

    /// The poll, if it is valid.
    pub(crate) fn checked(&self, now: Duration) -> Result<Poll, Wrong> {
        let wrong = |field, message: String| Wrong { field, message };
        let question = line(&self.question, MAX_QUESTION)
            .map_err(|why| wrong("question", format!("The question {why}.")))?;
        let mut options = Vec::new();
        for (number, text) in (1..).zip(&self.options) {
            let option = line(text, MAX_OPTION)
                .map_err(|why| wrong("options", format!("Option {number} {why}.")))?;
            options.push(option);
        }
        if !(MIN_OPTIONS..=MAX_OPTIONS).contains(&options.len()) {
            let count = options.len();
            return Err(wrong(
                "options",
                format!(
                    "A poll has {MIN_OPTIONS} to {MAX_OPTIONS} options, and this one has {count}: write one option in each line."
                ),
            ));
        }
        let mut known = BTreeSet::new();
        if let Some(twice) = options
            .iter()
            .find(|option| !known.insert(option.to_lowercase()))
        {
            return Err(wrong(
                "options",
                format!("The option “{twice}” is there twice: remove one."),
            ));
        }
        let closes = match self.closes.trim() {
            "" => None,
            text => {
                let at = time::parse(text).ok_or_else(|| {
                    let message =
                        format!("“{text}” is no time: write one such as 2026-12-31T18:00, in UTC.");
                    wrong("closes", message)
                })?;
                if at <= now {
                    let message = format!(
                        "The poll would be closed already: choose a time after {}.",
                        readable(millis(now))
                    );
                    return Err(wrong("closes", message));
                }
                Some(millis(at))
            }
        };
        Ok(Poll {
            question,
            options,
            created: millis(now),
            closes,
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A text of one line, with single spaces; or why it cannot be one.
fn line(text: &str, max: usize) -> Result<String, String> {
    let words: Vec<_> = text.split_whitespace().collect();
    let line = words.join(" ");
    let length = line.chars().count();
    if line.is_empty() {
        Err("is empty: fill it in".to_owned())
    } else if length > max {
        Err(format!(
            "has {length} characters: shorten it to at most {max}"
        ))
    } else if line.contains(char::is_control) {
        Err("has a control character: remove it".to_owned())
    } else {
        Ok(line)
    }
}
