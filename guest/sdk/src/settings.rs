//! The ConfigMap's other keys.

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

    /// The names of all keys that [`get`](Self::get) finds, sorted.
    pub fn names(&self) -> Vec<String> {
        imports::settings_names()
    }
}
