//! Floods of h2 frames, each of which costs its client almost nothing. Other clients are served
//! meanwhile, and the host's memory does not grow.

use std::thread;
use std::time::{Duration, Instant};

use ostrakon_tests::h2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, Raw,
    SETTINGS, WINDOW_UPDATE, frame, large,
};

use super::memory::{Attack, check};

/// Number of connections that flood at once, and for how long. A connection that the host closes is
/// opened again.
const CONNECTIONS: usize = 8;
const TIME: Duration = Duration::from_secs(4);
/// Frames per batch.
const BATCH: u32 = 256;

/// What a flood has sent so far.
#[derive(Default)]
struct Flood {
    frames: u64,
    connections: u64,
}

/// Floods with batches of frames; `next` makes the batch whose first frame has this number on its
/// connection. The client reads replies if `reads` is set.
fn flood(name: &str, reads: bool, next: impl Fn(u32) -> Vec<u8> + Sync) {
    let attack = Attack {
        connections: CONNECTIONS,
        ..Attack::new(name)
    };
    check(&attack, |host| {
        let began = Instant::now();
        let one = || {
            let mut sent = Flood::default();
            while began.elapsed() < TIME {
                let Ok(mut raw) = Raw::connect(host.address) else {
                    continue;
                };
                sent.connections += 1;
                let mut number = 0;
                while began.elapsed() < TIME && raw.send(&next(number)).is_ok() {
                    number += BATCH;
                    sent.frames += u64::from(BATCH);
                    if reads && raw.take().is_err() {
                        break;
                    }
                }
            }
            sent
        };
        let all = thread::scope(|scope| {
            let threads: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(one)).collect();
            let ended = threads
                .into_iter()
                .map(|one| one.join().expect("no thread panics"));
            ended.fold(Flood::default(), |all, one| Flood {
                frames: all.frames + one.frames,
                connections: all.connections + one.connections,
            })
        });
        println!(
            "{name}: {} frames and more on {} connections in {:?}",
            all.frames,
            all.connections,
            began.elapsed()
        );
    });
}

fn batch(number: u32, one: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (number..number + BATCH).flat_map(one).collect()
}

#[test]
fn a_header_block_that_goes_on_for_ever_ends_its_connection() {
    for (name, part) in [
        ("CONTINUATION frames of 1 KiB", vec![0x82; 1024]),
        ("empty CONTINUATION frames", Vec::new()),
    ] {
        flood(name, false, |number| {
            batch(number, |number| {
                let kind = if number == 0 { HEADERS } else { CONTINUATION };
                frame(kind, 0, 1, &part)
            })
        });
    }
}

#[test]
fn requests_that_are_reset_at_once_hold_nobody_up() {
    let block = large(10);
    for reads in [false, true] {
        flood("requests that are reset at once", reads, |number| {
            batch(number, |number| {
                let stream = 2 * number + 1;
                let request = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
                [request, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
            })
        });
    }
}

#[test]
fn requests_whose_answers_nobody_reads_hold_nobody_up() {
    let block = large(10);
    flood("requests on new streams, no answer read", false, |number| {
        batch(number, |number| {
            frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &block)
        })
    });
}

#[test]
fn frames_that_say_nothing_hold_nobody_up() {
    let cases: &[(&str, u8, &[u8])] = &[
        ("PING frames", PING, &[7; 8]),
        ("SETTINGS frames", SETTINGS, &[0, 4, 0, 1, 0, 0]),
        ("WINDOW_UPDATE frames", WINDOW_UPDATE, &[0, 0, 0, 1]),
    ];
    for (name, kind, payload) in cases {
        for reads in [false, true] {
            let answers = if reads { "read" } else { "not read" };
            flood(&format!("{name}, answers {answers}"), reads, |number| {
                batch(number, |_| frame(*kind, 0, 0, payload))
            });
        }
    }
    flood("PRIORITY frames on new streams", false, |number| {
        batch(number, |number| {
            frame(PRIORITY, 0, 2 * number + 1, &[0, 0, 0, 0, 1])
        })
    });
    let block = large(10);
    flood("empty DATA frames", false, |number| {
        let begin = if number == 0 {
            frame(HEADERS, END_HEADERS, 1, &block)
        } else {
            Vec::new()
        };
        [begin, batch(number, |_| frame(DATA, 0, 1, b""))].concat()
    });
}
