use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ostrakon_observe::metrics::{Export, Metrics};
use ostrakon_settings::settings::Settings;
use ostrakon_store::{Group, Options, Store, unbounded};
use ostrakon_volumes::secrets::Secrets;
use ostrakon_volumes::volume::Files;
use wasmtime::Trap;
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::clocks::WasiClocksView as _;
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock::Host as _;
use wasmtime_wasi::p2::bindings::random::insecure::Host as _;
use wasmtime_wasi::p2::bindings::random::random::Host as _;

use super::*;
use crate::context::{Environment, Identity, MAX_HANDLES, Read};
use crate::failure::Failure;
use crate::grace::Time;
use crate::log::GuestLog;

const MIB: usize = 1 << 20;

/// A store whose partition `p` has an entry `large` of 9 MiB, and this many small entries, both
/// in separate partitions and in `p`.
struct Stored {
    store: Store,
    _directory: tempfile::TempDir,
}

const SMALL: usize = 20_000;

impl Stored {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let mut store = Store::open(Options::new(directory.path(), 64 * MIB)).expect("it opens");
        let snapshot = Arc::clone(store.snapshot().expect("it is open"));
        let limits = (&Settings::default().store).into();
        let mut transaction = Group::new(snapshot).begin(b"p".to_vec(), limits);
        transaction
            .set(b"large".to_vec(), vec![b'v'; 9 * MIB])
            .expect("it is set");
        let entries = (0..SMALL).map(|key| (small(key), vec![]));
        transaction
            .set_many(entries.collect(), usize::MAX, &mut unbounded)
            .expect("they are set");
        let mut group = transaction.commit();
        // Too few entries for the partition's size to be stored.
        let mut transaction = group.begin(b"few".to_vec(), limits);
        for key in 0..20 {
            transaction
                .set(small(key), vec![0; 8 << 10])
                .expect("it is set");
        }
        group = transaction.commit();
        for key in 0..SMALL {
            let mut transaction = group.begin(small(key), limits);
            transaction.set(b"k".to_vec(), vec![]).expect("it is set");
            group = transaction.commit();
        }
        store.commit(group).expect("it is stored");
        Self {
            store,
            _directory: directory,
        }
    }

    fn partition(&self) -> Data {
        self.read(b"p", false)
    }

    fn read(&self, partition: &[u8], is_elsewhere: bool) -> Data {
        let partition = partition.to_vec();
        let read = Read {
            partition,
            is_elsewhere,
        };
        Data::Partition(read, self.snapshot())
    }

    fn transaction(&self) -> Data {
        self.transaction_of(b"p")
    }

    fn transaction_of(&self, partition: &[u8]) -> Data {
        let limits = (&Settings::default().store).into();
        let group = Group::new(self.snapshot());
        Data::Transaction(Box::new(group.begin(partition.to_vec(), limits)))
    }

    fn shard(&self) -> Data {
        Data::Shard(self.snapshot())
    }

    fn migration(&mut self) -> Data {
        let limits = (&Settings::default().store).into();
        let migration = self.store.begin_migration(limits).expect("it begins");
        Data::Migration(Box::new(migration))
    }

    fn snapshot(&self) -> Arc<ostrakon_store::Snapshot> {
        Arc::clone(self.store.snapshot().expect("it is open"))
    }
}

fn small(key: usize) -> Vec<u8> {
    format!("small {key:06}").into_bytes()
}

fn context(data: Data, time: Time) -> Context {
    let metrics = Arc::new(Metrics::new("test"));
    let secret = BTreeMap::from([("key".to_owned(), Bytes::from_static(b"1"))]);
    let environment = Environment {
        settings: Arc::default(),
        identity: Identity {
            ordinal: 0,
            shards: 1,
        },
        files: Arc::default(),
        secrets: Secrets::new(Ok(Files::new(secret))),
        metrics: Arc::clone(&metrics),
    };
    let log = Arc::new(GuestLog::new("test".to_owned(), 1, metrics));
    let mut context = Context::new(Arc::new(environment), log);
    context.call.export = Some(Export::Handle);
    context.call.data = data;
    context.call.time = time;
    context
}

fn failure<T: std::fmt::Debug>(result: Result<T>) -> Failure {
    Failure::of(result.expect_err("it fails"), false, &Settings::default())
}

/// An import, called as a guest would call it, with its result dropped.
type Import = (&'static str, fn(&mut Context) -> Result<()>);

const IN_A_PARTITION: &[Import] = &[
    ("get-many", |context| {
        store::Host::get_many(context, (0..SMALL).map(small).collect()).map(drop)
    }),
    ("scan", |context| scan(context, false)),
    ("scan in reverse", |context| scan(context, true)),
];

const IN_A_WRITE: &[Import] = &[
    ("set-many", |context| {
        let entries = (0..SMALL).map(|key| store::Entry {
            key: small(key),
            value: vec![],
        });
        store::Host::set_many(context, entries.collect()).map(drop)
    }),
    ("delete-many", |context| {
        store::Host::delete_many(context, (0..SMALL).map(small).collect()).map(drop)
    }),
];

const IN_A_SHARD: &[Import] = &[
    ("shard.partitions", |context| {
        shard::Host::partitions(context, None, None, u32::MAX).map(drop)
    }),
    ("shard.scan", |context| {
        shard::Host::scan(context, None, u32::MAX).map(drop)
    }),
];

const IN_A_MIGRATION: &[Import] = &[
    ("shard.set-many", |context| {
        let entries = (0..SMALL).map(|key| shard::Entry {
            partition: small(key),
            key: b"k".to_vec(),
            value: vec![],
        });
        shard::Host::set_many(context, entries.collect()).map(drop)
    }),
    ("shard.delete-many", |context| {
        let positions = (0..SMALL).map(|key| shard::Position {
            partition: small(key),
            key: b"k".to_vec(),
        });
        shard::Host::delete_many(context, positions.collect()).map(drop)
    }),
];

fn scan(context: &mut Context, reverse: bool) -> Result<()> {
    // The large entry is left out, because it would fill a page by itself.
    let range = store::Range {
        start: Some(b"small".to_vec()),
        end: None,
        reverse,
    };
    store::Host::scan(context, range, u32::MAX).map(drop)
}

/// Regression: the deadline was checked only in the guest's own code, so a call of the host could
/// take any time.
#[test]
fn an_import_that_goes_over_much_ends_with_the_deadline() {
    let mut stored = Stored::new();
    let mut check = |data: fn(&mut Stored) -> Data, imports: &[Import]| {
        for (name, import) in imports {
            let mut context = context(data(&mut stored), Time::until(None));
            import(&mut context).unwrap_or_else(|error| panic!("{name}: {error}"));
            context.call.time = Time::used_up();
            let error = import(&mut context).expect_err(name);
            let trap = error.downcast_ref::<Trap>();
            assert_eq!(trap, Some(&Trap::Interrupt), "{name}: {error}");
        }
    };
    check(|stored| stored.partition(), IN_A_PARTITION);
    check(|stored| stored.transaction(), IN_A_PARTITION);
    check(|stored| stored.transaction(), IN_A_WRITE);
    check(|stored| stored.shard(), IN_A_SHARD);
    check(Stored::migration, IN_A_SHARD);
    check(Stored::migration, IN_A_MIGRATION);
}

/// Regression: a write determines its partition's size, and a migration looks up the values that it
/// replaces. Both could read much without checking the clock.
#[test]
fn single_writes_and_lookups_that_read_much_end_with_the_deadline() {
    type Call = fn(&mut Context) -> Result<()>;
    let set: Call = |context| store::Host::set(context, small(0), vec![]).map(drop);
    let delete: Call = |context| store::Host::delete(context, b"none".to_vec()).map(drop);
    let get: Call = |context| shard::Host::get(context, b"p".to_vec(), b"large".to_vec()).map(drop);
    let set_one: Call = |context| {
        let entry = shard::Entry {
            partition: b"few".to_vec(),
            key: small(0),
            value: vec![],
        };
        shard::Host::set_many(context, vec![entry]).map(drop)
    };
    let delete_one: Call = |context| {
        let position = shard::Position {
            partition: b"few".to_vec(),
            key: small(0),
        };
        shard::Host::delete_many(context, vec![position]).map(drop)
    };
    let mut stored = Stored::new();
    let write: fn(&mut Stored) -> Data = |stored| stored.transaction_of(b"few");
    for (name, data, call) in [
        ("store.set", write, set),
        ("store.delete", write, delete),
        ("shard.get", Stored::migration, get),
        ("shard.set-many", Stored::migration, set_one),
        ("shard.delete-many", Stored::migration, delete_one),
    ] {
        let mut context = context(data(&mut stored), Time::used_up());
        let result = call(&mut context);
        let error = result.expect_err(name);
        let trap = error.downcast_ref::<Trap>();
        assert_eq!(trap, Some(&Trap::Interrupt), "{name}: {error}");
        context.call.time = Time::until(None);
        context.call.data = Data::None;
        context.call.data = data(&mut stored);
        call(&mut context).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// Regression: a write without effect scanned its partition each time.
#[test]
fn the_size_of_a_partition_is_looked_for_once() {
    let stored = Stored::new();
    let Data::Transaction(mut transaction) = stored.transaction_of(b"few") else {
        panic!("the data must be a transaction");
    };
    let looked = |transaction: &mut ostrakon_store::Transaction| {
        let mut looked = 0;
        let mut count = |_| {
            looked += 1;
            true
        };
        let deleted = transaction.delete_if(b"none".to_vec(), &mut count);
        assert!(!deleted.expect("it reads"));
        looked
    };
    assert_eq!(
        [looked(&mut transaction), looked(&mut transaction)],
        [21, 1]
    );
}

/// Regression: if each look-up had to read a page of 9 MiB that is not in memory, a thousand
/// look-ups took over a second between two checks of the clock.
#[test]
fn the_clock_is_looked_at_after_a_few_lookups() {
    let stored = Stored::new();
    let mut context = context(stored.partition(), Time::used_up());
    let mut get_many = |count| store::Host::get_many(&mut context, vec![b"none".to_vec(); count]);
    assert_eq!(get_many(15).expect("they are few"), vec![None; 15]);
    assert!(matches!(failure(get_many(16)), Failure::Deadline));
}

/// A scan without results costs as much as one with results.
#[test]
fn a_scan_over_what_the_request_has_deleted_ends_with_the_deadline() {
    let stored = Stored::new();
    let mut context = context(stored.transaction(), Time::until(None));
    let (_, delete_many) = IN_A_WRITE[1];
    delete_many(&mut context).expect("they are deleted");
    scan(&mut context, false).expect("it finds nothing");
    context.call.time = Time::used_up();
    assert!(matches!(
        failure(scan(&mut context, false)),
        Failure::Deadline
    ));
}

#[test]
fn no_more_is_collected_than_a_call_may_give() {
    let stored = Stored::new();
    for data in [stored.partition(), stored.transaction()] {
        let mut context = context(data, Time::until(None));
        let mut get_many =
            |key: &[u8], count| store::Host::get_many(&mut context, vec![key.to_vec(); count]);
        assert_eq!(get_many(b"large", 1).expect("the number fits").len(), 1);
        let told = failure(get_many(b"large", 900)).to_string();
        assert!(told.contains("`store.get-many` has more than"), "{told}");
        // Even reporting missing entries takes memory.
        assert_eq!(
            get_many(b"none", 290_000).expect("the number fits").len(),
            290_000
        );
        assert!(matches!(
            failure(get_many(b"none", 300_000)),
            Failure::Memory(_)
        ));
    }
}

#[test]
fn what_a_request_changes_is_bounded_in_memory() {
    let stored = Stored::new();
    let mut context = context(stored.transaction(), Time::until(None));
    let mut next = 0_u32;
    let ended = loop {
        let entries = (0..10_000).map(|_| {
            next += 1;
            store::Entry {
                key: next.to_le_bytes().to_vec(),
                value: vec![],
            }
        });
        match store::Host::set_many(&mut context, entries.collect()) {
            Ok(set) => set.expect("the partition has room"),
            Err(error) => break error,
        }
    };
    assert!(matches!(
        Failure::of(ended, false, &Settings::default()),
        Failure::Memory(_)
    ));
    println!("{next} tiny entries are too many");
    assert!((500_000..2_000_000).contains(&next), "{next}");
}

#[tokio::test]
async fn handles_random_bytes_and_waits_are_bounded() {
    let mut context = context(Data::None, Time::until(None));
    for _ in 0..MAX_HANDLES {
        let held = secrets::Host::get(&mut context, "key".to_owned());
        assert!(held.expect("there is room").is_some());
    }
    let full = failure(secrets::Host::get(&mut context, "key".to_owned()));
    assert!(matches!(full, Failure::Memory(_)), "{full}");
    assert!(full.to_string().contains("1024 handles"), "{full}");
    let full = context.clocks().subscribe_duration(1);
    assert!(matches!(failure(full), Failure::Memory(_)));

    for length in [64 << 10, (64 << 10) + 1, u64::MAX] {
        let fits = length == 64 << 10;
        let random = context.ctx().ctx.random();
        assert_eq!(random.get_random_bytes(length).is_ok(), fits);
        assert_eq!(random.get_insecure_random_bytes(length).is_ok(), fits);
    }
}

fn request() -> Arc<ostrakon_contract::contract::Request> {
    Arc::new(ostrakon_contract::contract::Request {
        method: http::Method::GET,
        path: "/".to_owned(),
        headers: http::HeaderMap::new(),
        body: Bytes::new(),
        trace: ostrakon_observe::trace::Trace::default(),
        client: ostrakon_contract::client::Client::default(),
        kept: ostrakon_contract::contract::Kept::default(),
    })
}

/// Runs an import in a call of its own.
fn in_call<T>(
    context: &mut Context,
    (export, data): (Export, Data),
    about: &Arc<ostrakon_contract::contract::Request>,
    import: impl FnOnce(&mut Context) -> Result<T>,
) -> Result<T> {
    context.call = Call::none(1);
    context.call.export = Some(export);
    context.call.data = data;
    context.call.request = Some(Arc::clone(about));
    import(context)
}

#[test]
fn random_bytes_are_the_same_when_a_request_is_run_again_and_nowhere_else() {
    let stored = Stored::new();
    let mut context = context(Data::None, Time::default());
    let (first, other) = (request(), request());
    let mut bytes = |call, about: &_, length| {
        let random = |context: &mut Context| request::Host::random(context, length);
        in_call(&mut context, call, about, random)
    };
    let of_route = bytes((Export::Route, Data::None), &first, 40).expect("it may");
    let of_handle = bytes((Export::Handle, stored.partition()), &first, 40).expect("it may");
    let of_gather = bytes((Export::Gather, Data::None), &first, 40).expect("it may");
    let of_other = bytes((Export::Route, Data::None), &other, 40).expect("it may");
    let all = [&of_route, &of_handle, &of_gather, &of_other];
    for (at, one) in all.iter().enumerate() {
        assert!(
            all[..at].iter().all(|before| before[..8] != one[..8]),
            "{at}"
        );
    }
    // Run again: also by another shard, which was told the seed.
    let there = Arc::new(ostrakon_contract::contract::Request {
        kept: ostrakon_contract::contract::Kept::of(first.kept.chosen_seed()),
        ..(*request()).clone()
    });
    for again in [&first, &there] {
        let route = bytes((Export::Route, Data::None), again, 40);
        assert_eq!(route.expect("it may"), of_route);
        let handle = bytes((Export::Handle, stored.partition()), again, 40);
        assert_eq!(handle.expect("it may"), of_handle);
    }
    let most = bytes((Export::Route, Data::None), &first, MAX_RANDOM).expect("it may");
    assert!(most.starts_with(&of_route) && most.len() == 64 << 10);
    let error = bytes((Export::Route, Data::None), &first, MAX_RANDOM + 1);
    let error = error.expect_err("it is too much").to_string();
    assert!(error.contains("more than 65536 bytes"), "{error}");
    let error = bytes((Export::Handle, Data::None), &first, u32::MAX);
    error.expect_err("it is too much");
}

#[test]
fn each_call_of_random_gives_other_bytes_and_the_same_when_it_is_run_again() {
    let mut context = context(Data::None, Time::default());
    let about = request();
    let mut parts = || {
        in_call(
            &mut context,
            (Export::Route, Data::None),
            &about,
            |context| {
                let lengths = [16, 0, 16, 13].into_iter();
                let parts = lengths.map(|length| request::Host::random(context, length));
                parts.collect::<Result<Vec<_>>>()
            },
        )
    };
    let first = parts().expect("it may");
    assert_eq!(
        first.iter().map(Vec::len).collect::<Vec<_>>(),
        [16, 0, 16, 13]
    );
    assert!(first[0] != first[2] && first[2][..13] != first[3]);
    assert_eq!(parts().expect("it may"), first);
}

#[test]
fn a_request_has_one_instant_and_a_later_write_none_before() {
    let mut stored = Stored::new();
    let mut context = context(Data::None, Time::default());
    let now =
        |context: &mut Context| Ok((request::Host::now(context)?, request::Host::now(context)?));
    let read = request();
    let mut time = |call, about: &_| in_call(&mut context, call, about, now);
    let (first, again) = time((Export::Handle, stored.partition()), &read).expect("it may");
    assert_eq!(first, again);
    let (write, again) = time((Export::Handle, stored.transaction()), &request()).expect("it may");
    assert_eq!(write, again);
    let (later, _) = time((Export::Handle, stored.transaction()), &request()).expect("it may");
    assert!(first <= write && write <= later);
    // Run again, the read has the instant that it had, and so has what joins its parts.
    for call in [
        (Export::Handle, stored.shard()),
        (Export::Gather, Data::None),
    ] {
        assert_eq!(time(call, &read).expect("it may"), (first, first));
    }
    let (migrated, _) = time((Export::Migrate, stored.migration()), &request()).expect("it may");
    assert!(migrated >= later);
}

#[test]
fn a_call_is_told_its_partition_wherever_that_is() {
    let stored = Stored::new();
    let mut context = context(Data::None, Time::default());
    let about = request();
    let mut partition = |data| {
        in_call(
            &mut context,
            (Export::Handle, data),
            &about,
            request::Host::partition,
        )
    };
    assert_eq!(
        partition(stored.partition()).expect("it may"),
        Some(b"p".to_vec())
    );
    let write = partition(stored.transaction_of(b"few"));
    assert_eq!(write.expect("it may"), Some(b"few".to_vec()));
    assert_eq!(partition(stored.shard()).expect("it may"), None);
    let read = (Export::Handle, stored.read(b"p", true));
    let found = in_call(&mut context, read, &about, |context| {
        let value = store::Host::get(context, small(0))?;
        Ok((request::Host::partition(context)?, value))
    });
    // The partition has such an entry, but nothing is found of one that is elsewhere.
    assert_eq!(found.expect("it may"), (Some(b"p".to_vec()), None));
}

#[test]
fn what_concerns_a_request_traps_where_the_contract_does_not_offer_it() {
    type Asked = (
        &'static str,
        fn(&mut Context) -> Result<()>,
        &'static [Export],
    );
    let stored = Stored::new();
    let asked: [Asked; 7] = [
        (
            "header-values",
            |context| request::Host::header_values(context, String::new()).map(drop),
            &[Export::Route, Export::Handle, Export::Gather],
        ),
        (
            "headers",
            |context| request::Host::headers(context).map(drop),
            &[Export::Route, Export::Handle, Export::Gather],
        ),
        (
            "random",
            |context| request::Host::random(context, 1).map(drop),
            &[Export::Route, Export::Handle, Export::Gather],
        ),
        (
            "now",
            |context| request::Host::now(context).map(drop),
            &[Export::Handle, Export::Gather, Export::Migrate],
        ),
        (
            "partition",
            |context| request::Host::partition(context).map(drop),
            &[Export::Handle],
        ),
        ("relax", request::Host::relax, &[Export::Route]),
        (
            "part-generation",
            |context| request::Host::part_generation(context, 0).map(drop),
            &[Export::Gather],
        ),
    ];
    let of_a_request = [Export::Route, Export::Handle, Export::Gather];
    let exports = [
        Export::Describe,
        Export::Check,
        Export::Owner,
        Export::Route,
        Export::Handle,
        Export::Gather,
        Export::Migrate,
    ];
    for (name, import, offered) in asked {
        for export in exports {
            let mut context = context(Data::None, Time::default());
            context.call.export = Some(export);
            context.call.data = match export {
                Export::Handle => stored.partition(),
                Export::Gather => Data::Parts(BTreeMap::new()),
                _ => Data::None,
            };
            context.call.request = of_a_request.contains(&export).then(request);
            match import(&mut context) {
                Ok(()) => assert!(offered.contains(&export), "{name} in {export:?}"),
                Err(error) => {
                    assert!(!offered.contains(&export), "{name} in {export:?}: {error}");
                    let error = error.to_string();
                    assert!(
                        error.contains(&format!("`request.{name}` was called in")),
                        "{error}"
                    );
                }
            }
        }
    }
}
