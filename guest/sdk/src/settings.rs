//! The ConfigMap's other keys.

use std::{fmt::Display, str::FromStr};

use serde::de::DeserializeOwned;

use crate::imports;

/// The settings of the guest's generation: fixed for as long as the instance lives.
#[derive(Clone, Copy, Debug)]
pub struct Settings(pub(crate) ());

impl Settings {
    /// The content of a key; `None` if there is no such key.
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        imports::settings_get(name)
    }

    /// The content of a key as a text without surrounding white space; `None` if there is no such key.
    ///
    /// # Errors
    /// A text for people, if the content is not UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<String>, String> {
        let Some(content) = self.get(name) else {
            return Ok(None);
        };
        match std::str::from_utf8(&content) {
            Ok(text) => Ok(Some(text.trim_ascii().to_owned())),
            Err(_) => Err(["setting `", name, "` is not UTF-8"].concat()),
        }
    }

    /// The content of a key, read as a number or another type, without surrounding white space; `None` if there is no
    /// such key.
    ///
    /// # Errors
    /// A text for people, if it is no such value.
    pub fn parsed<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, String> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        text.parse()
            .map(Some)
            .map_err(|error: T::Err| bad(name, &error))
    }

    /// The content of a key, read as JSON; `None` if there is no such key.
    ///
    /// # Errors
    /// A text for people, if it is no such value.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, String> {
        let Some(content) = self.get(name) else {
            return Ok(None);
        };
        serde_json::from_slice(&content)
            .map(Some)
            .map_err(|error| bad(name, &error))
    }

    /// The names of all keys that [`get`](Self::get) finds, sorted.
    pub fn names(&self) -> Vec<String> {
        imports::settings_names()
    }
}

fn bad(name: &str, error: &dyn Display) -> String {
    ["setting `", name, "`: ", &error.to_string()].concat()
}
