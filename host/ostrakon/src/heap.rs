//! Memory that was freed goes back to the system: the C library's allocator keeps it in the arenas of
//! the threads that took it, for as long as anything behind it is in use.

use std::time::Duration;

use ostrakon_observe::metrics::{processor_time, resident_memory};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// How often it is done at most. Of a gigabyte it takes some milliseconds, and threads that allocate
/// meanwhile may wait for it.
const EVERY: Duration = Duration::from_secs(10);
/// It is done where the memory that is resident differs by so many bytes from what it was after the last
/// time,
const CHANGED: u64 = 4 << 20;
/// or where the process has used so much processor time since: what it frees then need not show. An idle
/// shard uses that in some minutes.
const USED: Duration = Duration::from_millis(100);

/// Gives back what is freed, until it is dropped.
pub(crate) async fn give_back() {
    let mut last = Activity::default();
    loop {
        sleep(EVERY).await;
        if !Activity::now().is_news(last) {
            continue;
        }
        if spawn_blocking(trim).await.is_err() {
            // The runtime ends.
            return;
        }
        last = Activity::now();
    }
}

/// What a process has done to its memory, as far as can be seen from outside.
#[derive(Clone, Copy, Debug, Default)]
struct Activity {
    resident: u64,
    used: Duration,
}

impl Activity {
    fn now() -> Self {
        Self {
            resident: resident_memory().unwrap_or_default(),
            used: processor_time(),
        }
    }

    /// Whether memory may have been freed since the last time.
    fn is_news(self, last: Self) -> bool {
        self.resident.abs_diff(last.resident) >= CHANGED
            || self.used.saturating_sub(last.used) >= USED
    }
}

#[cfg(target_env = "gnu")]
#[expect(
    unsafe_code,
    reason = "a function of the C library that takes a number and may be called at any time"
)]
fn trim() {
    unsafe extern "C" {
        fn malloc_trim(kept: usize) -> i32;
    }
    // SAFETY: it is declared as in malloc.h, locks what it touches, and moves nothing that is in use.
    let _whether_any = unsafe { malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use ostrakon_observe::metrics::resident_memory;

    use super::*;

    /// It was done every ten seconds, whether anything had happened or not.
    #[test]
    fn memory_is_given_back_only_where_something_was_done() {
        let last = Activity {
            resident: 100 << 20,
            used: Duration::from_secs(7),
        };
        let after = |resident: u64, millis| Activity {
            resident: resident << 20,
            used: last.used + Duration::from_millis(millis),
        };
        for (now, is_news) in [
            (after(100, 0), false),
            (after(101, 50), false),
            (after(104, 0), true),
            (after(96, 0), true),
            // As where what was taken and freed is kept by the allocator.
            (after(100, 100), true),
        ] {
            assert_eq!(now.is_news(last), is_news, "{now:?}");
        }
    }

    /// As connections leave it: small blocks that were freed, with others in use between them.
    #[tokio::test]
    async fn what_was_freed_among_what_is_in_use_is_given_back() {
        const BLOCK: usize = 16 * 1024;
        let blocks: Vec<Vec<u8>> = (0..8_192).map(|_| vec![1; BLOCK]).collect();
        let held: Vec<_> = blocks
            .into_iter()
            .enumerate()
            .filter_map(|(at, block)| (at % 16 == 0).then_some(block))
            .collect();
        let before = resident_memory().unwrap();
        spawn_blocking(trim).await.unwrap();
        let after = resident_memory().unwrap();
        println!("{} of {} MiB are left", after >> 20, before >> 20);
        assert!(after + 64 * 1024 * 1024 < before, "{after} of {before}");
        drop(held);
    }
}
