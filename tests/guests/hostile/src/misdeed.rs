//! Everything that a guest can do wrong.

use std::hint::black_box;

use ostrakon_guest::{Request, Response, Secret, Store, StoreError, log};

const MIB: usize = 1 << 20;

/// Does a misdeed. Misdeeds with replies and data need a request, and do nothing in exports without one.
pub(crate) fn commit(misdeed: &str, request: Option<&Request>) -> Response {
    match (misdeed, request) {
        // Calls that fail.
        ("trap", _) => std::process::abort(),
        ("panic", _) => panic!("a panic was asked for"),
        ("loop", _) => loop {
            black_box(());
        },
        // The engine's stack overflows first; with large frames, the guest's own stack in its memory does.
        ("stack", _) => Response::text(recurse::<1>(0).to_string()),
        ("stack-memory", _) => Response::text(recurse::<64>(0).to_string()),
        ("memory", _) => loop {
            leak(16 * MIB);
        },
        ("leak", _) => {
            leak(MIB);
            Response::text("1 MiB")
        }
        // Long, but not endless: about n steps.
        ("spin", Some(request)) => {
            let steps = number(request, 10_000_000);
            (0..steps).for_each(|step| {
                black_box(step);
            });
            Response::text(steps.to_string())
        }

        // The log.
        ("log-flood", _) => {
            (0..10_000).for_each(|_| log::write(log::Level::Info, "flood"));
            Response::text("10000 lines")
        }
        ("log-long", _) => {
            log::write(log::Level::Info, &"x".repeat(MIB));
            Response::text("1 MiB")
        }
        ("log-lines", _) => {
            log::write(log::Level::Info, "one\nfake line\r\u{1b}[31mred\0");
            Response::text("several lines in one")
        }

        // Replies that the contract does not allow.
        ("reply-enormous", Some(request)) => Response::text("x".repeat(number(request, 9 * MIB))),
        ("headers-many", Some(request)) => (0..number(request, 100_000))
            .fold(Response::new(200), |response, _| {
                response.header("x-many", "x")
            }),
        ("header-enormous", Some(request)) => {
            Response::new(200).header("x-long", "x".repeat(number(request, 9 * MIB)))
        }
        ("header-bad-name", Some(_)) => Response::new(200).header("bad name", "x"),
        ("header-empty-name", Some(_)) => Response::new(200).header("", "x"),
        ("header-bad-value", Some(_)) => Response::new(200).header("x-bad", "x\r\nx-smuggled: y"),
        ("header-forbidden", Some(_)) => Response::new(200).header("Content-Length", "1"),
        ("header-chunked", Some(_)) => Response::new(200).header("transfer-encoding", "chunked"),
        ("header-ostrakon", Some(_)) => Response::new(200).header("Ostrakon-Generation", "99"),
        ("status", Some(request)) => {
            Response::new(u16::try_from(number(request, 42)).unwrap_or(u16::MAX))
        }

        // Data. The reply is the store's result.
        ("write", Some(request)) => said(request.store().set("value", "misplaced")),
        ("write-many", Some(request)) => said(request.store().set_many([("value", "misplaced")])),
        ("delete", Some(request)) => said(request.store().delete("value").map(drop)),
        ("delete-many", Some(request)) => said(request.store().delete_many(["value"]).map(drop)),
        ("key-enormous", Some(request)) => {
            said(request.store().set(vec![b'k'; number(request, 1025)], "x"))
        }
        ("key-empty", Some(request)) => said(request.store().set("", "x")),
        ("value-enormous", Some(request)) => said(
            request
                .store()
                .set("value", vec![b'v'; number(request, 9 * MIB + 1)]),
        ),
        ("partition-enormous", Some(request)) => said(
            (0..40).try_for_each(|entry: u8| request.store().set([b'e', entry], vec![b'v'; MIB])),
        ),
        ("batch-enormous", Some(request)) => {
            let values = request
                .store()
                .get_many((0..number(request, 1_000_000)).map(|key| key.to_string()));
            Response::text(values.len().to_string())
        }
        ("scan-enormous", Some(request)) => {
            Response::text(scan(request.store(), number(request, 8)))
        }
        ("write-then-trap", Some(request)) => after_write(request, "trap"),
        ("write-then-panic", Some(request)) => after_write(request, "panic"),
        ("write-then-loop", Some(request)) => after_write(request, "loop"),
        ("write-then-status", Some(request)) => after_write(request, "status"),
        ("write-then-discard", Some(request)) => after_write(request, "nothing").discard(),

        // Imports that the export or the request may not use.
        ("store", Some(request)) => Response::text(format!("{:?}", request.store().get("value"))),
        ("shard", Some(request)) => {
            Response::text(request.shard().partitions().count().to_string())
        }
        ("secret", _) => Response::text(format!("{:?}", Secret::named("canary").is_some())),

        // Disclosure of secrets.
        ("authorization", Some(request)) => {
            Response::text(format!("{} headers", request.header("authorization").len()))
        }
        ("reveal", _) => Response::bytes("application/octet-stream", canary()),
        ("reveal-in-log", _) => {
            log::write(log::Level::Info, &String::from_utf8_lossy(&canary()));
            Response::text("told")
        }
        ("reveal-in-panic", _) => panic!("{}", String::from_utf8_lossy(&canary())),

        (_, Some(request)) => ask_much(misdeed, request),
        (_, None) => Response::text("behaved"),
    }
}

/// Makes the host do much, or hold much, in one call.
fn ask_much(misdeed: &str, request: &Request) -> Response {
    match misdeed {
        // The partition's entry `v` of n bytes, and n reads of it in one call.
        "value" => said(
            request
                .store()
                .set("v", vec![b'v'; number(request, 9 * MIB)]),
        ),
        "get-many" => {
            let values = request
                .store()
                .get_many((0..number(request, 900)).map(|_| "v"));
            Response::text(values.len().to_string())
        }
        // n keys in one call, all of them new.
        "delete-all" => {
            let keys = (0..number(request, 1_000_000)).map(|key| key.to_string());
            said(request.store().delete_many(keys).map(drop))
        }
        "set-all" => {
            let entries = (0..number(request, 500_000)).map(|key| (key.to_string(), ""));
            said(request.store().set_many(entries))
        }
        // Entries that are stored and removed: none is left.
        "set-and-delete" => {
            let store = request.store();
            said((0..number(request, 1_000_000)).try_for_each(|key| {
                let key = format!("{key:01024}");
                store.set(&key, "")?;
                store.delete(&key).map(drop)
            }))
        }
        // Many tiny entries, a few at a time.
        "set-tiny" => {
            let mut keys = 0..number(request, 2_000_000);
            said(loop {
                let some: Vec<_> = keys.by_ref().take(1000).collect();
                if some.is_empty() {
                    break Ok(());
                }
                let set = some.into_iter().map(|key| (key.to_string(), ""));
                if let Err(error) = request.store().set_many(set) {
                    break Err(error);
                }
            })
        }
        // Handles that are never released.
        "handles" => {
            for _ in 0..number(request, 10_000) {
                std::mem::forget(Secret::named("canary-of-all"));
            }
            Response::text("held")
        }
        _ => Response::text("behaved"),
    }
}

fn after_write(request: &Request, misdeed: &str) -> Response {
    match request.store().set("value", "half") {
        Ok(()) => commit(misdeed, Some(request)),
        refused => said(refused),
    }
}

/// The size or number of a misdeed: `n` in the query.
fn number(request: &Request, default: usize) -> usize {
    request
        .query("n")
        .ok()
        .flatten()
        .and_then(|number| number.parse().ok())
        .unwrap_or(default)
}

fn said(result: Result<(), StoreError>) -> Response {
    match result {
        Ok(()) => Response::text("ok"),
        Err(StoreError::ReadOnly) => Response::text("read-only"),
        Err(StoreError::KeySize(max)) => Response::text(format!("key-size {max}")),
        Err(StoreError::ValueSize(max)) => Response::text(format!("value-size {max}")),
        Err(StoreError::PartitionFull(max)) => Response::text(format!("partition-full {max}")),
    }
}

/// Stores entries of 1 MiB, if that is allowed, and reads all of them at once.
fn scan(store: Store, entries: usize) -> String {
    for entry in 0..entries {
        if store
            .set(format!("entry {entry}"), vec![b'v'; MIB - 1])
            .is_err()
        {
            break;
        }
    }
    let scan = store.scan().page_size(u32::MAX);
    let (count, bytes) = scan.fold((0, 0), |(count, bytes), entry| {
        (count + 1, bytes + entry.value.len())
    });
    format!("{count} entries, {bytes} bytes")
}

fn canary() -> Vec<u8> {
    Secret::named("canary")
        .map(|secret| secret.reveal())
        .unwrap_or_default()
}

/// Allocates memory without releasing it, and touches it.
fn leak(bytes: usize) {
    black_box(Vec::leak(vec![1_u8; bytes]));
}

/// Recurses until the stack overflows. Each call's frame is needed after the inner call.
#[expect(
    unconditional_recursion,
    reason = "the misdeed is that this never returns"
)]
fn recurse<const N: usize>(depth: usize) -> usize {
    let frame = black_box([depth; N]);
    let below = recurse::<N>(depth + 1);
    black_box(frame)[depth % N] + below
}
