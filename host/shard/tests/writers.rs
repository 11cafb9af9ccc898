//! The writers of two shards, and the partitions that move from one to the other: the protocol's
//! decisions, carried out on real stores with a real guest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use ostrakon_base::digest::Digest;
use ostrakon_contract::client::Client;
use ostrakon_contract::contract::{Kept, Request};
use ostrakon_engine::{Compiler, Engine, Environment, Guest, Identity, Limits, Purpose};
use ostrakon_observe::metrics::Metrics;
use ostrakon_observe::trace::Trace;
use ostrakon_protocol::{
    Authority, ClusterId, Cursor, HandOff, Incarnation, Ordinal, Placement, Plan, Received,
};
use ostrakon_settings::settings::Settings;
use ostrakon_shard::writer::{Change, Changed, Owners, Promotion, Write, Writer, Written};
use ostrakon_store::{Disk, Options, Store, unbounded};
use ostrakon_volumes::secrets::Secrets;

const STORES: [u128; 2] = [10, 11];

fn component() -> Vec<u8> {
    let directory = std::env::var_os("OSTRAKON_TEST_GUESTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests"),
        PathBuf::from,
    );
    std::fs::read(directory.join("kv.wasm")).expect("run the tests with `cargo xtask test`")
}

async fn kv() -> Arc<Guest> {
    let (engine, component) = (Engine::new().unwrap(), component());
    let digest = Digest::of(&component);
    let limits = Limits::of(&Settings::default());
    let component = component.into();
    let compiler = Compiler::here();
    let compiling = compiler.compile(&engine, None, digest, &component, Purpose::Serve, limits);
    let compiled = compiling.await.unwrap();
    let environment = Environment {
        settings: Arc::new(Settings::default()),
        identity: Identity {
            ordinal: 0,
            shards: 2,
        },
        files: Arc::new(BTreeMap::from([("sharding".into(), Bytes::from("jump"))])),
        secrets: Secrets::default(),
        metrics: Arc::new(Metrics::new("test")),
    };
    let linked = compiled.link(&engine).unwrap();
    Arc::new(
        Guest::check(&linked, environment, "kv".into())
            .await
            .unwrap(),
    )
}

struct Shard {
    writer: Writer,
    thread: JoinHandle<()>,
    directory: tempfile::TempDir,
    ordinal: u32,
}

impl Shard {
    async fn start(ordinal: u32, guest: &Arc<Guest>, directory: tempfile::TempDir) -> Self {
        let options = Options::new(directory.path(), 1 << 20);
        Self::start_with(options, ordinal, guest, directory).await
    }

    async fn start_with(
        options: Options,
        ordinal: u32,
        guest: &Arc<Guest>,
        directory: tempfile::TempDir,
    ) -> Self {
        let store = Store::open(options).unwrap();
        let runtime = tokio::runtime::Handle::current();
        let metrics = Arc::new(Metrics::new("test"));
        let membership = Some(Ordinal(ordinal));
        let (writer, thread) = Writer::start(store, membership, runtime, metrics).unwrap();
        let digest = Digest::of(b"kv");
        let promotion = Promotion {
            guest: Arc::clone(guest),
            digest,
            component: digest,
            release: None,
            held: None,
        };
        writer.promote(promotion).await.unwrap();
        let started = writer.change(Change::Start(Incarnation::default())).await;
        assert!(matches!(started, Ok(Changed::Started(..))), "{started:?}");
        Self {
            writer,
            thread,
            directory,
            ordinal,
        }
    }

    /// Stops the writer, and starts it again on its disk.
    async fn restart(self, guest: &Arc<Guest>) -> Self {
        self.writer.end();
        self.thread.join().unwrap();
        Self::start(self.ordinal, guest, self.directory).await
    }

    async fn learn(&self, plan: &Plan, guest: &Arc<Guest>) {
        let owners = Owners {
            from: Arc::clone(guest),
            to: Arc::clone(guest),
        };
        self.writer
            .change(Change::Learn(plan.clone(), owners))
            .await
            .unwrap();
    }

    async fn save(&self, key: &str, word: &str, hand_off: Option<HandOff>) -> Written {
        self.send(key, word, hand_off, false).await
    }

    async fn send(
        &self,
        key: &str,
        word: &str,
        hand_off: Option<HandOff>,
        relaxed: bool,
    ) -> Written {
        let request = Request {
            method: http::Method::GET,
            path: format!("/save/{key}/{word}"),
            headers: http::HeaderMap::new(),
            body: Bytes::new(),
            trace: Trace::default(),
            kept: Kept::default(),
            client: Client::default(),
        };
        let write = Write {
            request: Arc::new(request),
            partition: key.into(),
            generation: 1,
            decided: (1, 0),
            hand_off,
            relaxed,
        };
        self.writer.write(write, 100).await
    }

    /// Saves this many keys, and returns them.
    async fn fill(&self, count: usize) -> BTreeSet<String> {
        let mut keys = BTreeSet::new();
        for number in 0..count {
            let key = format!("key-{number:04}");
            let written = self.save(&key, "before", None).await;
            assert!(matches!(written, Written::Replied { .. }), "{written:?}");
            keys.insert(key);
        }
        keys
    }

    /// The value stored under a key, with its envelope.
    fn value(&self, key: &str) -> Vec<u8> {
        let snapshot = Arc::clone(&self.writer.views().get().unwrap().snapshot);
        let page = snapshot.scan_partition(key.as_bytes(), None, None, false, 2, &mut unbounded);
        page.unwrap().entries.remove(0).1
    }

    fn keys(&self) -> BTreeSet<String> {
        let view = self.writer.views().get().unwrap();
        let page = view
            .snapshot
            .partitions(None, None, 100_000, &mut unbounded)
            .unwrap();
        let text = |key| String::from_utf8(key).unwrap();
        page.entries.into_iter().map(text).collect()
    }

    /// Sends the first batch to the other shard and handles the acknowledgement. Returns whether
    /// there was a batch.
    async fn give(&self, other: &Self) -> bool {
        let view = self.writer.views().get().unwrap();
        let membership = view.membership.as_ref().unwrap();
        let Some((to, range)) = membership
            .shard
            .outboxes()
            .map(|(to, kept)| (to, kept[0].clone()))
            .next()
        else {
            return false;
        };
        assert_eq!(to, Ordinal(other.ordinal));
        let batch = membership
            .shard
            .envelope(to, &range, STORES[self.ordinal as usize]);
        let partitions = membership
            .contents(&view.snapshot, to, &range)
            .await
            .unwrap();
        // The batch arrives twice. The second copy is recognized, and changes nothing.
        for expected in [Received::Apply, Received::Known] {
            let receive = Change::Receive {
                batch: batch.clone(),
                schema: 1,
                partitions: partitions.clone(),
            };
            let received = other.writer.change(receive).await.unwrap();
            assert_eq!(received, Changed::Received(expected));
        }
        for _ in 0..2 {
            let acknowledged = Change::Acknowledged {
                by: to,
                number: range.number,
                step_within: None,
            };
            self.writer.change(acknowledged).await.unwrap();
        }
        true
    }
}

fn placement(shards: u32) -> Placement {
    Placement {
        shards,
        owner: Digest::of(b"kv"),
        sharding: 1,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_go_from_writer_to_writer_while_both_write_and_restart() {
    let guest = kv().await;
    let directory = || tempfile::tempdir().unwrap();
    let mut one = Shard::start(0, &guest, directory()).await;
    let two = Shard::start(1, &guest, directory()).await;

    // Without a plan the key has no owner; afterwards it belongs to the only shard.
    let unplaced = one.save("a", "x", None).await;
    assert!(
        matches!(unplaced, Written::NotOwner(Authority::Unknown)),
        "{unplaced:?}"
    );
    let first = Plan::first(ClusterId(1), placement(1), false);
    one.learn(&first, &guest).await;
    let keys = one.fill(3000).await;

    let change = first.then(&placement(2));
    one.learn(&change, &guest).await;
    two.learn(&change, &guest).await;
    let mut going = None;
    for key in &keys {
        if guest.owner(key.as_bytes(), 2).await.unwrap() == 1 {
            going = Some(key.clone());
            break;
        }
    }
    let going = going.expect("about half of them go");

    // Before the step the first shard owns the key. After it no shard may answer until the batch
    // has arrived.
    let written = one.save(&going, "still", None).await;
    assert!(matches!(written, Written::Replied { .. }), "{written:?}");
    let elsewhere = two.save(&going, "early", None).await;
    let at_source = Authority::Elsewhere {
        at: Ordinal(0),
        hand_off: None,
    };
    assert!(
        matches!(&elsewhere, Written::NotOwner(at) if *at == at_source),
        "{elsewhere:?}"
    );
    let stepped = one.writer.change(Change::Step).await.unwrap();
    assert!(
        matches!(stepped, Changed::Stepped(Cursor::Through(_) | Cursor::End)),
        "{stepped:?}"
    );
    let Written::NotOwner(Authority::Elsewhere { at, hand_off }) =
        one.save(&going, "late", None).await
    else {
        panic!("the save must report the new owner");
    };
    assert_eq!(at, Ordinal(1));
    assert!(hand_off.is_some());
    let awaited = two.save(&going, "early", hand_off.clone()).await;
    assert!(
        matches!(awaited, Written::NotOwner(Authority::Awaited { .. })),
        "{awaited:?}"
    );
    assert!(
        one.keys().contains(&going),
        "a listing must include moving partitions"
    );
    assert!(one.give(&two).await);
    let written = two.save(&going, "after", hand_off).await;
    assert!(matches!(written, Written::Replied { .. }), "{written:?}");

    // The remaining batches, with restarts of the source in between.
    let mut steps = 1;
    loop {
        let membership = one
            .writer
            .views()
            .get()
            .unwrap()
            .membership
            .clone()
            .unwrap();
        if membership.shard.is_done().is_some() {
            break;
        }
        one.writer.change(Change::Step).await.unwrap();
        steps += 1;
        if steps % 2 == 0 {
            one = one.restart(&guest).await;
            one.learn(&change, &guest).await;
        }
        while one.give(&two).await {}
    }
    assert!(steps > 1);
    let (here, there) = (one.keys(), two.keys());
    assert!(here.is_disjoint(&there));
    assert_eq!(&here | &there, keys);
    for (shard, held) in [(0, &here), (1, &there)] {
        for key in held {
            assert_eq!(
                guest.owner(key.as_bytes(), 2).await.unwrap(),
                shard,
                "{key}"
            );
        }
    }
    assert!(two.value(&going).ends_with(b"after"));
    println!(
        "{} of {} partitions moved in {steps} steps",
        there.len(),
        keys.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_answers_requests_rests_between_two_steps() {
    let guest = kv().await;
    let one = Shard::start(0, &guest, tempfile::tempdir().unwrap()).await;
    let first = Plan::first(ClusterId(1), placement(1), false);
    one.learn(&first, &guest).await;
    one.fill(3000).await;
    one.learn(&first.then(&placement(2)), &guest).await;
    let step = async || one.writer.change(Change::Step).await.unwrap();

    // As if its receiver had asked for a rest.
    let (mut before, mut rests) = (step().await, 0);
    for _ in 0..100 {
        one.writer.rest_for(Duration::from_millis(100));
        let after = step().await;
        if one.writer.rest().is_some() {
            assert_eq!(after, before, "it rests");
            rests += 1;
        }
        before = after;
    }
    assert!(rests > 0, "no step was tried in a rest");

    while let Some(rest) = one.writer.rest() {
        tokio::time::sleep(rest).await;
    }
    assert_ne!(step().await, before, "it goes on after the rest");
    assert_eq!(one.writer.rest(), None, "an idle shard does not rest");
    one.writer.asked();
    // Longer than any step takes: the rest after it cannot be over when it is looked at.
    one.writer.moved_in(Duration::from_secs(10));
    assert!(one.writer.rest().is_some());
    println!("{rests} of 100 steps were tried in a rest, and not taken");
}

/// A disk whose syncs wait while it is held.
#[derive(Debug)]
struct Slow(File, Arc<(Mutex<bool>, Condvar)>);

impl Disk for Slow {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        let (held, changed) = &*self.1;
        let held = held.lock().unwrap();
        drop(changed.wait_while(held, |held| *held).unwrap());
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

/// While the disk does not answer, relaxed writes are answered and others are not, also one that
/// ran after a relaxed one; readers see neither.
#[tokio::test(flavor = "multi_thread")]
async fn a_relaxed_write_is_answered_before_the_sync_and_nothing_else_is() {
    let guest = kv().await;
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let directory = tempfile::tempdir().unwrap();
    let slow = Arc::clone(&gate);
    let options = Options {
        disk: Arc::new(move |file| Box::new(Slow(file, Arc::clone(&slow)))),
        ..Options::new(directory.path(), 1 << 20)
    };
    let shard = Shard::start_with(options, 0, &guest, directory).await;
    let plan = Plan::first(ClusterId(1), placement(1), false);
    shard.learn(&plan, &guest).await;
    assert!(matches!(
        shard.save("k", "first", None).await,
        Written::Replied { .. }
    ));

    *gate.0.lock().unwrap() = true;
    let answered = shard.send("k", "relaxed", None, true).await;
    assert!(matches!(answered, Written::Replied { .. }), "{answered:?}");
    // Its group now waits for the disk. The next group waits for that.
    let durable = shard.save("other", "durable", None);
    tokio::pin!(durable);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut durable).await;
    assert!(early.is_err(), "{early:?}");
    assert!(
        shard.value("k").ends_with(b"first"),
        "readers see what is durable"
    );
    *gate.0.lock().unwrap() = false;
    gate.1.notify_all();
    assert!(matches!(durable.await, Written::Replied { .. }));
    assert!(shard.value("k").ends_with(b"relaxed"));
}
