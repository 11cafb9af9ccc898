//! The history of the clients' operations and their answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::Method;
use ostrakon_contract::client::Client;
use ostrakon_contract::contract::{Kept, Reply, Request};
use ostrakon_network::http::{Refusal, refusals as of_http};
use ostrakon_observe::trace::Trace;
use ostrakon_shard::answers::refusals;
use ostrakon_shard::service::Answer;
use ostrakon_test_support::linearizable::{self, Action, UNKNOWN, is_linearizable};

/// The number of keys. Some have the same first letter, so that `modulo` puts them together.
pub(super) const KEYS: usize = 24;
/// Keys below this index are never deleted.
pub(super) const LASTING: usize = 12;

/// A client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Put(usize, u64),
    Get(usize),
    Delete(usize),
    List,
}

/// A client's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// A value was written; whether there was one before.
    Written(bool),
    /// The value that was read.
    Value(Option<u64>),
    /// The value was deleted; whether there was one before.
    Deleted(bool),
    /// The keys of a listing.
    Keys(Vec<String>),
    /// The request was refused, and nothing was done.
    Refused(Refusal),
    /// The request may or may not have been done.
    Unknown,
    /// An answer that no client may ever get.
    Wrong(String),
}

#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) ask: Ask,
    pub(super) called: u64,
    /// When the answer came, and the answer; `None` if there is none, and never will be.
    pub(super) returned: Option<(u64, Told)>,
}

/// All operations, by their numbers. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct History(Arc<Mutex<Vec<Operation>>>);

pub(super) fn key(index: usize) -> String {
    let letter = char::from(b'a' + u8::try_from(index / 2).expect("there are few keys"));
    format!("{letter}{}", index % 2)
}

impl Ask {
    pub(super) fn request(self) -> Request {
        let (method, path, body) = match self {
            Self::Put(at, value) => (Method::PUT, format!("/kv/{}", key(at)), value.to_string()),
            Self::Get(at) => (Method::GET, format!("/kv/{}", key(at)), String::new()),
            Self::Delete(at) => (Method::DELETE, format!("/kv/{}", key(at)), String::new()),
            Self::List => (Method::GET, "/kv?limit=1000".to_owned(), String::new()),
        };
        Request {
            method,
            path,
            headers: http::HeaderMap::new(),
            body: Bytes::from(body),
            trace: Trace::default(),
            kept: Kept::default(),
            client: Client::default(),
        }
    }

    /// The key that it is about, if it is about one.
    pub(super) fn key(self) -> Option<String> {
        match self {
            Self::Put(at, _) | Self::Get(at) | Self::Delete(at) => Some(key(at)),
            Self::List => None,
        }
    }

    /// The meaning of an answer for the client that asked this.
    pub(super) fn told(self, answer: &Answer) -> Told {
        let reply = match &answer.reply {
            Ok(reply) => reply,
            Err(refused) => return refusal(Refusal::from(refused)),
        };
        let body = String::from_utf8_lossy(&reply.body);
        // Another shard's refusal arrives as a reply.
        let refused = of_http::ALL
            .iter()
            .chain(refusals::ALL)
            .find(|it| it.text() == body);
        if let Some(refused) = refused {
            return refusal(*refused);
        }
        let told = match (self, reply.status.as_u16()) {
            (Self::Put(..), 201) => Some(Told::Written(false)),
            (Self::Put(..), 204) => Some(Told::Written(true)),
            (Self::Get(_), 404) => Some(Told::Value(None)),
            (Self::Get(_), 200) => body.parse().ok().map(Some).map(Told::Value),
            (Self::Delete(_), 404) => Some(Told::Deleted(false)),
            (Self::Delete(_), 204) => Some(Told::Deleted(true)),
            (Self::List, 200) => keys(reply).map(Told::Keys),
            _ => None,
        };
        told.unwrap_or_else(|| Told::Wrong(format!("{} {body}", reply.status)))
    }
}

fn refusal(refused: Refusal) -> Told {
    match refused {
        refusals::OUTCOME_UNKNOWN | refusals::STORE_FAILED => Told::Unknown,
        refusals::SHARD_AWAY
        | refusals::NO_GENERATION
        | refusals::WRITER_FULL
        | refusals::WRITER_WAIT
        | refusals::SHUTTING_DOWN => Told::Refused(refused),
        other => Told::Wrong(format!("{other:?}")),
    }
}

fn keys(reply: &Reply) -> Option<Vec<String>> {
    let page: serde_json::Value = serde_json::from_slice(&reply.body).ok()?;
    let keys = page["keys"].as_array()?.iter();
    keys.map(|key| Some(key.as_str()?.to_owned())).collect()
}

impl History {
    pub(super) fn operations(&self) -> MutexGuard<'_, Vec<Operation>> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// Begins an operation, and returns its number.
    pub(super) fn call(&self, ask: Ask, called: u64) -> usize {
        let mut operations = self.operations();
        operations.push(Operation {
            ask,
            called,
            returned: None,
        });
        operations.len() - 1
    }

    pub(super) fn tell(&self, number: usize, returned: u64, told: Told) {
        self.operations()[number].returned = Some((returned, told));
    }

    /// Checks the history, and returns the first fault.
    pub(super) fn check(&self) -> Result<(), String> {
        let operations = self.operations();
        for operation in operations.iter() {
            if let Some((_, Told::Wrong(what))) = &operation.returned {
                return Err(format!("{:?} was answered: {what}", operation.ask));
            }
        }
        for at in 0..KEYS {
            let mut history: Vec<_> = operations.iter().filter_map(|it| it.of_key(at)).collect();
            history.sort_unstable_by_key(|it| (it.called, it.returned));
            if !is_linearizable(&history) {
                return Err(format!("key {} is not linearizable: {history:#?}", key(at)));
            }
        }
        operations
            .iter()
            .try_for_each(|it| it.check_list(&operations))
    }
}

impl Operation {
    /// The operation as one of a key's register; `None` if it is of another key, or had no
    /// effect and observed nothing.
    fn of_key(&self, at: usize) -> Option<linearizable::Operation> {
        let (returned, action) = match (self.ask, &self.returned) {
            (Ask::Put(key, _) | Ask::Get(key) | Ask::Delete(key), _) if key != at => return None,
            (_, Some((_, Told::Refused(_)))) | (Ask::List, _) => return None,
            (Ask::Put(_, value), Some((returned, Told::Written(was)))) => {
                (*returned, Action::Write(value, *was))
            }
            (Ask::Get(_), Some((returned, Told::Value(value)))) => {
                (*returned, Action::Read(*value))
            }
            (Ask::Delete(_), Some((returned, Told::Deleted(was)))) => {
                (*returned, Action::Delete(*was))
            }
            (Ask::Put(_, value), _) => (UNKNOWN, Action::Write(value, false)),
            (Ask::Delete(_), _) => (UNKNOWN, Action::Delete(false)),
            (Ask::Get(_), _) => return None,
        };
        Some(linearizable::Operation {
            called: self.called,
            returned,
            action,
        })
    }

    /// Checks that a listing has each key that must be there, once, and none that cannot be
    /// there.
    fn check_list(&self, operations: &[Self]) -> Result<(), String> {
        let Some((returned, Told::Keys(keys))) = &self.returned else {
            return Ok(());
        };
        let listed: BTreeSet<_> = keys.iter().cloned().collect();
        if listed.len() != keys.len() {
            return Err(format!("a listing has a key twice: {keys:?}"));
        }
        let mut sooner = BTreeMap::new();
        for operation in operations {
            if let Ask::Put(at, _) = operation.ask {
                let was_written = matches!(&operation.returned, Some((returned, Told::Written(_))) if *returned < self.called);
                let could_be = operation.called <= *returned;
                let entry = sooner.entry(key(at)).or_insert((at, false, false));
                *entry = (at, entry.1 | was_written, entry.2 | could_be);
            }
        }
        for (key, (at, was_written, could_be)) in &sooner {
            if *was_written && *at < LASTING && !listed.contains(key) {
                return Err(format!(
                    "a listing from {} to {returned} lacks {key}: {keys:?}",
                    self.called
                ));
            }
            if !could_be && listed.contains(key) {
                return Err(format!("a listing has {key} before it was written"));
            }
        }
        Ok(())
    }
}
