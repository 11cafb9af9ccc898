//! A ServiceAccount as it is mounted in a Pod.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use tempfile::TempDir;

use super::NAMESPACE;

#[derive(Debug)]
pub(super) struct Account {
    directory: TempDir,
    /// The number of tokens so far.
    tokens: Mutex<u32>,
}

impl Account {
    pub(super) fn new(authority: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let write = |name, content: &str| fs::write(directory.path().join(name), content);
        write("ca.crt", authority).expect("the file can be written");
        write("namespace", NAMESPACE).expect("the file can be written");
        let account = Self {
            directory,
            tokens: Mutex::new(0),
        };
        account.rotate();
        account
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    pub(super) fn token(&self) -> String {
        fs::read_to_string(self.directory.path().join("token")).expect("the token was written")
    }

    /// Writes another token atomically, and returns it.
    pub(super) fn rotate(&self) -> String {
        let mut tokens = self.tokens.lock().expect("no holder panics");
        *tokens += 1;
        let token = format!("token-{tokens}-of-the-service-account");
        let new = self.directory.path().join("new");
        fs::write(&new, &token).expect("the file can be written");
        fs::rename(new, self.directory.path().join("token")).expect("the file can be renamed");
        token
    }
}
