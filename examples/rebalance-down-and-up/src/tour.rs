//! The stations of the tour, and what each one shows.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use http::Method;
use ostrakon_dev::Addresses;
use ostrakon_network::http::client::request;
use tokio::process::Command;
use tokio::time::sleep;

use crate::clients::{Clients, Entry, Seen};
use crate::say;
use crate::set::{AT_FIRST, StatefulSet};

const MORE: u32 = 5;
const FEWER: u32 = 2;
/// The number of keys. The first 26 are the smart client's letters.
const KEYS: usize = 2000;
/// How long clients run without a change between two stations.
const BETWEEN: Duration = Duration::from_secs(1);
/// How long a shard may take to list its keys.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Tour {
    addresses: Addresses,
    smart_client: PathBuf,
    clients: Arc<Clients>,
}

/// The result of the tour.
#[derive(Debug)]
pub(crate) struct Sights {
    seen: Seen,
    keys: Vec<String>,
}

impl Tour {
    pub(crate) fn new(set: &StatefulSet, smart_client: PathBuf) -> Self {
        Self {
            addresses: set.addresses,
            smart_client,
            clients: Clients::new(set.addresses, MORE, 0..AT_FIRST),
        }
    }

    /// Goes to all stations, and returns what was seen.
    pub(crate) async fn take(&self, set: &mut StatefulSet) -> anyhow::Result<Sights> {
        say(
            "The course's store, on a changing number of shards. Nobody runs a rebalancer: one number\n\
             changes, and the shards do the rest.\n\n\
             1. `ostrakon dev` starts three shards in order. The smart client writes a key for each\n\
             letter, and the clients write other keys.",
        );
        set.started().await?;
        self.run_smart_client(AT_FIRST, "w").await?;
        let entries = entries();
        let (letters, others) = entries.split_at(26);
        self.clients.write_all(others).await;
        self.look(AT_FIRST).await?;

        say(
            "\n2. Eight clients begin. Each one repeatedly writes a word through one shard and reads it\n\
             through the next. A wrong response counts as a failure.",
        );
        let working = self.clients.begin(others);
        sleep(BETWEEN).await;
        self.tell_requests()?;

        say(
            "\n3. Three shards become five. Two more start; then each shard hands off, key by key, the\n\
             keys that now belong to another one. A request for a moving key waits until it arrives.",
        );
        set.scale(MORE).await?;
        self.look(MORE).await?;
        sleep(BETWEEN).await;
        self.tell_requests()?;

        say(
            "\n4. Five shards become two. Three shards hand off all their keys, and only then end, the\n\
             last one first.",
        );
        set.scale(FEWER).await?;
        self.look(FEWER).await?;
        sleep(BETWEEN).await;
        self.tell_requests()?;

        say(
            "\n5. The clients end, each word is read once more, and the shards stop. Then the keys in\n\
             the files of all five shards are counted.",
        );
        let others = working.end().await;
        let entries = [letters, &others].concat();
        self.clients.read_all(&entries).await;
        self.tell_requests()?;
        Ok(Sights {
            seen: self.clients.seen(),
            keys: entries.into_iter().map(|(key, _)| key).collect(),
        })
    }

    /// The requests so far, none of which may have failed.
    fn tell_requests(&self) -> anyhow::Result<()> {
        let seen = self.clients.seen();
        let (requests, longest) = (grouped(seen.requests), seen.longest.as_millis());
        say(&format!(
            "   {requests} requests so far, {} failed, longest {longest} ms",
            grouped(seen.failed)
        ));
        if let Some(failure) = seen.first_failure {
            let failed = grouped(seen.failed);
            anyhow::bail!("{failed} of {requests} requests failed; the first: {failure}");
        }
        Ok(())
    }

    /// Prints the letters as the smart client finds them, and the number of each shard's keys.
    async fn look(&self, shards: u32) -> anyhow::Result<()> {
        self.run_smart_client(shards, "h").await?;
        let mut total = 0;
        for shard in 0..shards {
            let address = self.addresses.public(shard);
            let (status, list) = request(address, Method::GET, "/allKeys", PATIENCE).await?;
            ensure!(
                status.is_success(),
                "shard {shard} does not list its keys: {status}"
            );
            let list = String::from_utf8_lossy(&list);
            let keys: Vec<_> = list.split(',').filter(|key| !key.is_empty()).collect();
            let letters: Vec<_> = keys.iter().copied().filter(|key| key.len() == 1).collect();
            say(&format!(
                "   shard {shard} has {} keys, of the letters {}",
                grouped(keys.len() as u64),
                letters.join(" ")
            ));
            total += keys.len();
        }
        ensure!(
            total == KEYS,
            "the shards list {total} keys instead of {KEYS}"
        );
        Ok(())
    }

    /// Prints the smart client's line, which must have this mark for each letter.
    async fn run_smart_client(&self, shards: u32, mark: &str) -> anyhow::Result<()> {
        let servers: Vec<_> = (0..shards)
            .map(|shard| self.addresses.public(shard).to_string())
            .collect();
        let mut command = Command::new(&self.smart_client);
        command.arg(servers.join(","));
        if mark == "h" {
            command.arg("readonly");
        }
        let output = command.args(["--rounds", "1"]).kill_on_drop(true).output();
        let output = output.await.context("cannot run the smart client")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let labels = ["the letters", "the shard each is asked of", "what it finds"];
        for (line, label) in text.lines().zip(labels) {
            let (line, _) = line.split_once(" | ").unwrap_or((line, ""));
            say(&format!("   {line}  {label}"));
        }
        let found = text.lines().last().unwrap_or_default();
        ensure!(
            found.starts_with(&mark.repeat(26)),
            "the smart client prints {found:?}: each letter should be `{mark}`"
        );
        Ok(())
    }
}

impl Sights {
    /// One line about the tour, if each key is in exactly one shard.
    pub(crate) fn told(&self, places: &BTreeMap<String, Vec<u32>>) -> anyhow::Result<String> {
        let lost: Vec<_> = self
            .keys
            .iter()
            .filter(|key| !places.contains_key(*key))
            .collect();
        ensure!(
            lost.is_empty(),
            "these keys are in no shard's file: {lost:?}"
        );
        let twice: Vec<_> = places
            .iter()
            .filter(|(_, shards)| shards.len() > 1)
            .collect();
        ensure!(
            twice.is_empty(),
            "these keys are in more than one shard's file: {twice:?}"
        );
        let keys = self.keys.len() as u64;
        ensure!(
            places.len() as u64 == keys,
            "{} keys in the files, but {keys} were written",
            places.len()
        );
        Ok(format!(
            "\n{} requests over {AT_FIRST} -> {MORE} -> {FEWER}, {} failed, longest {} ms; \
             {} keys, each found, each in one shard",
            grouped(self.seen.requests),
            self.seen.failed,
            self.seen.longest.as_millis(),
            grouped(keys)
        ))
    }
}

/// All keys: the letters, with themselves as words, and others. Their first letters take turns, because
/// the first character decides where a key belongs.
fn entries() -> Vec<Entry> {
    let letters = ('a'..='z').cycle().zip(0..KEYS);
    letters
        .map(|(letter, number)| match number / 26 {
            0 => (letter.to_string(), letter.to_string()),
            row => (format!("{letter}-{row}"), "word".to_owned()),
        })
        .collect()
}

/// A number with a comma after every three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().collect();
    String::from_utf8(groups.join(&b',')).expect("digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_begin_with_each_letter_and_none_is_there_twice() {
        let entries: BTreeMap<_, _> = entries().into_iter().collect();
        assert_eq!(entries.len(), KEYS);
        assert_eq!((&*entries["a"], &*entries["z-1"]), ("a", "word"));
    }

    #[test]
    fn digits_are_in_threes() {
        let check = |number, expected| assert_eq!(grouped(number), expected);
        check(0, "0");
        check(999, "999");
        check(1000, "1,000");
        check(12_345_678, "12,345,678");
    }

    #[test]
    fn a_key_that_is_lost_or_doubled_is_told() {
        let sights = Sights {
            seen: Seen::default(),
            keys: vec!["a".to_owned(), "b".to_owned()],
        };
        let check = |places: &[(&str, &[u32])], expected: Result<&str, &str>| {
            let places = places.iter();
            let places = places.map(|(key, shards)| ((*key).to_owned(), shards.to_vec()));
            let told = sights.told(&places.collect());
            let told = told.map_err(|error| error.to_string());
            match (told, expected) {
                (Ok(told), Ok(expected)) => assert!(told.ends_with(expected), "{told}"),
                (Err(error), Err(expected)) => assert_eq!(error, expected),
                (told, _) => panic!("{told:?}"),
            }
        };
        let whole = Ok("2 keys, each found, each in one shard");
        check(&[("a", &[0]), ("b", &[1])], whole);
        check(
            &[("a", &[0])],
            Err("these keys are in no shard's file: [\"b\"]"),
        );
        let twice = "these keys are in more than one shard's file: [(\"b\", [1, 4])]";
        check(&[("a", &[0]), ("b", &[1, 4])], Err(twice));
        let more = "3 keys in the files, but 2 were written";
        check(&[("a", &[0]), ("b", &[1]), ("c", &[1])], Err(more));
    }
}
