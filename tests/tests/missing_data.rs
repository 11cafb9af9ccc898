//! A data file that is removed, moved or replaced under a running shard. Nobody would find later
//! writes again, so none is acknowledged, and the shard reports the problem loudly.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ostrakon_tests::host::{Host, PATIENCE, Shard, config, guest};
use ostrakon_tests::load::under_load;

/// Number of keys at the start.
const KEYS: u64 = 50;

struct Scene {
    shard: Shard,
    host: Option<Host>,
}

impl Scene {
    fn new() -> Self {
        let shard = Shard::new(&config(&guest("kv"), &[]));
        let host = shard.start();
        let mut client = host.client();
        for key in 0..KEYS {
            let saved = client.get(&format!("/save/{key}/before")).unwrap();
            assert_eq!(saved.status, 200);
        }
        Self {
            shard,
            host: Some(host),
        }
    }

    fn host(&self) -> &Host {
        self.host.as_ref().expect("it runs")
    }

    fn file(&self) -> PathBuf {
        self.shard.data.join("shard.redb")
    }

    fn beside(&self) -> PathBuf {
        self.shard.directory().join("elsewhere")
    }

    /// Removes the file with `take` while clients read, and checks that the loss is noticed: at
    /// once by writes, and without any write by the shard itself.
    #[expect(clippy::print_stdout, reason = "the test prints its results")]
    fn loses(&self, what: &str, said: &str, take: impl FnOnce(&Path)) {
        let host = self.host();
        let read = |client: &mut ostrakon_tests::client::Client, _: usize, number: u64| {
            let response = client.get(&format!("/load/{}", number % KEYS)).unwrap();
            assert_eq!((response.status, response.text()), (200, "before"));
        };
        let (reads, refused) = under_load(host.address, 2, read, |_| {
            take(&self.file());
            let mut client = host.client();
            let mut refused = 0;
            for number in 0..100 {
                let saved = client.get(&format!("/save/{number}/after")).unwrap();
                let seen = (saved.status, saved.header("ostrakon-error"));
                assert_eq!(seen, (503, Some("store-missing")), "{}", saved.text());
                refused += 1;
            }
            host.wait_until("it is not ready", |host| {
                host.admin("GET", "/readyz").unwrap().status == 503
            });
            refused
        });
        assert_eq!(host.admin("GET", "/livez").unwrap().status, 200);
        let status = host.status();
        let problem = status["store"]["problem"].as_str().unwrap();
        assert!(problem.contains(said), "{what}: {problem}");
        assert_eq!(host.metric("ostrakon_store_missing"), 1);
        let log = host.log();
        let told: Vec<_> = log
            .lines()
            .filter(|line| line.contains("the data file is missing"))
            .collect();
        assert_eq!(told.len(), 1, "it must be logged exactly once: {told:#?}");
        assert!(told[0].contains("\"ERROR\""), "{}", told[0]);
        println!("{what}: {refused} writes refused, 0 acknowledged; {reads} reads, 0 failed");
    }

    /// Once the file is back, writes resume automatically, and all acknowledged values are there.
    fn recovers(mut self) {
        let host = self.host.take().expect("it runs");
        host.wait_until("it is ready again", |host| {
            host.admin("GET", "/readyz").unwrap().status == 200
        });
        let mut client = host.client();
        let saved = client.get("/save/0/again").unwrap();
        assert_eq!(saved.status, 200, "{}", saved.text());
        assert_eq!(host.metric("ostrakon_store_missing"), 0);
        assert!(host.status()["store"]["problem"].is_null());
        host.stop();
        self.has_all("again");
    }

    /// Starts a host, which must have all values, with `first` under key 0.
    fn has_all(&self, first: &str) {
        let host = self.shard.start();
        let mut client = host.client();
        for key in 0..KEYS {
            let expected = if key == 0 { first } else { "before" };
            let loaded = client.get(&format!("/load/{key}")).unwrap();
            assert_eq!(loaded.text(), expected, "{key}");
        }
        host.stop();
    }

    /// Stops the host, and checks that the next start is refused.
    fn refuses_to_start(&mut self, said: &str) {
        self.host.take().expect("it runs").stop();
        let (status, log) = self.shard.spawn().wait();
        assert_eq!(status.code(), Some(74), "{log}");
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains(said), "{last}");
    }
}

#[test]
fn a_file_that_is_removed_is_refused_and_never_made_anew() {
    let mut scene = Scene::new();
    let copy = scene.beside();
    scene.loses("removed", "was removed", |file| {
        fs::remove_file(file).unwrap();
    });
    // As an operator would do, following `store.problem`.
    let status = scene.host().status();
    let problem = status["store"]["problem"].as_str().unwrap();
    let from = problem
        .split_whitespace()
        .find(|word| word.starts_with("/proc/"));
    let saved = fs::copy(from.expect("it says where"), &copy);
    scene.refuses_to_start("is missing");
    assert!(
        !scene.file().exists(),
        "the data file must not be created again"
    );
    match saved {
        Ok(_) => {
            fs::rename(&copy, scene.file()).unwrap();
            scene.has_all("before");
        }
        Err(error) => println!("not copied, as this user may not: {error}"),
    }
}

#[test]
fn a_file_that_is_moved_is_refused_until_it_is_back() {
    let scene = Scene::new();
    let elsewhere = scene.beside();
    scene.loses("moved", "was moved", |file| {
        fs::rename(file, &elsewhere).unwrap();
    });
    fs::rename(&elsewhere, scene.file()).unwrap();
    scene.recovers();
}

#[test]
fn another_file_in_its_place_is_not_taken_for_it() {
    let scene = Scene::new();
    let elsewhere = scene.beside();
    scene.loses("replaced", "is not the file", |file| {
        fs::copy(file, &elsewhere).unwrap();
        // Linked first: renaming the file away would leave no file at the path for a moment.
        let own = elsewhere.with_extension("own");
        fs::hard_link(file, own).unwrap();
        fs::rename(&elsewhere, file).unwrap();
    });
    fs::rename(elsewhere.with_extension("own"), scene.file()).unwrap();
    scene.recovers();
}

#[test]
fn a_directory_that_is_moved_is_refused_until_it_is_back() {
    let scene = Scene::new();
    let (data, elsewhere) = (scene.shard.data.clone(), scene.beside());
    scene.loses("its directory", "data directory", |_| {
        fs::rename(&data, &elsewhere).unwrap();
        // Like an empty volume that is mounted there.
        fs::create_dir(&data).unwrap();
    });
    fs::remove_dir(&data).unwrap();
    fs::rename(&elsewhere, &data).unwrap();
    scene.recovers();
}

/// The store file itself is locked, so removing the file `lock` changes nothing.
#[test]
fn one_file_is_not_opened_twice_though_somebody_removed_the_lock() {
    let scene = Scene::new();
    fs::remove_file(scene.shard.data.join("lock")).unwrap();
    let (status, log) = scene.shard.spawn().wait();
    assert_eq!(status.code(), Some(75), "{log}");
    scene.recovers();
}

/// Without any write, the shard notices by itself.
#[test]
fn an_idle_shard_notices_that_its_file_is_gone() {
    let scene = Scene::new();
    let elsewhere = scene.beside();
    fs::rename(scene.file(), &elsewhere).unwrap();
    let began = Instant::now();
    scene.host().wait_until("it is not ready", |host| {
        host.admin("GET", "/readyz").unwrap().status == 503
    });
    println!("noticed after {:?}", began.elapsed());
    assert!(began.elapsed() < PATIENCE.min(Duration::from_secs(30)));
    fs::rename(&elsewhere, scene.file()).unwrap();
    scene.recovers();
}
