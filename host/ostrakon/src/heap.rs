//! Returns freed memory to the system: the C library's allocator keeps it in the arenas of the
//! threads that took it, for as long as anything behind it is in use.

use std::time::Duration;

use ostrakon_observe::metrics::{processor_time, resident_memory};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// The least time between two calls. For a gigabyte a call takes some milliseconds, and threads
/// that allocate meanwhile may wait for it.
const EVERY: Duration = Duration::from_secs(10);
/// Memory is returned if the resident size differs by this many bytes from the size after the
/// last call,
const CHANGED: u64 = 4 << 20;
/// or if the process has used this much processor time since: freed memory then need not show
/// in the resident size. An idle shard takes some minutes to use that much.
const USED: Duration = Duration::from_millis(100);

/// Returns freed memory until the future is dropped.
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

/// The process's activity in memory, as far as the system shows it.
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

    /// Whether memory may have been freed since the last call.
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
    // SAFETY: the declaration is that of malloc.h; the function locks what it touches, and
    // moves nothing that is in use.
    let _whether_any = unsafe { malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use ostrakon_observe::metrics::resident_memory;

    use super::*;

    /// A regression test: memory was returned every ten seconds, whether anything had happened
    /// or not.
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
            // As where the allocator keeps the memory that was taken and freed.
            (after(100, 100), true),
        ] {
            assert_eq!(now.is_news(last), is_news, "{now:?}");
        }
    }

    /// As connections leave the heap: small freed blocks, with others in use between them.
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
